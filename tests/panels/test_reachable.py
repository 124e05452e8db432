"""Whatever hands do to a panel's controls, the setting that they reach is one that the core takes."""

import dataclasses

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import fmlab as fm
from fmlab.populations.collection import Collection
from fmlab.setup import prepare
from lab.lessons import drifting
from lab.panel.board import BUTTONS, GROUPS, check
from lab.panel.panel import Panel
from lab.panel.setting import METHODS, PRESETS, SERVERS, TASKS, Setting
from lab.panel.views import Viewpoint

EVERY = [field for fields in GROUPS.values() for field in fields]
FIELDS = [f for f in EVERY if f != "methods"]
# Clients of the reader's own, of whom each has two examples to adapt on.
OWN = fm.Datasets([TensorDataset(torch.rand(5, 2), torch.arange(5) % 2) for _ in range(6)])
# Which control, and where on it: 0 and 1 are its ends, or the first and the last of a menu.
PLACES = st.sampled_from((0.0, 1.0)) | st.floats(0, 1)
MOVES = st.lists(
    st.tuples(st.sampled_from(FIELDS), PLACES)
    | st.tuples(st.sampled_from(["typed " + f for f in FIELDS]), PLACES)
    | st.tuples(st.sampled_from([f"switch {m}" for m in METHODS]), st.booleans())
    | st.tuples(st.just("recorded"), st.booleans())
    | st.tuples(st.just("preset"), st.sampled_from(list(PRESETS)))
    | st.tuples(st.just("reset"), st.none()),
    min_size=1,
    max_size=12,
)


def place(at, low, high):
    return low + at * (high - low)


def move(panel, what, at):
    """As the page would: a slider's value, a box's, a menu's, each only as far as the page lets a hand go."""
    board = panel.board
    field = what.removeprefix("typed ")
    if field in board.boxes:
        menu = board.boxes[field]
        menu.index = round(place(at, 0, len(menu.options) - 1))
    elif field in board.controls:
        control = board.controls[field]
        if control.slider.disabled:
            return
        low, high = control.slider.min, control.slider.max
        if field != what:  # numbers beyond both ends, which are refused in words and change nothing
            value = place(at, control.low - 2, control.high + 2)
            control.box.value = round(value) if control.hyper.whole else value
        elif control.hyper.whole:
            control.slider.value = round(place(at, low, high))
        else:
            value = round(place(at, low, high) / control.slider.step) * control.slider.step
            control.slider.value = min(max(10**value, control.low), control.high) if control.hyper.log else value
    elif what.startswith("switch "):
        board.switches[what.removeprefix("switch ")].children[1].value = at
    elif what == "recorded":
        board.controls["inner_lr"].recorded.value = at
    elif what == "preset":
        panel.buttons.presets.value = at
    else:
        panel._reset()


def refusal(setting, known={}):  # noqa: B006, a memory: a study of the same setting is refused for the same reason
    """What the core says against it before any training, with few clients; None where it takes it."""
    few = dataclasses.replace(setting, seeds=1, rounds=10)
    if few not in known:
        methods, (population, arguments), options = few.call()
        algorithms = {name: cls(**given) for name, (cls, given) in methods.items()}
        try:
            clients = population(**arguments)
            if not isinstance(clients, Collection):  # those have a fixed number
                clients = dataclasses.replace(clients, n_clients=100, n_unseen=2, n_validation=2)
            setup = prepare(algorithms, clients, **options)
            _ = setup.unseen, setup.validation, setup.participating
            known[few] = None
        except Exception as error:
            known[few] = repr(error)
    return known[few]


@settings(deadline=None, max_examples=16)
@given(first=st.sampled_from([*sorted(TASKS), OWN]), moves=MOVES)
@example(first="Sines", moves=[("shots", 1.0), ("task", 1.0), ("shots", 1.0), ("task", 0.5), ("shots", 1.0)])
@example(first="Glyphs", moves=[("shots", 1.0), ("preset", "handwritten digits"), ("shots", 1.0), ("reset", None)])
@example(first=OWN, moves=[("preset", "three examples a client"), ("shots", 1.0), ("task", 0.0), ("reset", None)])
@example(first="Digits", moves=[(f"switch {m}", True) for m in METHODS] + [("inner_steps", 1.0), ("server", 1.0)])
def test_no_move_reaches_a_setting_that_is_refused(first, moves):
    class Untrained(Panel):
        def _compute(self, setting, *_):
            said = refusal(setting)
            assert said is None, (said, setting)

    options = {"setting": Setting().on(first), "buttons": tuple(BUTTONS), "synchronous": True}
    panel = Untrained("untrained", EVERY, ("learning",), **options)
    try:
        for what, at in moves:
            before = panel.setting
            last = what.startswith("switch ") and not at and panel.setting.methods == (what.removeprefix("switch "),)
            move(panel, what, at)
            assert check(panel.setting, panel._viewpoint) == panel.setting
            for field, control in panel.board.controls.items():
                assert control.low <= control.slider.value <= control.high or control.hyper.log
                assert control.value == control.check(control.value), field
            assert panel.setting.methods
            assert panel.setting == before if last else panel._error.value == ""
    finally:
        panel.close()


@settings(deadline=None, max_examples=8)
@given(st.lists(st.tuples(st.sampled_from([f.name for f in dataclasses.fields(drifting.Setting)]), PLACES), max_size=5))
def test_no_move_of_the_drift_panel_is_refused(moves):
    panel = drifting.drift(synchronous=True)
    try:
        for field, at in moves:
            control = panel._controls[field]
            value = place(at, control.slider.min, control.slider.max)
            control.slider.value = round(value) if control.hyper.whole else 10**value if control.hyper.log else value
            assert panel._error.value == ""
            assert panel.sentence
    finally:
        panel.close()


def test_each_server_is_offered_by_its_name():
    """The menus of this test are the panel's, by position; every position is looked at."""
    assert set(SERVERS) >= {"Adam for all", "each its own"}
    assert Viewpoint() == Viewpoint(**dataclasses.asdict(Viewpoint()))
