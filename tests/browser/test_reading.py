"""A panel's page as it is read: on a telephone, across a room, with fingers, and by who listens to it.

Some lines here look for what most often shuts readers out: no name, no contrast, no order. axe-core looks for all
that it knows.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
AXE = Path(find_spec("axe_playwright_python").origin).with_name("axe.min.js")  # beside its own code, of no use here
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
    for width, height in (SIZES["desk"], SIZES["room"]):
        page.set_viewport_size({"width": width, "height": height})
        for css in (".noUi-handle", ".fmlab-summary", ".fmlab-picture"):
            for box in boxes(page, css):
                assert inside(box, width, height), (css, width)
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


# Of the page: what can be worked and has no name, text whose contrast with what lies below it is too small (WCAG 2.1:
# 4.5, large text 3), what Tab reaches out of its turn or outside of the main part's regions.
FAULTS = """() => {
  const seen = e => e.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const named = e => e.ariaLabel || e.title || e.labels?.[0]?.innerText.trim() || e.innerText?.trim() || e.alt;
  const worked = [...document.querySelectorAll("a[href], button, input, select, textarea, [tabindex]")].filter(seen);
  const faults = worked.filter(e => e.tabIndex >= 0 && !named(e)).map(e => "no name: " + e.outerHTML.slice(0, 150));
  faults.push(...worked.filter(e => e.tabIndex > 0).map(e => "out of turn: " + e.outerHTML.slice(0, 150)));
  faults.push(...[...document.images].filter(e => seen(e) && !named(e)).map(e => "no words: " + e.className));
  if (document.querySelectorAll("[role=main], main").length !== 1) faults.push("not one main part");
  if (!document.documentElement.lang || !document.title) faults.push("no language or no title");
  const rgb = c => c.match(/[\\d.]+/g).map(Number), light = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const below = e => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(e).backgroundColor);
      if (a > 0.99) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let t; (t = walk.nextNode());) {
    const e = t.parentElement, style = getComputedStyle(e);
    if (!t.data.trim() || !seen(e) || e.closest("script, style, option, :disabled, [disabled]")) continue;
    const [x, y] = [light(rgb(style.color).slice(0, 3)), light(below(e))];
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    const contrast = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    if (contrast < (large ? 3 : 4.5)) faults.push(`contrast ${contrast.toFixed(1)}: ${t.data.trim().slice(0, 80)}`);
  }
  return faults;
}"""


HARM = """() => {
  document.querySelector(".noUi-handle").removeAttribute("aria-label");
  document.querySelector(".fmlab-control input").tabIndex = 3;
  const said = [...document.querySelectorAll(".fmlab-summary *")].at(-1);
  said.style.color = getComputedStyle(document.body).backgroundColor;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("panel", ["playground", "heterogeneity", "drift"])
def test_axe_finds_nothing_nor_do_we(visit, panel, theme):
    page = visit("desk", panel, f"{QUICK}&theme={theme}" if panel != "drift" else f"theme={theme}")
    assert page.evaluate(FAULTS) == []
    page.add_script_tag(path=AXE)
    found = page.evaluate("async () => (await axe.run(document)).violations")
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found] == []
    page.evaluate(HARM)
    found = page.evaluate(FAULTS)
    assert [words for words in ("no name", "out of turn", "contrast") if not any(words in f for f in found)] == []
