"""What a method and a transform promise, tried on two clients before any training, so that a mistake is named there.

See ``fmlab/algorithms/base.py`` for the promises of a method; a transform returns what it is given, changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch import Tensor

from fmlab.algorithms import Algorithm
from fmlab.data import Batch, Tree
from fmlab.objective import Objective

STEPS = 2  # of the adaptation that is tried


def kinds(tree: Any) -> Any:
    """Names, shapes and dtypes, to be compared and shown; the type of what is no dict of tensors."""
    if not isinstance(tree, Mapping):
        return type(tree).__name__
    return {name: _kind(t) for name, t in tree.items()}


def _kind(t: Any) -> str:
    return f"{tuple(t.shape)} {t.dtype} on {t.device}" if isinstance(t, Tensor) else type(t).__name__


def changed(transform: Callable[[Tree, Batch], Tree], sent: Tree, batch: Batch, message: str = "the message") -> Tree:
    """What the transform makes of the messages. Raises ValueError where it is none of the same kind."""
    wanted = kinds(sent)  # before the transform, which may write into it
    asked = "a transform takes (sent, batch); return the same names and shapes in the same dtype"
    try:
        after = transform(sent, batch)
    except Exception as problem:  # the reader's own code may raise any
        raise ValueError(
            f"the transform {transform!r} fails on {message} {wanted}: {type(problem).__name__}: {problem}; {asked}"
        ) from problem
    if (found := kinds(after)) != wanted:
        raise ValueError(f"the transform {transform!r} makes {found} of {message} {wanted}; {asked}")
    return after


class Contract:
    """One method's promises; ``who`` begins every complaint."""

    def __init__(self, who: str, algorithm: Algorithm, f: Objective) -> None:
        self.who, self.algorithm, self.f = who, algorithm, f

    @contextmanager
    def named(self, method: str, asked: str) -> Iterator[None]:
        """What the method raises is a ValueError that says what it was asked for."""
        try:
            yield
        except Exception as problem:  # the reader's own code may raise any
            raise self.broken(f"{method} fails: {type(problem).__name__}: {problem}", asked) from problem

    def broken(self, what: str, asked: str) -> ValueError:
        return ValueError(f"{self.who}: {what}; {asked} (fmlab/algorithms/base.py)")

    def start(self, found: Any, runs: int) -> tuple[Tree, Tree]:
        """What ``start`` gave for fresh models (runs, 1, P)."""
        asked = f"return two dicts of tensors {(runs, 1)} + (numbers,): what the server holds, what a client keeps"
        held, kept = self._two("start", found, asked)
        self._rows("start", (held, kept), (runs, 1), asked)
        if missing := [name for name in self.algorithm.learned if name not in held]:
            raise self.broken(f"start holds {list(held)} and not {missing} of learned", "hold all that is learned")
        return held, kept

    def local(self, held: Tree, kept: Tree, batch: Batch) -> tuple[Tree, Tree]:
        """held, kept (R, C, .)."""
        asked = f"local reads of held {list(held)} and of kept {list(kept)}, and returns what a client sends and keeps"
        with self.named("local", asked):
            found = self.algorithm.local(self.f, held, kept, batch)
        sent, after = self._two("local", found, "return two dicts of tensors: what a client sends, what it keeps")
        self._rows("local", (sent,), tuple(batch.support.weight.shape[:2]), "send tensors (runs, clients, numbers)")
        if kinds(after) != kinds(kept):
            raise self.broken(f"local keeps {kinds(after)}, start {kinds(kept)}", "let both keep the same")
        return sent, after

    def serve(self, held: Tree, sent: Tree) -> Tree:
        """What the server holds (R, 1, .) afterwards, but for its optimiser's step."""
        a = self.algorithm
        learned = {name: held[name] for name in a.learned}
        asked = f"of what local sends, {list(sent)}, combine makes the mean of all that is learned, {list(a.learned)}"
        with self.named("combine", asked):
            mean = a.combine(self.f, held, sent, None)
            found = {name: mean[name] for name in learned if name in mean}
        if kinds(found) != kinds(learned):
            raise self.broken(f"the mean of the messages has {kinds(found)}, not {kinds(learned)}", asked)
        asked = "absorb returns all that is held, brought up to date"
        with self.named("absorb", asked):
            after = a.absorb(held, mean, 1.0)
        if kinds(after) != kinds(held):
            raise self.broken(f"absorb makes {kinds(after)} of {kinds(held)}", asked)
        return after

    def adapt(self, held: Tree, kept: Tree, batch: Batch) -> None:
        """held, kept (R, C, .)."""
        asked = "adapt gives the models (runs, clients, parameters) after 0, 1, ..., steps steps, steps + 1 in all"
        with self.named("adapt", asked):
            models = list(islice(self.algorithm.adapt(self.f, held, batch.support, STEPS), STEPS + 2))
        if len(models) != STEPS + 1:
            number = len(models) if len(models) <= STEPS else f"{len(models)} or more"
            raise self.broken(f"adapt gives {number} models for steps = {STEPS}", asked)
        with self.named("adapt", asked):
            self.f(models[-1], batch.support)
        like, size = next(iter(held.values())), models[-1].shape[-1]
        wanted = f"{(*batch.support.weight.shape[:2], size)} {like.dtype} on {like.device}"
        if (found := [_kind(u) for u in models]) != [wanted] * len(models):
            raise self.broken(f"adapt gives {found}, not {wanted} each", asked)
        asked = "personal returns None, or every client's model"
        with self.named("personal", asked):
            own = self.algorithm.personal(self.f, held, kept)
        if own is not None and _kind(own) != wanted:
            raise self.broken(f"personal gives {_kind(own)}, not {wanted}", asked)
        asked = "evaluations returns a number: the gradients that a client computes in an exchange"
        with self.named("evaluations", asked):
            float(self.algorithm.evaluations())

    def _two(self, method: str, found: Any, asked: str) -> tuple[Tree, Tree]:
        if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(t, Mapping) for t in found):
            shown = tuple(map(kinds, found)) if isinstance(found, (tuple, list)) else kinds(found)
            raise self.broken(f"{method} returns {shown}", asked)
        return found[0], found[1]

    def _rows(self, method: str, trees: Iterable[Tree], rows: tuple[int, ...], asked: str) -> None:
        for name, t in (item for tree in trees for item in tree.items()):
            if not isinstance(t, Tensor) or t.ndim != 3 or t.shape[:2] != rows:
                raise self.broken(f"{method} gives {name!r} as {_kind(t)}, not {rows} + (numbers,)", asked)
