"""The course's last page: twelve questions, each with a folded answer and the result of a lesson that proves it.

What proves an answer is quoted from the outputs that are stored in the lesson beside the page: its figures' words and
its printed lines. No number stands here, so that none can differ from what the lesson computed.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

DRAWN = re.compile(r"^<Figure: (.*)>$")


@dataclass(frozen=True)
class Proof:
    """lesson: its file's name without .ipynb. section: of that lesson, its title. lines: a pattern; what is printed
    there, or said by a figure, and matches it is quoted. Without one the section's text is the proof."""

    lesson: str
    section: str
    lines: str = ""

    @property
    def address(self) -> str:
        return f"{self.lesson}.ipynb#{quote(self.section.replace(' ', '-'))}"

    def quoted(self, folder: Path) -> list[str]:
        """The lines, from the lesson as it is stored in this folder; [] where it is not there, or was never run."""
        path = folder / f"{self.lesson}.ipynb"
        if not self.lines or not path.exists():
            return []
        said = _said(json.loads(path.read_text(encoding="utf-8"))["cells"], self.section)
        return [line for line in said if re.search(self.lines, line)]


def _said(cells: list[dict[str, Any]], section: str) -> list[str]:
    """What the cells of a section print, line by line, and what its figures say."""
    found: list[str] = []
    here = False
    for cell in cells:
        if cell["cell_type"] == "markdown":
            titles = re.findall(r"(?m)^## (.*)$", "".join(cell["source"]))
            here = titles[-1] == section if titles else here
        elif here:
            for output in cell["outputs"]:
                text = "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))
                found += [DRAWN.sub(r"\1", line.strip()) for line in text.splitlines()]
    return found


@dataclass(frozen=True)
class Question:
    asks: str
    answer: str
    proofs: tuple[Proof, ...]


AVERAGING, ADAPT, META = "01_federated_averaging", "02_learning_to_adapt", "03_federated_meta_learning"
UNLIKE, STEPS, SHOTS = "04_heterogeneity", "05_inner_steps", "06_few_shot"
SCORED = "Before adaptation nobody wins; how large the lead is after it depends on the steps"

QUESTIONS = (
    Question(
        "What leaves a FedAvg client in a round? Is its data secret, then?",
        "The model after the client's local steps, or the way that it went: the same bytes, the same mean. No "
        "example leaves. That is not yet privacy: the gradient of one example in a linear layer is that example, "
        "up to a factor, and a model that was trained on few examples remembers some.",
        (
            Proof(AVERAGING, "One round is a loop and a mean", "by hand"),
            Proof(META, "A round in five steps, and its two forms"),
        ),
    ),
    Question(
        "Why does FedAvg with many local steps settle beside the minimum of the mean loss, and with one step on it?",
        "The mean of single steps is a step on the mean loss. After more steps each client is on the way to its "
        "own minimum, and the mean of where they arrive is another point. More rounds do not help: there a round "
        "changes nothing.",
        (Proof(AVERAGING, "Many local steps pull the mean away", "distance from the star"),),
    ),
    Question(
        "Clients have different minima, but the same curvature. Do they drift?",
        "No. All clients shrink their distance to their own minimum by the same factor, so the mean of their ways "
        "is the way of the mean. Drift needs minima and curvatures that differ; and it grows with the number of "
        "local steps and their size.",
        (
            Proof(
                AVERAGING,
                "Drift needs minima and curvatures that differ, and grows with $K - 1$",
                "equal curvatures|K = 20",
            ),
        ),
    ),
    Question(
        "Should the server weight clients by their number of examples?",
        "That depends on whom it is to serve. Weights by size follow the loss of the average example, a uniform "
        "mean that of the average client. Neither is wrong; a comparison that mixes them compares nothing.",
        (Proof(AVERAGING, "A weighted mean serves examples, a uniform mean serves clients", "90 %"),),
    ),
    Question(
        "What does MAML minimise? How good does that make the model before the step?",
        "The mean over tasks of the query loss after the inner step, at w minus alpha times the gradient of the "
        "support loss. Before the step nothing is asked of it, and it is one curve for all tasks.",
        (Proof(ADAPT, "What is learned is a place to start from", "after one step:|measured"),),
    ),
    Question(
        "Where does the Hessian enter the meta-gradient, and when may it be left out?",
        "Through the step: the adapted model depends on w also by the gradient taken there, which gives the "
        "factor I minus alpha times the Hessian. Where the inner steps are few and small that factor is near the "
        "identity, and first order points nearly the same way for half the work. With large steps it can point "
        "away, and it rests elsewhere.",
        (
            Proof(
                ADAPT,
                "On the network, first order points elsewhere the more, the larger and the more numerous the steps are",
                "cosine at step size",
            ),
            Proof(STEPS, "Leaving the Hessian out moves the resting point", "^alpha"),
        ),
    ),
    Question(
        "With which baseline is a meta-learner to be compared?",
        "With fine-tuned FedAvg that has the same support set, the same number of steps, a step size searched "
        "with the same care and the same server optimiser: where one method alone steps with Adam, the optimiser "
        "is taken for the idea. And with what a client gets alone.",
        (Proof(META, SCORED, "of FedMAML's fall|minus FedMAML's"),),
    ),
    Question(
        "Why does FedAvg, which never heard of adaptation, adapt well?",
        "What it sends after K local steps is a sum of gradients: one at the start, and K - 1 that first-order "
        "MAML with 1, 2, ... inner steps would send. With one local step only the first is left.",
        (Proof(META, "FedAvg has been meta-learning all along", "FedSGD term|^K = "),),
    ),
    Question(
        "How unlike must clients be before FedMAML pays?",
        "Against FedAvg with the same server about as unlike as this task lets them be: below, the two are level, and "
        "where all are alike there is nothing to adapt to. Against the plain mean the lead begins earlier, but that "
        "part of it is the optimiser's; and in short runs it goes where FedAvg takes more local steps, as the map in "
        "that lesson shows. It belongs to this setting, not to the methods for ever.",
        (Proof(UNLIKE, "What one step makes of the shared models", "FedMAML's lead over|same server FedMAML"),),
    ),
    Question(
        "New clients will take one step. With how many inner steps should FedMAML train?",
        "With one or two; which of them, chance decides. A model that trains for the loss after many more is asked "
        "for nothing after one, and lags there; after a few steps it has made that up. Its rounds cost more, too.",
        (Proof(STEPS, "What inner steps in training buy, and when", "^trained with K|^after"),),
    ),
    Question(
        "Whom does adaptation hurt, and what helps?",
        "Whoever has less left to gain than the step is long: where all are alike that is most clients, if the step "
        "is one that suits clients who differ. A step size chosen on validation clients helps most. Keeping the "
        "shared model where the step does not help on examples put aside helps, too, and costs those examples.",
        (Proof(UNLIKE, "Whom adaptation hurts", "^h = .* one step hurts|step: hurts"),),
    ),
    Question(
        "When is it worth training together at all?",
        "Where it beats what a client gets without a server: training alone, or comparing with its own few "
        "examples. That is so where something is to be learned that all clients share and none can learn from its "
        "own examples, or where a client may take few steps only.",
        (Proof(SHOTS, "What training together adds, and where it adds nothing", "."),),
    ),
)


class Shown:
    """A question with its folded answer."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.question = number, QUESTIONS[number - 1]
        self.proofs = [(proof, proof.quoted(folder)) for proof in self.question.proofs]

    def __repr__(self) -> str:
        lines = [f"{self.number}. {self.question.asks}", f"  answer: {self.question.answer}"]
        for proof, quoted in self.proofs:
            lines += [f"  {proof.lesson}, {proof.section}", *(f"    {line}" for line in quoted)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        shown = []
        for proof, quoted in self.proofs:
            link = f'<a href="{proof.address}">lesson {proof.lesson[:2]}, {html.escape(proof.section)}</a>'
            lines = html.escape("\n".join(quoted))
            shown.append(f"<p>Shown in {link}{':' if lines else '.'}</p>" + (f"<pre>{lines}</pre>" if lines else ""))
        asks, answer = html.escape(self.question.asks), html.escape(self.question.answer)
        folded = f"<details><summary>Answer</summary><p>{answer}</p>{''.join(shown)}</details>"
        return f"<p><b>{self.number}. {asks}</b></p>{folded}"


def question(number: int) -> Shown:
    """The question of this number, 1 to 12; its answer is folded, with what the lessons beside the notebook prove it
    by. Raises ValueError for another number."""
    if number not in range(1, len(QUESTIONS) + 1):
        raise ValueError(f"number = {number!r} is no question; they are 1 to {len(QUESTIONS)}")
    return Shown(number, Path.cwd())
