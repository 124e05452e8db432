"""How predictions look on the page. What is held back is hidden by the page, whatever the kernel is busy with."""

from lab.panel.names import named

STYLE = named("""<style>
.fmlab-predict { border-left: 4px solid var(--jp-brand-color1, #1976d2); padding: 2px 0 2px 12px; max-width: 900px; }
.fmlab-asked p, .fmlab-kept p, .fmlab-waits p { margin: 2px 0; line-height: 1.45; }
.fmlab-asked p { font-weight: 600; }
.fmlab-predict .widget-radio, .fmlab-predict .widget-html { width: auto; height: auto; }
.fmlab-predict .widget-radio-box { margin: 0 !important; }
.fmlab-predict .widget-radio-box label { display: flex; align-items: center; gap: 8px; width: fit-content;
  height: auto; min-height: 32px; line-height: 1.35; white-space: normal; font-size: var(--jp-ui-font-size1, 13px);
  padding: 0 8px 0 2px; cursor: pointer; }
.fmlab-predict .widget-radio-box input { order: -1; flex: none; height: 18px; width: 18px; margin: 0; }
.fmlab-predict .widget-radio-box label:has(input:checked) { font-weight: 600; }
.fmlab-predict .widget-radio-box label:has(input:disabled) { cursor: default; }
.fmlab-predict .fmlab-commit { width: 14em; }
.fmlab-predict:not(:has(input:checked)) .fmlab-commit { visibility: hidden; }
.fmlab-predict .fmlab-commit.mod-active, .fmlab-predict:not(:has(.fmlab-commit.mod-active)) .fmlab-kept,
.fmlab-mirror, .fmlab-held:has(> .fmlab-mirror.mod-active) > .fmlab-waits,
.fmlab-held:not(:has(> .fmlab-mirror.mod-active)) > :not(.fmlab-waits) { display: none !important; }
.fmlab-waits { color: var(--jp-ui-font-color2, #555); font-style: italic; }
.fmlab-answer { border-left: 4px solid var(--jp-brand-color1, #1976d2); padding-left: 12px; max-width: 900px; }
.fmlab-answer .widget-html { width: auto; height: auto; }
.fmlab-answer p { margin: 3px 0; line-height: 1.45; }
.fmlab-answer summary { cursor: pointer; min-height: 28px; }
@media (pointer: coarse) {
  .fmlab-predict .widget-radio-box label, .fmlab-predict .fmlab-commit, .fmlab-answer summary { min-height: 44px; }
}
</style>""")
