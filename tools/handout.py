"""The lessons on paper: one HTML page that needs nothing but itself, to be printed from a browser.

Text, figures, printed results and exercises with room for an answer; no code. Formulas are drawn by matplotlib, so that
no script has to be fetched. What is folded on the screen is open, but for hints.
"""

import html
import re

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from nbconvert.filters import markdown2html

FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
BRACED = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
# What matplotlib's TeX lacks, in what it has.
INSTEAD = (
    (re.compile(r"\\t?frac\s*(\d|[A-Za-z]|\\[A-Za-z]+)\s*(\d|[A-Za-z])(?![a-z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\tfrac"), r"\\frac"),
    (re.compile(r"\\sqrt (\w)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(le|ge)(?![A-Za-z])"), r"\\\1q"),
    (re.compile(r"\\big"), ""),
    (re.compile(r"\\[lr]Vert"), r"\\Vert"),
    (re.compile(rf"\\underbrace{BRACED}_{BRACED}"), r"\\underset{\2}{\1}"),
)
QUESTION = re.compile(r"(<p><b>\d+\. .*?</b></p>)<details><summary>Answer</summary>(.*)</details>", re.DOTALL)
FONT = FontProperties(math_fontfamily="cm")
SIZE = 10.0  # of the drawing's units to one em

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>From federated averaging to federated meta-learning: handout</title>
<style>
body { font: 11pt/1.45 Georgia, serif; max-width: 46em; margin: 2em auto; padding: 0 1em; color: #111; }
h1, h2, h3 { font-family: Helvetica, Arial, sans-serif; line-height: 1.2; break-after: avoid; }
article + article { break-before: page; }
img { max-width: 100%; break-inside: avoid; }
pre { font-size: 8.5pt; white-space: pre-wrap; border-left: 3px solid #999; padding-left: 0.8em; break-inside: avoid; }
table { border-collapse: collapse; font-size: 0.9em; }
td, th { border: 1px solid #999; padding: 2px 6px; text-align: left; vertical-align: top; }
.formula { display: block; text-align: center; margin: 0.6em 0; }
.write { border: 1px solid #999; height: 5em; margin: 0.6em 0; padding: 2px 6px; color: #555; font-size: 0.85em; }
.anchor-link { display: none; }
a { color: inherit; }
@page { margin: 18mm; }
@media print { body { max-width: none; margin: 0; } details { display: none; } }
</style>
</head>
<body>
"""


def drawn(tex, apart=False):
    """A formula as SVG, in a line or ``apart`` from it. ValueError for one that matplotlib cannot set."""
    wanted = " ".join(tex.split())
    for pattern, other in INSTEAD:
        wanted = pattern.sub(other, wanted)
    wanted = wanted.replace(r"\frac", r"\dfrac") if apart else wanted
    path = TextPath((0, 0), f"${wanted}$", size=SIZE, prop=FONT)
    box = path.get_extents()
    segments = "".join(
        " MLQC"[code] + " ".join(f"{v:.2f}" for v in points) if code != path.CLOSEPOLY else "Z"
        for points, code in path.iter_segments(simplify=False, curves=True)
    )
    width, low, high = box.x1, min(box.y0, 0), box.y1
    style = f"width:{width / SIZE:.3f}em;height:{(high - low) / SIZE:.3f}em;vertical-align:{low / SIZE:.3f}em"
    return (
        f'<svg role="img" aria-label="{html.escape(tex)}" style="{style}" '
        f'viewBox="0 {-high:.2f} {width:.2f} {high - low:.2f}"><path transform="scale(1,-1)" d="{segments}"/></svg>'
    )


def prose(text):
    """Markdown as HTML, its formulas drawn."""
    found = []

    def keep(match):
        svg = drawn(match[1] or match[2], apart=bool(match[1]))
        found.append(f'<span class="formula">{svg}</span>' if match[1] else svg)
        return f"FORMULA{len(found) - 1}X"

    pieces = CODE.split(text)
    kept = [piece if n % 2 else FORMULA.sub(keep, piece) for n, piece in enumerate(pieces)]
    page = markdown2html("".join(kept))
    return re.sub(r"FORMULA(\d+)X", lambda m: found[int(m[1])], page)


def html_of(cell):
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


def answers(notebooks):
    """What the last page's questions fold away, for the end of the handout."""
    found = [QUESTION.fullmatch(html_of(c)) for n in notebooks for c in n.cells if c.cell_type == "code"]
    return [FORMULA.sub(lambda m: drawn(m[2]), f"{asked[1]}{asked[2]}") for asked in found if asked]


def shown(cell):
    """What a code cell leaves on paper: its results, and for an exercise a place to write in."""
    if "lab.check(" in cell.source:
        wanted = cell.source.partition("#")[2].partition("\n")[0].strip()
        yield f'<div class="write">{html.escape(wanted)}</div>'
        return
    if asked := QUESTION.fullmatch(html_of(cell)):
        yield f'{asked[1]}<div class="write"></div>'
        return
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":
            yield f"<pre>{html.escape(output.text)}</pre>"
        elif "image/png" in data:
            words = re.sub(r"^<\w+: |>$", "", data.get("text/plain", "").strip())
            picture = data["image/png"].replace("\n", "")
            yield f'<img alt="{html.escape(words)}" src="data:image/png;base64,{picture}">'
        elif "text/plain" in data:
            yield f"<pre>{html.escape(data['text/plain'])}</pre>"


def paper(notebooks):
    """One page with all of these."""
    articles = []
    for notebook in notebooks:
        pieces = [[prose(c.source)] if c.cell_type == "markdown" else shown(c) for c in notebook.cells]
        articles.append("<article>\n" + "\n".join(p for piece in pieces for p in piece) + "\n</article>\n")
    if last := answers(notebooks):
        articles.append("<article>\n<h1>Answers to the questions</h1>\n" + "\n".join(last) + "\n</article>\n")
    return PAGE + "".join(articles) + "</body>\n</html>\n"
