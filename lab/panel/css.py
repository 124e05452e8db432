"""How panels look on the page: once for all, beside what the theme of JupyterLab gives."""

STYLE = """<style>
.fmlab-panel { max-width: 1140px; }
.fmlab-groups { gap: 2px 20px; }
.fmlab-panel .widget-inline-hbox, .fmlab-panel .widget-html { margin-top: 1px; margin-bottom: 1px; }
.fmlab-title { font-weight: 600; border-bottom: 1px solid var(--jp-border-color1, #bbb); line-height: 1.5; }
.fmlab-panel .fmlab-picture { width: 100%; height: auto; margin: 4px 0; object-fit: contain; }
.fmlab-difference .widget-html-content { line-height: 1.3; min-height: 2.6em; padding-left: 112px; }
.fmlab-summary .widget-html-content { font-size: 1.15em; line-height: 1.4; min-height: 2.8em; }
.fmlab-status .widget-html-content, .fmlab-message .widget-html-content { line-height: 1.4; }
.fmlab-panel .widget-box { overflow: visible; }
.fmlab-control { position: relative; }
.fmlab-control > .fmlab-message { position: absolute; top: 100%; left: 0; z-index: 5; padding: 0 6px;
  background: var(--jp-layout-color0, #fff); border: 1px solid currentColor; }
.fmlab-message, .fmlab-error { color: var(--jp-error-color0, #b00020); }
.fmlab-projector .widget-label, .fmlab-projector input, .fmlab-projector button, .fmlab-projector select,
.fmlab-projector label { font-size: 1.25em; }
.fmlab-projector .fmlab-groups > * { flex-basis: 430px !important; }
.fmlab-projector .widget-inline-hbox > .widget-label { width: 150px !important; }
.fmlab-projector .fmlab-status .widget-html-content { font-size: 1.25em; }
.fmlab-projector .fmlab-summary .widget-html-content { font-size: 1.6em; }
[data-jp-theme-light="false"] .fmlab-auto .fmlab-picture,
[data-jp-theme-light="false"] .fmlab-auto .fmlab-sample { filter: invert(0.93) hue-rotate(180deg); }
</style>"""
