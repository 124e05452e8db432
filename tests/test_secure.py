"""The secure sum: masks cancel, the server sees noise, and the key agreement is the one of RFC 7748."""

import numpy as np
import pytest
import torch

import fmlab as fm
from fmlab.data import Batch, Examples
from fmlab.secure import agreed, keys, mask
from fmlab.x25519 import agree, public

POPULATION = fm.Sines(n_clients=8, n_validation=2, n_unseen=3, support=4, query=3)
RUN = {"rounds": 3, "seeds": 2, "clients_per_round": 5, "steps": 1, "evaluations": 1}
METHODS = [fm.FedAvg(2, lr=0.02, adapt_lr=0.02), fm.FedMetaSGD(inner_lr=0.02, server=fm.SGD(0.01))]
RESOLUTION = 2.0**-32


def compare(**options):
    return fm.compare(METHODS, POPULATION, **RUN | options)


def batch(ids, seeds=(3, 8), round=5):
    ids = torch.as_tensor(ids).expand(len(seeds), -1)
    x = torch.zeros(*ids.shape, 1, 1)
    return Batch(Examples(x, x, x[..., 0] + 1), Examples(x, x, x[..., 0] + 1), seeds=seeds, round=round, ids=ids)


def test_the_key_agreement_of_rfc_7748():
    """Sec. 5.2: the first vector, and the first iteration."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert agree(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    nine = (9).to_bytes(32, "little")
    assert agree(nine, nine).hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    alice = bytes(range(1, 33))
    bob = bytes(range(32))
    assert agree(alice, public(bob)) == agree(bob, public(alice))


def test_two_clients_agree_and_each_pair_on_something_else():
    pairs = {agreed(0, i, j) for i in range(4) for j in range(i)}
    assert len(pairs) == 6
    assert all(agreed(0, i, j) == agreed(0, j, i) == agree(keys(0, i)[0], keys(0, j)[1]) for i, j in ((0, 1), (3, 2)))
    assert agreed(1, 0, 1) != agreed(0, 0, 1)
    masks = [mask(agreed(0, 0, 1), 5, *purpose) for purpose in ((1, 0, "model"), (2, 0, "model"), (1, 0, "rates"))]
    assert len(np.unique(masks)) == 15


@pytest.mark.parametrize("weights", ["uniform", "size"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_is_the_mean_to_the_fixed_points_resolution(weights, dropout):
    secure = fm.SecureSum()
    ids, g = [7, 0, 3, 12, 5], torch.Generator().manual_seed(1)
    b = batch(ids)
    sent = {name: torch.randn(2, 5, n, generator=g) for name, n in (("model", 6), ("rates", 2))}
    sizes = [1.0] * 5 if weights == "uniform" else [4.0, 9, 1, 30, 2]
    size = torch.tensor(sizes).view(1, 5, 1).expand(2, -1, -1)
    here = torch.ones(5, 1) if not dropout else torch.tensor([1.0, 0, 1, 1, 0])[:, None]
    weight = size * here / (size * here).sum(1, keepdim=True)
    plain = {name: (t * weight).sum(1, keepdim=True) for name, t in sent.items()}
    found = secure(sent, None if weights == "uniform" and not dropout else weight, b)
    for name, t in plain.items():
        assert (found[name] - t).abs().max() < 3 * RESOLUTION


def test_numbers_on_the_grid_are_summed_exactly():
    sent = {"model": torch.arange(-12, 12).view(1, 4, 6) / 4}
    found = fm.SecureSum(2)(sent, None, batch([1, 5, 2, 0], (0,)))
    assert torch.equal(found["model"], sent["model"].mean(1, keepdim=True))


def test_the_server_sees_numbers_as_likely_as_any_others():
    """Of zeros, and of anything else: the top byte of each masked number is uniform (chi-square, 255 degrees), and what
    is seen of the same messages in the next round is something else."""
    m = torch.zeros(4, 20_000, dtype=torch.float64)
    m[1] = 3.5
    seen = fm.SecureSum().masked(0, "model", m, batch([4, 2, 9, 1], (0,)))
    for row in seen:
        counts = np.bincount((row >> np.uint64(56)).astype(int), minlength=256)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 350  # 4e-5 of all draws are above
    later = fm.SecureSum().masked(0, "model", m, batch([4, 2, 9, 1], (0,), round=6))
    assert (later != seen).all()
    assert np.array_equal(seen.sum(0, dtype=np.uint64), np.full(20_000, int(3.5 * 2**32), dtype=np.uint64))


def test_no_smaller_sum_can_be_read():
    """The sum of three of four is as masked as one alone."""
    m = torch.zeros(4, 20_000, dtype=torch.float64)
    part = fm.SecureSum().masked(0, "model", m, batch([4, 2, 9, 1], (0,)))[:3].sum(0, dtype=np.uint64)
    counts = np.bincount((part >> np.uint64(56)).astype(int), minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 350


@pytest.mark.parametrize("options", [{}, {"dropout": 0.2}, {"weights": "size"}], ids=str)
def test_a_run_is_the_plain_one(options):
    plain, secure = compare(**options), compare(**options, mean=fm.SecureSum(40))
    for name in plain.names:
        assert torch.allclose(plain.adaptation[name], secure.adaptation[name], rtol=1e-6)
    assert secure.bytes_up["FedAvg"][-1] == 2 * plain.bytes_up["FedAvg"][-1]


def test_a_run_is_saved_and_resumed(tmp_path):
    compare(rounds=2, mean=fm.SecureSum(20)).save(tmp_path)
    resumed, whole = fm.load(tmp_path).resume(3), compare(mean=fm.SecureSum(20))
    assert torch.equal(resumed.adaptation["FedAvg"], whole.adaptation["FedAvg"])


def test_bad_input_is_said():
    with pytest.raises(ValueError, match=r"SecureSum of 1 client a round is its message; raise clients_per_round"):
        compare(clients_per_round=1, mean=fm.SecureSum())
    with pytest.raises(ValueError, match=r"SecureSum\.fraction_bits = 53 is outside \[1, 52\]"):
        fm.SecureSum(53)
    big, b = {"model": torch.full((1, 3, 2), 1e9)}, batch([0, 1, 2], (0,))
    with pytest.raises(ValueError, match=r"of 3 clients, a number of a message is at most 3\.58e\+08, .*fm\.Clip"):
        fm.SecureSum()(big, None, b)
    assert torch.equal(fm.SecureSum(8)(big, None, b)["model"], big["model"][:, :1])
    alone = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1)
    with pytest.raises(ValueError, match="in round 6 only one client of 3 answered"):
        fm.SecureSum(8)(big, alone, b)


def test_what_is_not_finite_stays_so():
    sent = {"model": torch.tensor([[[1.0], [float("nan")], [2.0]]])}
    assert fm.SecureSum()(sent, None, batch([0, 1, 2], (0,)))["model"].isnan().all()
