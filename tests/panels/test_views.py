"""The page of views: what is looked at needs no training, and every picture says what it shows."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import fmlab as fm
import lab
from lab.panel.canvas import encode
from lab.panel.session import Session
from lab.panel.setting import TASKS, controls, default
from lab.plots import style
from lab.plots.words import sentence


def test_looking_needs_no_training(make, monkeypatch, slider, press):
    panel = make(views=("client", "adaptation", "learning"))
    monkeypatch.setattr(fm, "stream", None)
    pictures = {panel._png}
    for k in (0, 3):
        slider(panel, "k").value = k
        pictures.add(panel._png)
    panel.set(x="bytes")
    pictures.add(panel._png)
    panel.set(x="gradient evaluations")
    pictures.add(panel._png)
    press(panel, "another client")
    pictures.add(panel._png)
    assert len(pictures) == 6


def test_the_sentence_is_the_pictures_text(make):
    """Of the first picture; the others have their titles."""
    panel = make(views=("learning", "adaptation"))
    first, second = panel._canvas.images.values()
    assert first.tooltip == panel.sentence == f"{sentence(panel.study)} {panel.setting.says()}"
    assert panel.sentence
    assert second.tooltip == title(panel, "adaptation") != ""


def test_drawing_twice_gives_the_same_picture(make, slider):
    panel = make(views=("client", "adaptation", "learning", "helps"))
    first = panel._png
    slider(panel, "k").value = 0
    slider(panel, "k").value = panel.setting.steps
    assert panel._png == first


def test_blitting_draws_what_a_full_draw_does(make):
    """Moved artists over kept bitmaps, against a panel that starts at the same setting."""
    moved = make(views=("client", "adaptation", "learning", "helps"), heterogeneity=0.0)
    moved.set(heterogeneity=1.0)
    fresh = make(views=("client", "adaptation", "learning", "helps"), heterogeneity=1.0)
    pixels = [np.asarray(p._canvas.agg.buffer_rgba()).astype(int) for p in (moved, fresh)]
    apart = np.abs(pixels[0] - pixels[1]).max(-1)
    assert apart.max() < 16
    assert (apart > 0).sum() < 20  # a rounded edge


def test_each_plot_is_a_picture_of_its_own(make, slider):
    """Put together they are the whole; one that did not change is not sent again."""
    panel = make(views=("client", "adaptation", "learning"))
    images = panel._canvas.images
    seen = [np.asarray(Image.open(io.BytesIO(i.value))) for i in images.values()]
    whole = np.asarray(Image.open(io.BytesIO(panel._png)))
    assert [*images] == ["client", "adaptation", "learning"]
    assert (np.concatenate(seen[:2], 1) == whole[: len(seen[0])]).all()
    assert (seen[2] == whole[len(seen[0]) :, : seen[2].shape[1]]).all()
    for image, pixels in zip(images.values(), seen, strict=True):
        assert (int(image.height), int(image.width)) == pixels.shape[:2]
    before = {n: i.value for n, i in images.items()}
    panel.set(client=1)
    panel.set(x="bytes")
    assert images["learning"].value != before["learning"]


@pytest.mark.parametrize("name", ["heterogeneity", "playground"])
def test_on_a_projector_text_is_larger_and_no_title_is_cut(small, name, small_map):
    sizes = {}
    for size, scale in style.SIZES.items():
        panel = getattr(lab, name)(synchronous=True, size=size, **small)
        assert panel._canvas.dpi == 80 * scale
        for view, marks in panel._canvas._marks.items():
            box, heading = (
                panel._canvas._boxes[view],
                marks.ax.title if marks.ax.title.get_text() else marks.ax._left_title,
            )
            assert heading.get_window_extent().x1 <= box.x1, view
            sizes[view, size] = heading.get_fontsize()
        panel.close()
    assert all(sizes[v, "projector"] == 1.5 * text for (v, size), text in sizes.items() if size == "notebook")


def title(panel, view):
    return panel._canvas._marks[view].ax.get_title(loc="left")


VIEWS = ("client", "adaptation", "learning", "helps")


def test_participating_clients_are_scored_without_training_and_only_once(make, monkeypatch):
    panel = make(VIEWS, methods=("FedAvg", "LocalOnly"))
    unseen = panel._png, panel.sentence
    assert "_participating" not in vars(panel.study), "scored only when asked for"
    monkeypatch.setattr(fm, "stream", None)
    panel.board.boxes["clients"].value = "participating"
    study = panel.study
    marks = panel._canvas._marks["adaptation"]
    assert marks["own", "LocalOnly"].get_ydata() == pytest.approx([float(study.personal["LocalOnly"].mean())] * 2)
    assert panel.sentence == sentence(study, clients="participating") != unseen[1]
    assert title(panel, "adaptation") == "Adaptation on participating clients"
    assert title(panel, "learning") == "Unseen clients, after 5 adaptation steps"
    assert title(panel, "client") == "An unseen client after 5 adaptation steps"
    monkeypatch.setattr("lab.plots.after_steps", None)
    panel.set(k=2)
    panel.set(k=5)
    assert panel._status.value == "round 10 of 10, 1 seed"
    panel.set(clients="unseen")
    assert (panel._png, panel.sentence) == unseen


def test_in_the_middle_of_a_run_unseen_clients_are_shown_and_it_is_said(make, monkeypatch, press):
    panel = make(VIEWS, methods=("FedAvg", "LocalOnly"))
    press(panel, "one round")
    assert panel.study.kept is None
    monkeypatch.setattr(fm.Study, "participating", None)
    panel.set(clients="participating")
    assert title(panel, "adaptation") == title(panel, "helps") == "Unseen clients; participating at the end"
    assert panel._canvas._marks["helps"].ax.get_xlabel() == "unseen clients, sorted (%)"
    said = sentence(panel.study)
    assert panel.sentence == f"{said} Participating clients are scored when the run has ended."


def test_a_rough_answer_scores_nobody(make, monkeypatch):
    """Also where it came to its end: a slider that is dragged must not wait for it."""
    scored = []
    score = Session.score_participating
    monkeypatch.setattr(Session, "score_participating", lambda self, s: scored.append(s) or score(self, s))
    monkeypatch.setattr("lab.panel.session.PATIENCE", 60.0)
    panel = make(VIEWS, methods=("FedAvg", "LocalOnly"), synchronous=False, rounds=12)
    panel.set(clients="participating")
    panel.wait(60)
    panel.set(heterogeneity=0.5)
    panel.wait(60)
    assert panel.study.population.heterogeneity == 0.5
    assert {len(s.rounds) for s in scored} == {9}, "the rough answers have three evaluations"
    assert title(panel, "adaptation") == "Adaptation on participating clients"
    assert panel._status.value == "round 12 of 12, 1 seed"


def test_only_the_playground_has_the_control(small, walk):
    for name in ("playground", "heterogeneity", "inner_steps", "one_client"):
        panel = getattr(lab, name)(synchronous=True, **small)
        classes = {c for w in walk(panel) for c in getattr(w, "_dom_classes", ())}
        assert ("fmlab-clients" in classes) == (name == "playground")
        panel.close()


@pytest.mark.parametrize("task", [t for t in TASKS if t in ("Digits", "Glyphs")])
def test_pictures_are_a_task_too(make, task):
    panel = make(views=("client", "adaptation"), clients_per_round=2)
    panel.set(task=task)
    assert panel.study.accuracy
    assert panel.board.controls["shots"].value == default("shots", task)
    assert controls(TASKS[task])["shots"] == "shots"
    assert "correct" in panel.sentence
    before = panel._png
    panel.set(quantity="loss")
    assert panel._png != before
    assert "loss" in panel.sentence


def test_saved_picture_and_link(make, tmp_path, press):
    panel = make()
    before = panel._png
    panel.save(tmp_path / "picture.png")
    width, height = struct.unpack(">II", (tmp_path / "picture.png").read_bytes()[16:24])
    assert (width, height) == (2 * panel._canvas.width, 2 * panel._canvas.height)
    press(panel, "save picture")
    assert 'download="fmlab-test.png"' in panel.buttons.link.value
    panel.set(k=2)
    panel.set(k=5)
    assert panel._png == before, "saving must not disturb the live picture"


def test_copy_as_code_shows_the_cell(make, press):
    panel = make()
    press(panel, "copy as code")
    assert "fm.compare(" in panel._code.value
    assert panel._code.layout.display is None
    panel.set(heterogeneity=0.35)
    assert "heterogeneity=0.35" in panel._code.value


def test_encode_is_a_png_of_these_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    png, at, data = encode(pixels), 8, b""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        data += body if kind == b"IDAT" else b""
        at += 12 + size
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(5, 1 + 7 * 4)
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:].reshape(5, 7, 4) == pixels).all()


@pytest.mark.parametrize(("theme", "size"), [("dark", "notebook"), ("light", "projector")])
def test_themes_and_sizes(theme, size, small):
    panel = lab.one_client(theme=theme, size=size, synchronous=True, **small)
    assert f"fmlab-{size}" in panel._dom_classes
    panel.close()
    with pytest.raises(ValueError, match="theme"):
        lab.one_client(theme="pink")
