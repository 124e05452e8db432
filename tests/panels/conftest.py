"""Small panels without a browser, and the hands that move them."""

import pytest

from lab.panel import advantage
from lab.panel.board import BUTTONS, GROUPS
from lab.panel.panel import Panel
from lab.panel.session import STUDIES
from lab.panel.setting import Setting

SMALL = {"rounds": 10, "seeds": 1, "clients_per_round": 3, "inner_steps": 1}
EVERY = [field for fields in GROUPS.values() for field in fields]


@pytest.fixture(autouse=True)
def nothing_remembered():
    STUDIES.clear()
    yield
    STUDIES.clear()


@pytest.fixture
def small_map(monkeypatch):
    monkeypatch.setattr(advantage, "H", (0.0, 0.5))
    monkeypatch.setattr(advantage, "K", (1, 2))


@pytest.fixture
def make():
    """Panels with every control and one view, closed at the end."""
    made = []

    def panel(views=("learning",), controls=EVERY, synchronous=True, **setting):
        first = Setting(**(SMALL | setting))
        how = {"setting": first, "buttons": tuple(BUTTONS), "synchronous": synchronous}
        made.append(Panel("test", controls, views, **how))
        return made[-1]

    yield panel
    for panel in made:
        panel.close()


def _slider(panel, field):
    return panel.board.controls[field].slider


def _press(panel, name):
    css = "fmlab-" + name.replace(" ", "-")
    (button,) = (w for w in _walk(panel) if css in getattr(w, "_dom_classes", ()))
    button.click()


def _walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _walk(child)


@pytest.fixture(scope="session")
def small():
    """The fields of a setting that takes no time."""
    return SMALL


@pytest.fixture(scope="session")
def slider():
    return _slider


@pytest.fixture(scope="session")
def press():
    """press(panel, "one round") clicks the button of that name."""
    return _press


@pytest.fixture(scope="session")
def walk():
    """A widget and all its children."""
    return _walk
