"""Which fault has the bearing? The envelope of its vibration, on machines of their own (a new machine).

A fault makes an impact whenever a ball rolls over it. With n balls of diameter d on a circle of diameter D, a contact
angle of zero and a shaft that turns f_r times a second, impacts come at (McFadden and Smith 1984, J. Sound Vib.
96:69)

    outer race  n/2 (1 - d/D) f_r        inner race  n/2 (1 + d/D) f_r        ball  D/d (1 - (d/D)^2) f_r

each rings down as exp(-t / tau); those of the inner race come and go with the shaft, those of a ball with the cage,
which turns (1 - d/D) f_r / 2 times a second. The time between two impacts slips by 1 per cent. At heterogeneity h
machine i has

    f_r = 29 + 6 h u,  n = 9 + round(3 h u'),  d/D = 0.2 + 0.05 h u'',  tau = 2 ms exp(h z / 2),  u in [-1, 1], z normal

and faults, gain and noise of other sizes, exp(h z / 2) of each. At h = 0 all are the same machine. A healthy one
turns with a little unbalance. What a client sees is not the impacts but the envelope of the vibration, half a second
at 1,024 Hz; an example is its spectrum: the logarithm of the amplitudes from 0 to 256 Hz, in 64 bands.

``root``: a folder with files of Case Western Reserve University's bearing data
(https://engineering.case.edu/bearingdatacenter, drive end, 12,000 samples a second; 97.mat, 105.mat and so on, as
they are published). Then the unseen clients are its machines, a motor load and a fault diameter each, whose envelopes
are taken after McFadden and Smith: the absolute value of the analytic signal between 2 and 5 kHz. None of it ships
with fmlab; without the folder all machines are drawn.

Limits: one fault at a time, one sensor, and an envelope that is drawn instead of a vibration that is demodulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmlab.data import Clients, examples
from fmlab.declare import hyper
from fmlab.losses import CrossEntropy
from fmlab.models import MLP, Model
from fmlab.objective import Empirical
from fmlab.populations.base import Labels, Population
from fmlab.populations.collection import DataError
from fmlab.populations.difference import Difference, of_inputs
from fmlab.randomness import normal, uniform

FAULTS = ("healthy", "outer race", "inner race", "ball")
RATE, SAMPLES, BANDS = 1024, 512, 64  # of an envelope: a second, in an example, of its spectrum
DTYPE = torch.float32  # of an example, whatever torch's default is
SLIP = 0.01
IMPACTS = 150  # drawn for an example, whatever the machine, of which none has more than 263 a second

# Case Western's files: motor load 0 to 3 -> healthy, and fault diameter in mils -> outer (at 6 o'clock), inner, ball.
HEALTHY = (97, 98, 99, 100)
FAULTY = {7: (130, 105, 118), 14: (197, 169, 185), 21: (234, 209, 222)}  # at load 0; loads 1 to 3 follow
BAND, SECONDS = (2000.0, 5000.0), 0.5
SOURCE_RATE = 12_000


@dataclass(frozen=True)
class Bearings(Population):
    n_clients: int = hyper(200, symbol="N", low=1, high=10**5, whole=True, text="machines that may take part")
    heterogeneity: float = hyper(1.0, symbol="h", low=0.0, high=1.0, text="0: one machine for all; 1: their own each")
    shots: int = hyper(2, symbol="K", low=1, high=50, whole=True, text="half seconds of each fault a client adapts on")
    query: int = hyper(
        4, symbol="n_Q", low=1, high=50, whole=True, text="half seconds of each it is scored on, training"
    )
    test: int = hyper(8, symbol="n_T", low=1, high=50, whole=True, text="half seconds of each it is scored on, unseen")
    noise: float = hyper(0.3, symbol="σ", low=0.0, high=5.0, text="of the envelope, beside impacts of size 1")
    root: str | Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.root is not None:
            found = len(_machines(str(self.root)))
            if self.n_unseen > found:
                object.__setattr__(self, "n_unseen", found)

    def draw(self, split: str, seed: int) -> Clients:
        """Raises DataError for a folder whose machines have fewer half seconds than ``shots`` and ``test`` say."""
        who, fresh = "training" if split == "participating" else split, self.test if split != "training" else self.query
        if split == "unseen" and self.root is not None:
            support, query = self._real(fresh)
        else:
            support = self._spectra(who, "support", seed, self.shots)
            query = self._spectra(who, f"query {split}", seed, fresh)
        sizes = torch.full((1, len(support)), float(len(FAULTS) * (self.shots + self.query)), dtype=torch.float64)
        return Clients(_examples(support), _examples(query), sizes)

    def difference(self, seed: int = 0, split: str = "training") -> Difference:
        """Of the spectra: every machine has all faults."""
        clients = self.draw(split, seed)
        labels, who = self._targets(split, seed)
        x = torch.cat([e.x[0].flatten(0, 1) for e in clients.everyone()])
        return of_inputs(x.double(), labels, who)

    def labels(self) -> Labels:
        return Labels("band of the envelope's spectrum", "fault", FAULTS)

    def model(self) -> Model:
        """A ReLU network with one hidden layer of 32."""
        return MLP((BANDS, 32, len(FAULTS)))

    def objective(self, model: Model | None) -> Empirical:
        return Empirical(model or self.model(), CrossEntropy())

    def _spectra(self, who: str, part: str, seed: int, number: int) -> Tensor:
        """(N, faults, number, BANDS)."""
        n, h = self.count(who), self.heterogeneity
        u = uniform((n, 3), -1.0, 1.0, "machines", seed, who)
        z = normal((n, 6), "machines' sizes", seed, who)
        turns, ratio = 29 + 6 * h * u[:, 0], 0.2 + 0.05 * h * u[:, 2]
        balls, tau = 9 + (3 * h * u[:, 1]).round(), 0.002 * (h * z[:, 0] / 2).exp()
        size = (h * z[:, 1:4] / 2).exp()  # of each fault's impacts
        gain, noise = (h * z[:, 4] / 2).exp(), self.noise * (h * z[:, 5] / 2).exp()
        rates = impacts(turns, balls, ratio)  # (N, 3)
        modulation = torch.stack([torch.zeros_like(turns), turns, (1 - ratio) * turns / 2], 1)
        shape = (n, len(FAULTS), number)
        wave = torch.zeros(*shape, SAMPLES, dtype=DTYPE)
        t = torch.arange(SAMPLES, dtype=DTYPE) / RATE
        for k in range(3):
            purpose = f"bearings {part} {FAULTS[k + 1]}"
            drawn = uniform((*shape[::2], IMPACTS + 1), 0.0, 1.0, purpose, seed, who).to(DTYPE)
            gaps = (1 + SLIP * (2 * drawn[..., 1:] - 1)) / rates[:, k, None, None].to(DTYPE)
            times = gaps.cumsum(-1) - drawn[..., :1] * gaps[..., :1]  # (N, number, IMPACTS)
            strength = 1 + 0.7 * torch.cos(2 * torch.pi * modulation[:, k, None, None].to(DTYPE) * times) * (k > 0)
            wave[:, k + 1] = _ringing(t, times, strength * size[:, k, None, None].to(DTYPE), tau.to(DTYPE))
        phase = uniform((*shape, 1), 0.0, 2 * math.pi, f"bearings {part} phase", seed, who).to(DTYPE)
        turning = torch.cos(2 * torch.pi * turns[:, None, None, None].to(DTYPE) * t + phase)
        hiss = normal((*shape, SAMPLES), f"bearings {part} noise", seed, who).to(DTYPE)
        envelope = wave + 0.1 * turning + noise[:, None, None, None].to(DTYPE) * hiss.abs()
        return bands(gain[:, None, None, None].to(DTYPE) * envelope)

    def _real(self, fresh: int) -> tuple[Tensor, Tensor]:
        machines = _machines(str(self.root))[: self.n_unseen]
        fewest = min(len(m) for machine in machines for m in machine)
        if self.shots + fresh > fewest:
            raise DataError(
                f"{self.root}: a machine has {fewest} half seconds of a fault, and Bearings.shots + Bearings.test = "
                f"{self.shots} + {fresh}; lower one of them"
            )
        support = torch.stack([torch.stack([m[: self.shots] for m in machine]) for machine in machines])
        query = torch.stack([torch.stack([m[-fresh:] for m in machine]) for machine in machines])
        return support, query


def impacts(turns: Tensor, balls: Tensor, ratio: Tensor) -> Tensor:
    """Impacts a second (N, 3) of a fault of the outer race, of the inner race, and of a ball."""
    return torch.stack(
        [balls / 2 * (1 - ratio) * turns, balls / 2 * (1 + ratio) * turns, (1 - ratio * ratio) / ratio * turns], 1
    )


def bands(envelope: Tensor) -> Tensor:
    """Log amplitudes (..., BANDS) of an envelope (..., SAMPLES) up to a quarter of its rate, its mean taken off, in
    units of the mean amplitude: so a sensor's gain does not count."""
    amplitude = torch.fft.rfft(envelope - envelope.mean(-1, keepdim=True)).abs()[..., 1 : SAMPLES // 4 + 1]
    pooled = amplitude.unflatten(-1, (BANDS, -1)).amax(-1)
    relative: Tensor = pooled / pooled.mean(-1, keepdim=True)
    return relative.clamp(min=1e-3).log()


def _ringing(t: Tensor, times: Tensor, strength: Tensor, tau: Tensor) -> Tensor:
    """Sum over impacts at ``times`` (N, number, most) of strength exp(-(t - time) / tau), tau (N,) -> (N, number, n):
    what the first sample after each impact hears, and its decay from there."""
    n, tau = len(t), tau[:, None, None]
    place = (times * RATE).ceil()
    heard = torch.where(place < n, strength * (-(place / RATE - times) / tau).exp(), 0.0)
    wave = torch.zeros(*times.shape[:2], n, dtype=times.dtype)
    wave.scatter_add_(-1, place.clamp(max=n - 1).long(), heard)
    decay = torch.fft.rfft((-t / tau).exp(), 2 * n)
    ringing: Tensor = torch.fft.irfft(torch.fft.rfft(wave, 2 * n) * decay, 2 * n)[..., :n]
    return ringing


def _examples(spectra: Tensor) -> Any:
    n, faults, number, _ = spectra.shape
    y = torch.arange(faults).repeat_interleave(number).expand(1, n, -1)
    return examples(spectra.flatten(1, 2)[None], y)


@lru_cache(maxsize=2)
def _machines(root: str) -> list[list[Tensor]]:
    """Of every machine in the folder the spectra (number, BANDS) of each fault, in the order of FAULTS."""
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"root = {root!r} is no folder; give the one with Case Western's .mat files, or None")
    held = {p.stem: p for p in sorted(folder.rglob("*.mat"))}
    found = []
    for load, healthy in enumerate(HEALTHY):
        for part, faulty in enumerate(FAULTY.values()):
            names = [str(healthy), *(str(first + load) for first in faulty)]
            if all(name in held for name in names):
                spectra = [_spectra_of(held[name]) for name in names]
                spectra[0] = spectra[0][part :: len(FAULTY)]  # three machines share the healthy one
                found.append(spectra)
    if not found:
        wanted = ", ".join(f"{n}.mat" for n in (HEALTHY[0], *FAULTY[7]))
        raise DataError(
            f"{root} has no machine with all four conditions; the first one has {wanted}, under the names that they "
            "are published under"
        )
    return found


def _spectra_of(path: Path) -> Tensor:
    """(number, BANDS) of the drive end's signal in one file."""
    from scipy.io import loadmat
    from scipy.signal import butter, hilbert, sosfiltfilt

    try:
        content = loadmat(path)
    except Exception as problem:  # whatever scipy raises
        raise DataError(f"{path} is no .mat file of MATLAB 5, or a damaged one: {problem}") from problem
    names = [k for k in content if k.endswith("_DE_time")]
    own = [k for k in names if path.stem in k] or names
    if not own:
        raise DataError(f"{path} holds {sorted(k for k in content if k[0] != '_')}, and no signal ..._DE_time")
    signal = np.asarray(content[own[0]], dtype=np.float64).ravel()
    rate = SOURCE_RATE if int(path.stem) not in HEALTHY else 4 * SOURCE_RATE
    signal = signal[:: rate // SOURCE_RATE] if rate == SOURCE_RATE else _slower(signal, rate // SOURCE_RATE)
    length = round(SECONDS * SOURCE_RATE)
    pieces = signal[: len(signal) // length * length].reshape(-1, length)
    if len(pieces) < 2 or not np.isfinite(pieces).all():
        raise DataError(f"{path} holds {len(signal)} samples, less than a second, or some that are no numbers")
    passed = sosfiltfilt(butter(4, BAND, "bandpass", fs=SOURCE_RATE, output="sos"), pieces)
    envelope = np.abs(hilbert(passed))
    at = np.arange(SAMPLES) * (SOURCE_RATE / RATE)
    wide = int(SOURCE_RATE / RATE)
    smooth = np.apply_along_axis(lambda e: np.convolve(e, np.ones(wide) / wide, "same"), 1, envelope)
    slow = np.stack([np.interp(at, np.arange(length), e) for e in smooth])
    return bands(torch.from_numpy(slow).to(DTYPE))


def _slower(signal: Any, factor: int) -> Any:
    from scipy.signal import decimate

    return decimate(signal, factor)
