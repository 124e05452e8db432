"""How panels look on the page, beside what the theme of JupyterLab gives, and what they say when their kernel is gone.

No code of ours runs in the page, and a kernel that is gone says nothing. So the words are there from the start, and
are seen once the page itself knows: ipywidgets marks widgets whose kernel died or restarted, JupyterLab's toolbar says
where a kernel was shut down, and `make app` marks the whole page (tools/app.py). They lie over the controls, which
move nothing any more: nothing else of the page moves when they come.
"""

import ipywidgets as widgets

from lab.panel.worker import without_code

# On something `.fmlab-live`: its kernel is gone.
GONE = """:is(.jupyter-widgets-disconnected, [data-fmlab-kernel="gone"] *, .jp-NotebookPanel:has(
  .jp-Notebook-ExecutionIndicator:is([data-status="unknown"], [data-status="disconnected"], [data-status="dead"])) *)"""

STYLE = """<style>
.fmlab-panel { max-width: 1140px; }
.fmlab-groups { gap: 2px 20px; }
.fmlab-panel .widget-inline-hbox, .fmlab-panel .widget-html { margin-top: 1px; margin-bottom: 1px; }
.fmlab-title { font-weight: 600; border-bottom: 1px solid var(--jp-border-color1, #bbb); line-height: 1.5; }
.fmlab-panel .fmlab-picture { width: 100%; height: auto; margin: 4px 0; object-fit: contain; }
.fmlab-summary .widget-html-content { font-size: 1.15em; line-height: 1.4; min-height: 2.8em; }
.fmlab-status .widget-html-content, .fmlab-message .widget-html-content { line-height: 1.4; }
.fmlab-panel .widget-box { overflow: visible; }
.fmlab-control { position: relative; }
.fmlab-control > .fmlab-message { position: absolute; top: 100%; left: 0; z-index: 5; padding: 0 6px;
  background: var(--jp-layout-color0, #fff); border: 1px solid currentColor; }
.fmlab-control > .fmlab-note { margin: -4px 0 0 116px; }
.fmlab-note .widget-html-content { font-size: 0.85em; line-height: 1.2; color: var(--jp-ui-font-color2, #666); }
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
.fmlab-live<gone> .fmlab-status { visibility: hidden; }
.fmlab-projector .widget-label, .fmlab-projector input, .fmlab-projector button, .fmlab-projector select,
.fmlab-projector label { font-size: 1.25em; }
.fmlab-projector .fmlab-groups > * { flex-basis: 430px !important; }
.fmlab-projector .widget-inline-hbox > .widget-label { width: 150px !important; }
.fmlab-projector .fmlab-status .widget-html-content { font-size: 1.25em; }
.fmlab-projector .fmlab-summary .widget-html-content { font-size: 1.6em; }
[data-jp-theme-light="false"] .fmlab-auto .fmlab-picture,
[data-jp-theme-light="false"] .fmlab-auto .fmlab-sample { filter: invert(0.93) hue-rotate(180deg); }
</style>""".replace("<gone>", GONE)


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
