"""Names for who listens to the page: ipywidgets gives a slider's handle none, and of a logarithmic one it announces the
exponent. A few lines of the page's own language set them, and mark the sentence as what is to be read when it changes.

They come with a style sheet and run when it has been loaded; where a page forbids that, everything else works.
"""

from __future__ import annotations

import html

SCRIPT = """
const root = this.closest(".fmlab-panel, .fmlab-predict");
const set = (e, name, value) => { if (e && e.getAttribute(name) !== value) e.setAttribute(name, value); };
const name = () => {
  for (const handle of root.querySelectorAll(".noUi-handle")) {
    const control = handle.closest(".fmlab-control"), label = control?.querySelector(".widget-slider .widget-label");
    set(handle, "aria-label", label?.textContent ?? "slider");
    const exponent = +handle.getAttribute("aria-valuenow");
    if (control?.classList.contains("fmlab-log")) set(handle, "aria-valuetext", `${+(10 ** exponent).toPrecision(3)}`);
  }
  for (const sentence of root.querySelectorAll(".fmlab-summary, .fmlab-error")) set(sentence, "aria-live", "polite");
  for (const group of root.querySelectorAll(".widget-radio-box")) {
    set(group, "role", "radiogroup");
    set(group, "aria-label", root.querySelector(".fmlab-asked")?.textContent ?? "choices");
  }
};
if (root) {
  const seen = ["aria-valuenow", "class"];
  new MutationObserver(name).observe(root, {childList: true, subtree: true, attributeFilter: seen});
  name();
}
"""


def named(style: str) -> str:
    """The style sheet ``<style>...</style>``, which sets the names of what it stands in when it is loaded."""
    return style.replace("<style>", f'<style onload="{html.escape(SCRIPT)}">', 1)
