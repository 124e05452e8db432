"""What a run with Clip and Noise spent: (epsilon, delta)-differential privacy, the unit a client with all it holds.

Clients send messages no longer than C. Replacing one client by another moves their sum by at most 2 C, so noise of
standard deviation s on the sum is the Gaussian mechanism with noise multiplier z = s / (2 C). Without sampling the
number is exact (Balle and Wang 2018, 1805.06530). With it, runs are accounted by Renyi differential privacy (Mironov
2017, 1702.07476) through the package dp-accounting: where a fixed number of clients is drawn without replacement, as
fmlab does, by Wang, Balle and Kasiviswanathan 2019 (1808.00087). The number of another sampling is another one.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from fmlab.engine import answers, sampled
from fmlab.secure import SecureSum
from fmlab.transforms import Clip, Liars, Noise, Quantize, TopK

if TYPE_CHECKING:
    from fmlab.study import Study

INSTALL = "python tools/install.py privacy"
SAMPLINGS = ("fixed", "poisson", "none")
ONLOOKERS = ("models", "server")


class Epsilon(float):
    """A number, and what it is a number of: ``says``, a sentence; ``methods``, by method, where they differ."""

    says: str
    methods: dict[str, float]

    def __new__(cls, value: float, says: str, methods: dict[str, float]) -> Epsilon:
        self = super().__new__(cls, value)
        self.says, self.methods = says, methods
        return self


def spent(
    noise_multiplier: float,
    releases: int,
    delta: float,
    sampling: str = "none",
    clients: int = 1,
    per_round: int = 1,
) -> float:
    """Epsilon of so many Gaussian releases.

    noise_multiplier: the noise's standard deviation by how far one client can move the sum. sampling: "fixed",
    per_round of all clients drawn anew for each release without replacement, neighbours differ in one client replaced;
    "poisson", each client by itself with probability per_round / clients, neighbours in one added or left out, who
    moves the sum half as far; "none", no sampling, or one that the onlooker knows.

    Raises ValueError naming what is out of range, ModuleNotFoundError where dp-accounting is missing.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta!r} is not a number in (0, 1); below 1 / clients, for example 1e-5")
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling = {sampling!r} is not one of {SAMPLINGS}")
    if not noise_multiplier >= 0 or releases < 0 or not 1 <= per_round <= clients:
        raise ValueError(
            f"noise_multiplier = {noise_multiplier!r}, releases = {releases!r}, per_round = {per_round!r} of clients = "
            f"{clients!r}: none is below 0, and per_round is from 1 to clients"
        )
    if releases == 0 or noise_multiplier == math.inf:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    if sampling == "none" or per_round == clients:
        return _exact(noise_multiplier / math.sqrt(releases), delta)  # as many releases are one of less noise
    dp = _accounting()
    event: Any = dp.GaussianDpEvent(noise_multiplier)
    if sampling == "poisson":
        event = dp.PoissonSampledDpEvent(per_round / clients, event)
        neighbours = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    else:
        event = dp.SampledWithoutReplacementDpEvent(clients, per_round, event)
        neighbours = dp.NeighboringRelation.REPLACE_ONE
    accountant = dp.rdp.RdpAccountant(neighboring_relation=neighbours)
    return float(accountant.compose(event, releases).get_epsilon(delta))


def _exact(z: float, delta: float) -> float:
    """Of one Gaussian release, where Theorem 8 of 1805.06530 gives delta."""
    from scipy.optimize import brentq  # here, since it takes longer to import than all of fmlab's own
    from scipy.special import log_ndtr, ndtr

    def above(e: float) -> float:
        near, far = 1 / (2 * z) - e * z, -1 / (2 * z) - e * z
        return float(ndtr(near) - math.exp(e + log_ndtr(far)) - delta)

    if above(0.0) <= 0:
        return 0.0
    high = 1.0
    while above(high) > 0:
        high *= 2
    return float(brentq(above, 0.0, high, xtol=1e-12))


def _accounting() -> ModuleType:
    try:
        return importlib.import_module("dp_accounting")
    except ModuleNotFoundError as problem:
        raise ModuleNotFoundError(
            f"fm.privacy counts by the package dp-accounting, and {problem.name} is not installed: {INSTALL}"
        ) from problem


@dataclass(frozen=True)
class _Protection:
    """Noise by how far one client can move things, of the transforms in their order."""

    message: float  # on one message as the server receives it
    plain: bool  # whether nothing happens to a message after its noise, so that a sum of them has the noise of all
    central: float  # that the server adds, on the sum
    why: str  # why there is none, where there is none


def _protection(transforms: tuple[Any, ...]) -> _Protection:
    bound, clip, message, central, plain = math.inf, math.inf, 0.0, 0.0, True  # clip: as it was before the noise
    why = "no message is clipped, so one client can move the sum as far as it likes"
    for t in transforms:
        if isinstance(t, Noise) and t.at_server:
            central = t.std
        elif isinstance(t, Noise):
            if t.std > 0:
                message, clip, bound, plain = _by(t.std, bound), bound, math.inf, True
        elif isinstance(t, Clip):
            bound, plain = min(bound, t.norm), plain and not message
        elif isinstance(t, TopK):
            plain = plain and not message
        elif isinstance(t, Quantize | Liars):
            bound, plain = math.inf, plain and not message
            why = f"{t!r} makes messages longer than they were clipped to"
        else:  # it is given the examples, and may send them
            bound, message = math.inf, 0.0
            why = f"nothing is known of the transform {t!r}"
    if bound < math.inf or message > 0:
        why = "no noise is added"
    # Where the noise is the last that happens to a message, the server's is on the same sum of clipped ones.
    return _Protection(message, plain, _by(central, clip if plain and message > 0 else bound), why)


def _by(std: float, clip: float) -> float:
    """The noise multiplier where one client is replaced; of messages that are clipped to 0 noise hides all."""
    if clip == 0:
        return math.inf if std > 0 else 0.0
    return std / (2 * clip)


def epsilon(study: Study, delta: float = 1e-5, against: str = "models") -> Epsilon:
    """What one run of the study spent, for the client whose data are protected least.

    Args:
        study: made by ``compare`` with ``transforms=[fm.Clip(...), fm.Noise(...)]``.
        delta: in (0, 1); below 1 / clients, or a run that publishes one client's data passes as private.
        against: "models": whoever sees every model that the server held, and neither messages nor who took part. The
            server is trusted; its own noise counts, and so does that of all messages in a sum. "server": the server
            itself, which knows who took part and sees each message (only their sum with fm.SecureSum); its own noise
            does not count, nor does sampling.

    Neighbours are two populations with one client replaced; against the models of a run with sampling = "poisson", with
    one client added or left out, who moves the sum half as far, by the server's noise alone (a client that is left out
    takes its own along). Infinite where messages are not clipped before the noise,
    or where there is none; ``says`` of what is returned says why, and ``methods`` holds each method's number.

    What counts: every message of every exchange. FedMetaSGD's two entries are clipped together, as one message, and
    count once; a method with several exchanges a round (FedMA) counts each; one that sends nothing spends 0. A
    meta-gradient counts as any other message: that it was taken through inner steps does not make it private.
    What clients keep (Scaffold's control, FedPer's head) never leaves them and costs nothing by itself. But what a
    client sends then depends on when it took part before, so drawing clients anew hides nobody: for every method whose
    clients keep something the number is that of the client asked most often, without sampling, though some (Ditto,
    pFedMe) may spend less. A robust mean, weights by size and FedMA's matching do not take sums: only the noise that
    is on each message counts for them.
    What does not count: step sizes tuned on validation clients; clients' numbers of examples, which are taken as known.
    The number is for one method and seed: all methods of a study meet the same noise, so publishing two of them gives
    more away. It is of ideal normal noise from a secret source, not of floats from a seed that is known.

    Raises ValueError for delta or against out of range, ModuleNotFoundError where dp-accounting is missing.
    """
    if against not in ONLOOKERS:
        raise ValueError(f"against = {against!r} is not one of {ONLOOKERS}")
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta!r} is not a number in (0, 1); below 1 / clients, for example 1e-5")
    setup, config = study.setup, study.config
    clients, per_round = config["clients"].n_clients, config["clients_per_round"]
    rounds, protection = int(study.rounds[-1]), _protection(config["transforms"])
    secure = isinstance(config["mean"], SecureSum)
    poisson = config["sampling"] == "poisson" and against == "models"
    sums = config["weights"] == "uniform" and (config["mean"] is None or secure)
    least, most = _taking_part(study, rounds)
    found, says = {}, {}
    for name, algorithm in setup.algorithms.items():
        seen_whole = against == "server" and not secure
        z = protection.message
        if not seen_whole and sums and algorithm.averages:
            together = z * math.sqrt(least) if protection.plain else z
            central = protection.central if against == "models" else 0.0
            z = math.hypot(together, central) if protection.plain else max(together, central)
        if poisson:
            z = 2 * protection.central if sums and algorithm.averages else 0.0
        exchanges = algorithm.phases(algorithm.objective(setup.objective))
        z /= math.sqrt(exchanges)  # several of the same clients: one of that much less noise
        keeps = any(bool(kept) for kept in (study.kept or {}).get(name, [{}]))
        anew = against == "models" and not keeps
        if float(study.bytes_up[name].sum()) == 0:
            found[name], says[name] = 0.0, "nothing is sent"
        elif z == 0:
            found[name] = math.inf
            says[name] = protection.why if protection.why != "no noise is added" else _unheard(protection, against)
            if poisson and protection.message > 0:
                says[name] = "with sampling = 'poisson' only the server's noise, on a sum of clipped messages, counts"
        elif anew:
            found[name] = spent(z, rounds, delta, config["sampling"], clients, per_round)
            drawn = "each by itself" if poisson else "drawn without replacement"
            says[name] = f"{rounds} rounds of {per_round} of {clients} clients, {drawn}"
        else:
            found[name] = spent(z, most, delta)
            says[name] = f"{most} rounds of the client that took part most often, no credit for sampling"
    worst = max(found, key=lambda name: found[name])
    whom = "whoever sees the models" if against == "models" else "the server"
    neighbours = "one client added or left out" if poisson else "one client replaced"
    sentence = (
        f"epsilon = {found[worst]:.3g} at delta = {delta:g} against {whom}, neighbours: {neighbours}; {says[worst]}"
    )
    return Epsilon(found[worst], sentence, found)


def _unheard(protection: _Protection, against: str) -> str:
    if protection.central > 0 and against == "server":
        return "the server adds the noise itself"
    return "no noise is added" if protection.central == 0 else "the server's noise is not on a sum of clipped messages"


def _taking_part(study: Study, rounds: int) -> tuple[int, int]:
    """The fewest answers of a round that had any, and the most rounds in which one client answered, over all seeds."""
    config = study.config
    seeds, n, per_round = config["seeds"], config["clients"].n_clients, config["clients_per_round"]
    dropout, sampling = config["dropout"], config["sampling"]
    if per_round == n and dropout == 0:
        return n, rounds
    times, least = torch.zeros(len(seeds), n, dtype=torch.int64), n
    for t in range(rounds):
        places, part = sampled(seeds, n, per_round, t, sampling)
        here = torch.ones_like(places, dtype=torch.bool) if part is None else part
        if dropout > 0:
            called = study.setup.training.called(places.to(study.setup.training.sizes.device))
            here = here & answers(seeds, called, t, dropout).cpu()
        least = min(least, int(here.sum(1).clamp(min=1).min()))
        times.scatter_add_(1, places, here.to(torch.int64))
    return least, int(times.max())
