"""Names for who listens to the page: ipywidgets gives a slider's handle none, announces its place with one digit behind
the point, and of a logarithmic one the exponent. A few lines of the page's own language set them, and mark the sentence
as what is to be read when it changes.

They come with a style sheet and run when it has been loaded; where a page forbids that, everything else works.
"""

from __future__ import annotations

import html

SCRIPT = """
const root = this.closest(".fmlab-panel, .fmlab-predict");
const set = (e, name, value) => { if (e && e.getAttribute(name) !== value) e.setAttribute(name, value); };
const shown = (value, digits) => +(+value).toPrecision(digits);
const name = () => {
  for (const handle of root.querySelectorAll(".noUi-handle")) {
    const control = handle.closest(".fmlab-control"), label = control?.querySelector(".widget-slider .widget-label");
    set(handle, "aria-label", label?.textContent ?? "slider");
    const slider = handle.closest(".noUi-target")?.noUiSlider;
    if (!slider) continue;
    const {min, max} = slider.options.range, now = [slider.get(true)].flat()[0];
    for (const [end, value] of Object.entries({min, max, now})) set(handle, `aria-value${end}`, `${shown(value, 10)}`);
    const log = control?.classList.contains("fmlab-log");
    const box = control?.querySelector("input[type=number]")?.value;  // of a number between two places
    const said = !log ? shown(now, 10) : Math.abs(Math.log10(box) - now) < 0.026 ? shown(box, 10) : shown(10 ** now, 3);
    set(handle, "aria-valuetext", `${said}`);
  }
  for (const input of root.querySelectorAll("input[type=number], select")) {
    const row = input.closest(".fmlab-control") ?? input.parentElement;
    const label = row.querySelector(".widget-label")?.textContent || input.title.split(":")[0];
    set(input, "aria-label", input.tagName === "INPUT" ? `${label}, as a number` : label);
  }
  for (const sentence of root.querySelectorAll(".fmlab-summary, .fmlab-error")) set(sentence, "aria-live", "polite");
  for (const group of root.querySelectorAll(".widget-radio-box")) {
    set(group, "role", "radiogroup");
    set(group, "aria-label", root.querySelector(".fmlab-asked")?.textContent ?? "choices");
  }
};
if (root) {
  set(root, "role", "region");
  set(root, "aria-label", root.classList.contains("fmlab-predict") ? "prediction" : "live panel");
  const seen = ["aria-valuenow", "class"];
  new MutationObserver(name).observe(root, {childList: true, subtree: true, attributeFilter: seen});
  name();
}
"""


def named(style: str) -> str:
    """The style sheet ``<style>...</style>``, which sets the names of what it stands in when it is loaded."""
    return style.replace("<style>", f'<style onload="{html.escape(SCRIPT)}">', 1)
