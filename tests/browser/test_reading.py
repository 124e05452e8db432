"""A panel's page as it is read: on a telephone, across a room, with fingers, and by who listens to it.

axe-core finds what is wrong for those, where its file is named: `FMLAB_AXE=axe.min.js pytest tests/browser`. It is not
among the dependencies; `npm pack axe-core` fetches it.
"""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
AXE = os.environ.get("FMLAB_AXE", "")
QUICK = "rounds=10&seeds=1"
IDLE = """() => {
  const status = document.querySelector(".fmlab-status"), m = status?.innerText.match(/round (\\d+) of (\\d+)/);
  return m && m[1] === m[2] && !status.innerText.includes("...");
}"""
SIZES = {"desk": (1366, 768), "room": (1920, 1080), "tablet": (820, 1180), "telephone": (390, 844)}


@pytest.fixture
def visit(servers, chromium):
    """visit("telephone", "one_client", "theme=dark"): the panel's own page, with its first answer complete."""
    contexts = []

    def open_page(size, panel, query=QUICK):
        width, height = SIZES[size]
        fingers = size in ("tablet", "telephone")
        context = chromium.new_context(
            viewport={"width": width, "height": height}, has_touch=fingers, is_mobile=fingers
        )
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.goto(f"{servers.voila('playground.ipynb')}/panel/{panel}?{query}", timeout=300_000)
        page.wait_for_function(
            IDLE if panel != "drift" else "() => document.querySelector('.fmlab-summary p, .fmlab-summary')"
        )
        return page

    yield open_page
    for context in contexts:
        context.close()


def boxes(page, css):
    return [e.bounding_box() for e in page.locator(css).all() if e.is_visible()]


def inside(box, width, height):
    return box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height


def apart(a, b):
    return (
        a["x"] + a["width"] <= b["x"]
        or b["x"] + b["width"] <= a["x"]
        or a["y"] + a["height"] <= b["y"] + 0.5
        or b["y"] + b["height"] <= a["y"] + 0.5
    )


def test_plots_stand_side_by_side_or_below_each_other(visit):
    first, second = boxes(visit("desk", "heterogeneity"), ".fmlab-picture")
    assert first["y"] == second["y"]
    first, second = boxes(visit("telephone", "heterogeneity"), ".fmlab-picture")
    assert first["x"] == second["x"]
    assert second["y"] >= first["y"] + first["height"]
    assert first["width"] > 350


@pytest.mark.parametrize("panel", ["heterogeneity", "one_client"])
def test_across_a_room_all_is_on_the_screen_at_once(visit, panel):
    page = visit("room", panel, f"{QUICK}&size=projector")
    for css in (".noUi-handle", ".fmlab-summary", ".fmlab-picture"):
        for box in boxes(page, css):
            assert inside(box, *SIZES["room"]), css
    pictures = boxes(page, ".fmlab-picture")
    assert sum(p["width"] * p["height"] for p in pictures) > 0.6 * 1920 * 1080
    assert (
        float(
            page.locator(".fmlab-summary .widget-html-content").evaluate(
                "e => parseFloat(getComputedStyle(e).fontSize)"
            )
        )
        >= 30
    )


def test_fingers_find_what_they_touch(visit):
    page = visit("telephone", "one_client")
    for css in (".noUi-touch-area", ".jupyter-button", "input[type=number]"):
        for box in boxes(page, css):
            assert min(box["width"], box["height"]) >= 43.9, css


def test_a_wrong_number_is_said_and_covers_nothing(visit):
    page = visit("desk", "drift", "")
    box = page.locator(".fmlab-local_steps input[type=number]")
    box.fill("1000")
    box.press("Enter")
    message = page.locator(".fmlab-local_steps .fmlab-message")
    message.get_by_text("local steps = 1000 is outside").wait_for()
    for css in (".fmlab-control .widget-slider", "input[type=number]", ".fmlab-picture"):
        for other in boxes(page, css):
            assert apart(message.bounding_box(), other), css


def test_who_listens_hears_names_numbers_and_the_sentence(visit):
    page = visit("desk", "playground", f"{QUICK}&inner_lr=0.05")
    handles = page.locator(".noUi-handle").all()
    names = [h.get_attribute("aria-label") for h in handles]
    assert {"heterogeneity", "inner steps", "inner step size", "rounds"} <= {*names}
    assert page.get_by_role("slider", name="inner step size").get_attribute("aria-valuetext") == "0.05"
    assert page.locator(".fmlab-summary").get_attribute("aria-live") == "polite"
    for picture in page.locator(".fmlab-picture").all():
        assert len(picture.get_attribute("title")) > 10


@pytest.mark.skipif(not Path(AXE).is_file(), reason="FMLAB_AXE names no file axe.min.js")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("panel", ["playground", "heterogeneity", "drift"])
def test_axe_finds_nothing(visit, panel, theme):
    page = visit("desk", panel, f"{QUICK}&theme={theme}" if panel != "drift" else f"theme={theme}")
    page.add_script_tag(path=AXE)
    found = page.evaluate("async () => (await axe.run(document)).violations")
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found] == []
