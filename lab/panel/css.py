"""How panels look on the page, beside what the theme of JupyterLab gives, and what they say when their kernel is gone.

A kernel that is gone says nothing. So the words are there from the start, and
are seen once the page itself knows: ipywidgets marks widgets whose kernel died or restarted, JupyterLab's toolbar says
where a kernel was shut down, and `make app` marks the whole page (tools/app.py). They lie over the controls, which
move nothing any more: nothing else of the page moves when they come.
"""

import ipywidgets as widgets

from lab.panel.names import named
from lab.panel.worker import without_code

# On something `.fmlab-live`: its kernel is gone.
GONE = """:is(.jupyter-widgets-disconnected, [data-fmlab-kernel="gone"] *, .jp-NotebookPanel:has(
  .jp-Notebook-ExecutionIndicator:is([data-status="unknown"], [data-status="disconnected"], [data-status="dead"])) *)"""

# Across a room: all of the screen, and on it at once what is moved, what it says, and the pictures.
PROJECTOR = """<style>
.fmlab-projector { max-width: none; --fmlab-type: clamp(16px, 1.25vw, 30px); }
.fmlab-projector > * { order: 4; }
.fmlab-projector > :is(.fmlab-groups, .fmlab-row) { order: 1; }
.fmlab-projector > :is(.fmlab-summary, .fmlab-error) { order: 2; }
.fmlab-projector > .fmlab-pictures { order: 3; }
.fmlab-projector :is(.widget-label, input, button, select, label, .fmlab-title, .fmlab-note, .fmlab-message),
.fmlab-projector :is(.fmlab-status, .fmlab-computing, .fmlab-note, .fmlab-message, .fmlab-error) .widget-html-content {
  font-size: var(--fmlab-type) !important; }
.fmlab-projector :is(.widget-inline-hbox, button, select, input[type="number"]) { height: auto; min-height: 1.9em; }
.fmlab-projector .widget-inline-hbox > .widget-label { width: 9em !important; height: auto; }
.fmlab-projector .fmlab-control .widget-text { width: 6em !important; flex: 0 0 6em !important; }
.fmlab-projector .fmlab-groups > * { flex-basis: 430px !important; }
.fmlab-projector .fmlab-summary .widget-html-content { font-size: calc(1.35 * var(--fmlab-type)); }
.fmlab-projector .fmlab-difference .widget-html-content { font-size: var(--fmlab-type); min-height: 1.3em;
  padding-left: 4em; white-space: nowrap; }
.fmlab-projector .fmlab-difference :is(small, br) { display: none; }
.fmlab-projector .fmlab-picture { max-height: calc((100vh - 15 * var(--fmlab-type) - 56px) / var(--fmlab-rows, 1)); }
.fmlab-rows-2 { --fmlab-rows: 2; }
.fmlab-rows-3 { --fmlab-rows: 3; }
@media (min-width: 1200px) {
  .fmlab-projector.fmlab-many { display: grid; grid-template-columns: minmax(380px, 30%) minmax(0, 1fr);
    grid-auto-rows: min-content; column-gap: 20px; align-items: start; }
  .fmlab-many.fmlab-projector > * { grid-column: 2; }
  .fmlab-many.fmlab-projector > .fmlab-groups { grid-column: 1; grid-row: 1 / span 12; position: sticky; top: 0;
    max-height: 98vh; overflow: auto; }
}
</style>"""

STYLE = (
    named(
        """<style>
.fmlab-panel { max-width: 1140px; container-type: inline-size; }
.fmlab-groups { gap: 2px 20px; }
.fmlab-panel .widget-inline-hbox, .fmlab-panel .widget-html { margin-top: 1px; margin-bottom: 1px; }
.fmlab-title { font-weight: 600; border-bottom: 1px solid var(--jp-border-color1, #bbb); line-height: 1.5; }
.fmlab-pictures { display: grid; margin: 4px 0; grid-template-columns: minmax(0, 1fr); }
.fmlab-columns-2 { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.fmlab-columns-3 { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.fmlab-span-2 { grid-column: span 2; }
.fmlab-panel .fmlab-picture { width: 100%; height: auto; margin: 0; object-fit: contain; }
.fmlab-difference .widget-html-content { line-height: 1.3; min-height: 2.6em; padding-left: 112px; }
.fmlab-summary .widget-html-content { font-size: 1.15em; line-height: 1.4; min-height: 2.8em; }
.fmlab-status .widget-html-content, .fmlab-message .widget-html-content { line-height: 1.4; }
.fmlab-panel .widget-box { overflow: visible; }
.fmlab-panel a.fmlab-file { color: var(--jp-content-link-color, #1558b0); text-decoration: underline; }
.fmlab-control > .fmlab-note { margin: -4px 0 0 116px; }
.fmlab-note .widget-html-content { font-size: 0.85em; line-height: 1.2; color: var(--jp-ui-font-color2, #666); }
.fmlab-control > .fmlab-message { height: auto; padding: 0 8px; border-left: 3px solid currentColor; }
.fmlab-message, .fmlab-error { color: var(--jp-error-color0, #b00020); }
.fmlab-live { position: relative; }
.fmlab-gone { display: none; position: absolute; left: 0; right: 0; z-index: 6; padding: 8px 12px; font-size: 1.15em;
  line-height: 1.4; color: var(--jp-error-color0, #b00020); background: var(--jp-layout-color0, #fff);
  border: 2px solid currentColor; }
.fmlab-head, .fmlab-head .widget-html-content { position: static; height: 0; margin: 0; overflow: visible; }
.fmlab-live<gone> .fmlab-gone { display: block; }
.fmlab-live.jupyter-widgets-disconnected::before, .fmlab-live .jupyter-widgets-disconnected::before { content: none; }
.fmlab-live<gone> :is(.widget-inline-hbox:not(.widget-html, .fmlab-code), .widget-radio, .jupyter-button) {
  opacity: 0.4; pointer-events: none; interactivity: inert; }
.fmlab-live<gone> :is(.fmlab-status, .fmlab-computing) { visibility: hidden; }
@container (max-width: 900px) { .fmlab-columns-3 { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@container (max-width: 640px) {
  .fmlab-pictures { grid-template-columns: minmax(0, 1fr); }
  .fmlab-span-2 { grid-column: auto; }
  .fmlab-groups > * { flex-basis: 100% !important; min-width: 0 !important; }
}
@media (pointer: coarse) {
  .fmlab-panel :is(.widget-inline-hbox:not(.widget-html), .jupyter-button, select, input[type="number"]) {
    min-height: 44px; align-items: center; }
  .fmlab-panel .widget-checkbox { height: auto; }
  .fmlab-panel .widget-checkbox label { display: flex; align-items: center; gap: 6px; min-height: 44px; }
  .fmlab-panel .widget-checkbox input { width: 22px; height: 22px; margin: 0; }
  .fmlab-panel .noUi-touch-area { position: absolute; inset: -15px; width: auto; height: auto; }
}
[data-jp-theme-light="false"] .fmlab-panel select { color-scheme: dark; }
[data-jp-theme-light="false"] .fmlab-auto .fmlab-picture,
[data-jp-theme-light="false"] .fmlab-auto .fmlab-sample { filter: invert(0.93) hue-rotate(180deg); }
</style>""".replace("<gone>", GONE)
    )
    + PROJECTOR
)


def head() -> widgets.HTML:
    """A part, without height, of everything `.fmlab-live`: how it looks, and what is read at this place once its
    kernel is gone."""
    again = (
        "Reload the page."
        if without_code()
        else "Run the cell again; after a restart of the kernel, first the cells above it."
    )
    words = f"The kernel is gone: what is shown here stays as it was, and the controls do nothing any more. {again}"
    first = widgets.HTML(f'{STYLE}<div class="fmlab-gone" role="alert">{words}</div>')
    first.add_class("fmlab-head")
    return first
