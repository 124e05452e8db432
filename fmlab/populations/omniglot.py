"""Omniglot: characters of many alphabets, 20 drawers each (Lake et al. 2015, Science 350:1332), as federated tasks.

A client tells ``ways`` characters apart (``fewshot.py`` says what heterogeneity moves; there is one style). Whole
alphabets are held out: ``unseen_alphabets`` for unseen clients, ``validation_alphabets`` for choosing step sizes, the
rest trains. Which ones is a function of the seed, so that a spread over seeds holds the choice of alphabets too. Where
the published evaluation set is under ``root``, its alphabets are the unseen ones at every seed.

The last ``shots + test`` drawers of a character are kept for everything but training; the others train. With
``rotations``, training characters turned by 90, 180 and 270 degrees are characters of their own (Santoro et al. 2016,
1605.06065); unseen clients hold upright ones only. Published figures are for the full set: two minimal sets hold 242
characters of 1,623, so theirs do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from fmlab.declare import choice, hyper
from fmlab.models import Model, conv
from fmlab.populations import omniglot_files as files
from fmlab.populations.fewshot import Bank, FewShot, Pool
from fmlab.randomness import shuffled


@dataclass(frozen=True)
class Omniglot(FewShot):
    """``root`` holds the published zips or folders; ``download=True`` gets the full set's two zips into it first.

    Raises OmniglotError (a ValueError) for missing, damaged or unsafe files, all before any training.
    """

    root: str | Path = "data/omniglot"
    download: bool = choice(False, (False, True), "get the full set (20 MB) into root first")
    size: int = hyper(28, symbol="s", low=14, high=105, whole=True, sweepable=False, text="pixels a side, by area")
    rotations: bool = choice(True, (False, True), "turned training characters are characters of their own")
    unseen_alphabets: int = hyper(
        2, symbol="A_u", low=1, high=40, whole=True, sweepable=False, text="alphabets held out for unseen clients"
    )
    validation_alphabets: int = hyper(
        1, symbol="A_v", low=1, high=40, whole=True, sweepable=False, text="alphabets step sizes are chosen on"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.download:
            files.download(self.root)
        drawings = files.load(self.root, self.size)
        alphabets = len(set(drawings.alphabet))
        given = len(drawings.evaluation) or self.unseen_alphabets
        if given + self.validation_alphabets >= alphabets:
            raise ValueError(
                f"Omniglot.validation_alphabets = {self.validation_alphabets} and {given} unseen alphabets leave none "
                f"of the {alphabets} under {str(self.root)!r} to train on; hold out fewer, or add another set"
            )
        drawers, kept = len(_rows(drawings)[0]), self.shots + self.test
        if self.shots + self.query > drawers - kept:
            raise ValueError(
                f"Omniglot.shots = {self.shots}, query = {self.query}, test = {self.test}: a character has {drawers} "
                f"drawings, of which shots + test = {kept} are kept from training and shots + query = "
                f"{self.shots + self.query} train; give 2 shots + query + test <= {drawers}"
            )

    def span(self, name: str) -> tuple[float, float]:
        drawers = len(_rows(files.load(self.root, self.size))[0])
        most = {
            "shots": (drawers - self.query - self.test) // 2,
            "query": drawers - 2 * self.shots - self.test,
            "test": drawers - 2 * self.shots - self.query,
        }
        return (1, most[name]) if name in most else super().span(name)

    def alphabets(self, split: str, seed: int) -> list[str]:
        """The alphabets of "training", "validation" or "unseen" clients."""
        drawings = files.load(self.root, self.size)
        names = sorted(set(map(str, drawings.alphabet)) - drawings.evaluation)
        order = [names[i] for i in shuffled(len(names), "omniglot alphabets", seed)]
        unseen = sorted(drawings.evaluation) or [order.pop() for _ in range(self.unseen_alphabets)]
        held = [order.pop() for _ in range(self.validation_alphabets)]
        return {"unseen": unseen, "validation": held}.get(split, order)

    def characters(self) -> list[tuple[str, str]]:
        """(alphabet, character) of class 0, 1, ...; c + k * their number is class c turned k times by 90 degrees."""
        drawings = files.load(self.root, self.size)
        return [(str(drawings.alphabet[r[0]]), str(drawings.character[r[0]])) for r in _rows(drawings)]

    def bank(self) -> Bank:
        return _bank(files.load(self.root, self.size), self.shots + self.test, 4 if self.rotations else 1)

    def pool(self, split: str, seed: int) -> Pool:
        characters = self.characters()
        names = set(self.alphabets(split, seed))
        upright = torch.tensor([c for c, (alphabet, _) in enumerate(characters) if alphabet in names])
        turns = 4 if self.rotations and split == "training" else 1
        classes = torch.cat([upright + k * len(characters) for k in range(turns)])
        return Pool(classes[shuffled(len(classes), "omniglot classes", seed, split)], torch.zeros(1).long())

    def model(self) -> Model:
        """Four convolutional blocks of 32 filters."""
        return conv(self.ways, width=32, size=self.size)


@lru_cache(maxsize=4)
def _bank(drawings: files.Drawings, kept: int, turns: int) -> Bank:
    upright = torch.from_numpy(drawings.ink).float() / 255
    images = torch.cat([torch.rot90(upright, k, (1, 2)) for k in range(turns)])
    rows = torch.from_numpy(_rows(drawings))
    rows = torch.cat([rows + k * len(upright) for k in range(turns)])[None]
    return Bank(images, rows[..., :-kept], rows[..., -kept:])


def _rows(drawings: files.Drawings) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """(characters, drawers) rows of ``ink``. Raises OmniglotError where a character lacks drawings."""
    starts = np.flatnonzero(
        np.r_[
            True,
            (drawings.character[1:] != drawings.character[:-1]) | (drawings.alphabet[1:] != drawings.alphabet[:-1]),
        ]
    )
    counts = np.diff(np.r_[starts, len(drawings.ink)])
    if (counts != counts.max()).any():
        short = starts[np.flatnonzero(counts != counts.max())[0]]
        raise files.OmniglotError(
            f"{drawings.alphabet[short]}/{drawings.character[short]} has fewer drawings than the {counts.max()} "
            "of other characters; the set is incomplete: unpack or download it again"
        )
    return starts[:, None] + np.arange(counts.max())
