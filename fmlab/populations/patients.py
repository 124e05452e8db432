"""Which concentration will a patient have, hours after a dose? From a few early samples (a new patient).

Training patients are drawn from a textbook model of a drug that is swallowed once (theophylline): one compartment,
first order absorption, log-normal between patients. Per mg/kg of the dose, t hours after it, patient i has in mg/l

    c_i(t) = ka_i / (V_i ka_i - CL_i) (exp(-CL_i t / V_i) - exp(-ka_i t)),
    ln ka_i = ln 1.5 + 0.6 h z_1,   ln V_i = ln 0.5 + 0.2 h z_2,   ln CL_i = ln 0.04 + 0.3 h z_3,   z standard normal

ka per hour, V in l/kg, CL in l/h/kg (Winter 2010, Basic Clinical Pharmacokinetics, chapter on theophylline; spreads
rounded from what is usual between adults). Measured is c (1 + 0.1 e_1) + ``noise`` e_2. At h = 0 all patients are the
same, and h sets the spread of the three logarithms.

Samples are taken at ``HOURS``, each up to 10 per cent earlier or later; a patient's support set is the first
``shots`` of them, his query set the others. The input is log2 of the hours, the output (measured - 0.8) / 0.5,
numbers near zero and one; participating patients are scored on other measurements at later hours.

``real=True``: the unseen patients are the twelve subjects of a study (Upton; Boeckmann, Sheiner and Beal 1994, NONMEM
users guide, part V; R's data set Theoph, taken by ``tools/extract_clients.py``), measured at ten times after the
dose, concentrations divided by their dose. They are the same for every seed, at every h. The model that trains knows
nothing of them: its numbers are the textbook's, not fitted to these twelve.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from fmlab.data import Clients, examples
from fmlab.declare import choice, hyper
from fmlab.losses import SquaredError
from fmlab.models import MLP, Model
from fmlab.objective import Empirical
from fmlab.populations.base import Labels, Population
from fmlab.populations.difference import Difference
from fmlab.randomness import normal, uniform

HOURS = (0.25, 0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0, 24.0)
USUAL = (1.5, 0.5, 0.04)  # ka per hour, V in l/kg, CL in l/h/kg
SPREAD = (0.6, 0.2, 0.3)  # of their logarithms
MIDDLE, UNIT = 0.8, 0.5  # of a concentration per mg/kg, which is (y UNIT + MIDDLE) for an output y
SUBJECTS = 12


@dataclass(frozen=True)
class Patients(Population):
    heterogeneity: float = hyper(1.0, symbol="h", low=0.0, high=1.0, text="0: one patient for all; 1: the textbook's")
    shots: int = hyper(4, symbol="n_S", low=1, high=9, whole=True, text="early samples a patient's model adapts on")
    noise: float = hyper(0.05, symbol="σ", low=0.0, high=1.0, text="standard deviation of a measurement beside 10 %")
    real: bool = choice(False, (False, True), "unseen patients are the twelve of a real study")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.real and self.n_unseen > SUBJECTS:
            object.__setattr__(self, "n_unseen", SUBJECTS)

    def rates(self, split: str, seed: int) -> Tensor:
        """ka, V and CL of every patient (N, 3)."""
        who = "training" if split == "participating" else split
        z = normal((self.count(split), 3), "patients", seed, who)
        usual, spread = (torch.tensor(v, dtype=torch.float64) for v in (USUAL, SPREAD))
        return usual * (self.heterogeneity * spread * z).exp()

    def draw(self, split: str, seed: int) -> Clients:
        if split == "unseen" and self.real:
            hours, measured = (t[: self.n_unseen] for t in subjects())
        else:
            hours, measured = self._measured(split, seed)
        x, y = hours.log2()[None, :, :, None], ((measured - MIDDLE) / UNIT)[None, :, :, None]
        support, query = (examples(x[:, :, part], y[:, :, part]) for part in self._parts(x.shape[2]))
        return Clients(support, query, support.weight.new_full((1, len(hours)), float(x.shape[2])))

    def _parts(self, n: int) -> tuple[slice, slice]:
        return slice(0, self.shots), slice(self.shots, n)

    def _measured(self, split: str, seed: int) -> tuple[Tensor, Tensor]:
        """Hours and concentrations (N, 10); those that training patients are scored on are fresh."""
        who, rates = "training" if split == "participating" else split, self.rates(split, seed)
        shape, nominal = (len(rates), len(HOURS)), torch.tensor(HOURS, dtype=torch.float64)
        drawn = []
        for of in dict.fromkeys((who, split)):
            hours = nominal * uniform(shape, 0.9, 1.1, "hours", seed, of)
            level = concentration(rates, hours)
            error = 0.1 * level * normal(shape, "relative error", seed, of)
            drawn.append((hours, level + error + self.noise * normal(shape, "error", seed, of)))
        (hours, measured), (later, fresh) = drawn[0], drawn[-1]
        early = torch.arange(len(HOURS)) < self.shots
        return torch.where(early, hours, later), torch.where(early, measured, fresh)

    def difference(self, seed: int = 0, split: str = "training") -> Difference:
        """The share of the curves' variance, over patients and the nominal hours, that is between patients at the same
        hour, without errors."""
        hours = torch.tensor(HOURS, dtype=torch.float64)
        if split == "unseen" and self.real:
            curves = subjects()[1]
        else:
            rates = self.rates(split, seed)
            curves = concentration(rates, hours.expand(len(rates), -1))
        between, whole = float(curves.var(0, correction=0).mean()), float(curves.var(correction=0))
        return Difference(between / whole, "share of the curves' variance that is between patients at the same hour")

    def labels(self) -> Labels:
        return Labels("log2 of the hours since the dose", "mg/l per mg/kg of dose", y_scale=(MIDDLE, UNIT))

    def model(self) -> Model:
        """A ReLU network, 1-40-40-1, as for sines."""
        return MLP((1, 40, 40, 1))

    def objective(self, model: Model | None) -> Empirical:
        return Empirical(model or self.model(), SquaredError())


def concentration(rates: Tensor, hours: Tensor) -> Tensor:
    """c (N, n) in mg/l for a dose of 1 mg/kg, of rates (N, 3) at hours (N, n) after it."""
    ka, volume, clearance = (t[:, None] for t in rates.unbind(1))
    apart = volume * ka - clearance
    return ka / apart * ((-clearance / volume * hours).exp() - (-ka * hours).exp())


@cache
def subjects() -> tuple[Tensor, Tensor]:
    """Hours after the dose and concentrations per mg/kg of dose (12, 10) of the real subjects."""
    text = files("fmlab.populations").joinpath("files", "theoph.csv").read_text(encoding="utf-8")
    rows = [[float(v) for v in row] for row in list(csv.reader(text.splitlines()))[1:]]
    table = torch.tensor(rows, dtype=torch.float64).view(SUBJECTS, -1, 4)[:, 1:]  # the first is before the dose
    return table[:, :, 2], table[:, :, 3] / table[:, :, 1]
