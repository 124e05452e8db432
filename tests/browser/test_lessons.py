"""Every lesson as a class meets it: opened in JupyterLab, run from top to bottom, every slider of every panel moved.

It takes some ten minutes, so it waits to be asked: `FMLAB_WALK=1 pytest tests/browser/test_lessons.py`. Pictures of
all that was moved go to test-results/, to be looked at.
"""

import os
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not os.environ.get("FMLAB_WALK"), reason="some ten minutes: FMLAB_WALK=1 asks for it"),
]
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "test-results"
LESSONS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
# Calm: no word of a running training, and the same picture for a second; its bytes, for each update has a new address.
CALM = """async panel => {
  const state = async () => {
    const bytes = await (await fetch(panel.querySelector("img.fmlab-picture, .fmlab-picture img").src)).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return digest.join() + (panel.querySelector(".fmlab-status")?.innerText ?? "");
  };
  const late = Date.now() + 120000;
  let before = "";
  for (let since = 0; since < 10;) {
    await new Promise(done => setTimeout(done, 100));
    const now = await state();
    if (Date.now() > late) throw new Error("the panel still changes");
    since = now === before && !now.endsWith("...") ? since + 1 : 0;
    before = now;
  }
  return before;
}"""


@pytest.mark.parametrize("name", LESSONS)
def test_every_slider_of_every_lesson(notebook, name):
    shown = notebook(name)
    page, complaints = shown.page, []
    page.on("pageerror", lambda e: complaints.append(str(e)))
    shown.run_all(900)
    assert shown.errors() == []
    RESULTS.mkdir(exist_ok=True)
    panels = page.locator(".fmlab-panel")
    for number in range(panels.count()):
        panel = panels.nth(number)
        panel.scroll_into_view_if_needed()
        panel.evaluate(CALM)
        handles = panel.locator(".noUi-handle")
        for slider in range(handles.count()):
            handle = handles.nth(slider)
            if handle.locator("xpath=ancestor::*[@disabled]").count():  # the recorded value is taken
                continue
            before, at = panel.evaluate(CALM), float(handle.get_attribute("aria-valuenow"))
            handle.focus()
            lower = at > float(handle.get_attribute("aria-valuemin"))
            for _ in range(2):
                page.keyboard.press("ArrowLeft" if lower else "ArrowRight")
            page.wait_for_function(
                "([h, at]) => +h.getAttribute('aria-valuenow') !== at", arg=[handle.element_handle(), at]
            )
            assert panel.evaluate(CALM) != before, f"slider {slider} of panel {number} changes nothing"
        panel.screenshot(path=RESULTS / f"{Path(name).stem}_{number}.png")
        assert [t for t in panel.locator(".fmlab-error").all_inner_texts() if t] == []
    assert shown.errors() == []
    assert complaints == []
