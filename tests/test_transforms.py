"""What happens to messages on their way: nothing at the sliders' ends, and to nobody because of the others."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlab as fm
from fmlab.data import Batch, Examples
from fmlab.engine import gather
from fmlab.transforms import norms

POPULATION = fm.Sines(n_clients=6, n_validation=2, n_unseen=3, support=4, query=3)
ADAM = fm.Adam(lr=0.01)  # nothing is searched for
METHODS = [fm.FedAvg(2, lr=0.02, adapt_lr=0.02), fm.FedMetaSGD(inner_lr=0.02, server=ADAM), fm.FedMA(1, 0.02, 0.02)]
RUN = {"rounds": 3, "seeds": 2, "clients_per_round": 4, "steps": 1, "evaluations": 1}
LIES = [fm.Liars(0.5, "noise"), fm.Liars(0.5, "opposite"), fm.Liars(0.5, "scaled")]
EVERY = [fm.Clip(0.05), fm.Noise(0.1), fm.Quantize(3), fm.TopK(0.4), *LIES]


def compare(transforms=(), methods=METHODS[:2], **options):
    return fm.compare(methods, POPULATION, **RUN | options, transforms=transforms)


def batch(ids, seeds=(3, 8), round=5, values=1):
    ids = torch.as_tensor(ids).expand(len(seeds), -1)
    shape = (values * len(seeds), ids.shape[1], 1)
    empty = Examples(torch.zeros(*shape, 1), torch.zeros(*shape, 1), torch.ones(shape))
    return Batch(empty, empty, seeds=seeds, round=round, ids=ids)


def message(clients=5, runs=2, width=7, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    names = {"model": width, "rates": 3}
    return {
        name: torch.randn(runs, clients, n, generator=g, dtype=torch.float64).to(dtype) for name, n in names.items()
    }


def same(a, b):
    for name in a.names:
        assert torch.equal(a.adaptation[name], b.adaptation[name])
        for k, t in a.held[name].items():
            assert torch.equal(t, b.held[name][k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clip_at_infinity_and_noise_0_change_no_bit(dtype):
    plain = compare(methods=METHODS, dtype=dtype)
    nothing = [fm.Clip(math.inf), fm.Noise(0.0), fm.Noise(0.0, by="server"), fm.TopK(1.0)]
    same(plain, compare(nothing, METHODS, dtype=dtype))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.0, 1e3), st.integers(0, 99))
def test_clip_shortens_what_is_longer_and_keeps_its_direction(norm, seed):
    sent = message(seed=seed)
    after, before = fm.Clip(norm)(sent, batch(range(5))), norms(sent)
    assert torch.allclose(norms(after), before.clamp(max=norm), rtol=1e-12)
    for name, t in sent.items():
        assert torch.allclose(after[name] * before, t * norms(after), rtol=1e-12)
    short = (before <= norm).squeeze(-1)
    assert all(torch.equal(after[name][short], t[short]) for name, t in sent.items())


def test_clip_takes_a_message_of_zeros():
    zeros = {"model": torch.zeros(1, 2, 3)}
    assert torch.equal(fm.Clip(0.0)(zeros, batch([0, 1], (0,)))["model"], zeros["model"])


@pytest.mark.parametrize("transform", EVERY, ids=str)
def test_alone_as_in_company_and_in_any_order(transform):
    sent, ids = message(), torch.tensor([4, 0, 91, 7, 2])
    whole = transform(sent, batch(ids))
    for order in ([2], [3, 1], [4, 3, 2, 1, 0]):
        part = transform({name: t[:, order] for name, t in sent.items()}, batch(ids[order]))
        for name, t in part.items():
            assert torch.equal(t, whole[name][:, order])
    other = {name: torch.cat([t[:, :1], 9 * t[:, 1:]], 1) for name, t in sent.items()}  # others' messages do not matter
    for name, t in transform(other, batch(ids)).items():
        assert torch.equal(t[:, 0], whole[name][:, 0])


def test_noise_differs_by_seed_round_exchange_client_entry_and_place():
    zeros = {name: torch.zeros(2, 4, 3) for name in ("model", "rates")}
    noise = fm.Noise(1.0)
    b = batch([0, 1, 2, 3])
    draws = [noise(zeros, x) for x in (b, replace(b, round=6), replace(b, phase=1))]
    values = torch.cat([t.flatten() for tree in draws for t in tree.values()])
    assert len(values.unique()) == len(values)
    repeated = {name: t.repeat(2, 1, 1) for name, t in zeros.items()}  # two swept values of both seeds
    assert torch.equal(noise(repeated, batch([0, 1, 2, 3], values=2))["model"][2:], draws[0]["model"])


@pytest.mark.parametrize("by", ["client", "server"])
def test_noise_is_normal_with_this_standard_deviation(by):
    """The Kolmogorov-Smirnov distance of n normal draws stays below 1.95 / sqrt(n) in 999 of 1000 samples."""
    b, n = batch(range(40), (1,)), 40 * 500
    if by == "client":
        draws = fm.Noise(0.3)({"model": torch.zeros(1, 40, 500)}, b)["model"] / 0.3
    else:  # on the sum of 40
        draws = fm.Noise(0.3, by).on_mean({"model": torch.zeros(1, 1, n)}, 40, b)["model"] * 40 / 0.3
    ranked = torch.special.ndtr(draws.flatten().sort().values)
    assert (ranked - torch.arange(n) / n).abs().max() < 1.95 / n**0.5


def test_the_servers_noise_is_on_the_sum_of_those_who_answered():
    sent, b = message(clients=4), batch([5, 1, 0, 3])
    noise = fm.Noise(0.2, by="server")
    assert noise(sent, b) is sent  # no client adds it
    weight = torch.tensor([0.5, 0.0, 0.5, 0.0]).view(1, 4, 1).expand(2, -1, -1)
    for w, n in ((None, 4), (weight, 2)):
        mean, none = gather(sent, w, b, [fm.Clip(9.0), noise])
        assert none is None
        away = (mean["model"] - sum(sent["model"][:, [i]] * (0.25 if w is None else w[:, [i]]) for i in range(4))) * n
        assert torch.allclose(away, noise.on_mean({"model": torch.zeros(2, 1, 7)}, 1, b)["model"])
        assert away.std() > 0.05


def test_a_whole_run_by_hand():
    """Three rounds of FedAvg with clip, local and central noise, client by client."""
    setup = compare(methods=[METHODS[0]]).setup
    transforms = [fm.Clip(0.05), fm.Noise(0.01), fm.Noise(0.02, by="server")]
    study = compare(transforms, [METHODS[0]])
    f, w = setup.objective, setup.start[:, None]
    for t in range(3):
        places, b = setup.sampler(t)
        messages = []
        for i in range(4):
            support, query = (e.map(lambda x, i=i: x[:, [i]]) for e in (b.support, b.query))
            one = replace(b, support=support, query=query, ids=places[:, [i]], joined=None)
            step = METHODS[0].local(f, {"model": w}, {}, one)[0]["model"]
            step = step * (0.05 / step.norm(dim=-1, keepdim=True)).clamp(max=1.0)
            messages.append(transforms[1]({"model": step}, one)["model"])
        total = transforms[2].on_mean({"model": sum(messages)}, 1, b)["model"]
        w = w - total / 4
    assert torch.allclose(study.held["FedAvg"]["model"], w, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 16), st.integers(0, 99))
def test_quantized_numbers_are_the_grids_neighbours_and_right_in_the_mean(bits, seed):
    sent, b = message(seed=seed), batch(range(5))
    after = fm.Quantize(bits)(sent, b)
    for name, t in sent.items():
        step = t.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((after[name] - t).abs() < step * (1 + 1e-9)).all()
        whole = after[name] / step
        assert torch.allclose(whole, whole.round(), atol=1e-9)
    t = torch.tensor([0.0, 1.0, 0.3, -0.77]).expand(1, 4000, 4)
    mean = fm.Quantize(2)({"model": t}, batch(range(4000), (seed,)))["model"].mean(1)[0]
    assert torch.equal(mean[:2], t[0, 0, :2])
    assert (mean - t[0, 0]).abs().max() < 6 * 0.5 / 4000**0.5


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-6, 1.0), st.integers(0, 99))
def test_the_largest_numbers_are_sent(share, seed):
    sent = message(seed=seed)
    for name, t in fm.TopK(share)(sent, batch(range(5))).items():
        k = max(1, math.ceil(round(share * t.shape[-1], 9)))
        for row, full in zip(t.flatten(0, 1), sent[name].flatten(0, 1), strict=True):
            there = row != 0
            assert there.sum() == k
            assert torch.equal(row[there], full[there])
            assert full[there].abs().min() >= full[~there].abs().max() if k < len(full) else True


@pytest.mark.parametrize(
    ("transforms", "bytes_of_p"),
    [
        ([], lambda p: 4 * p),
        ([fm.Clip(1.0), fm.Noise(1.0), fm.Noise(1.0, by="server")], lambda p: 4 * p),
        ([fm.TopK(1.0)], lambda p: 4 * p),
        ([fm.Quantize(8)], lambda p: p + 4),
        ([fm.Quantize(3)], lambda p: math.ceil(3 * p / 8) + 4),
        ([fm.TopK(0.1)], lambda p: 8 * math.ceil(p / 10)),
        ([fm.TopK(0.1), fm.Quantize(8)], lambda p: 5 * math.ceil(p / 10) + 4),
        ([lambda sent, batch: sent], lambda p: 4 * p),
    ],
)
def test_bytes_are_counted_as_sent(transforms, bytes_of_p):
    study = compare(transforms, METHODS[:2], seeds=1, rounds=2)
    p = study.setup.model.size
    for name, entries in (("FedAvg", 1), ("FedMetaSGD", 2)):
        assert study.bytes_up[name][-1] == 2 * 4 * entries * bytes_of_p(p)
        assert study.bytes_down[name][-1] == 2 * 4 * entries * 4 * p


def test_who_lies_is_by_seed_and_client_in_every_round():
    ids = torch.arange(3000)
    lie = fm.Liars(0.3).lie(batch(ids))
    assert torch.equal(lie, fm.Liars(0.3).lie(batch(ids, round=9)))
    assert not torch.equal(lie[0], lie[1])
    assert (lie.double().mean(1) - 0.3).abs().max() < 5 * (0.21 / 3000) ** 0.5
    assert not fm.Liars(0.0).lie(batch(ids)).any()
    assert fm.Liars(1.0).lie(batch(ids)).all()
    assert (fm.Liars(0.6).lie(batch(ids)) | ~lie).all()  # who lies at 0.3 lies at 0.6


def test_liars_send_what_is_said_and_others_what_they_found():
    sent, b = message(clients=40, width=4000), batch(range(40))
    lie = LIES[0].lie(b)
    for transform in LIES:
        assert all(torch.equal(t[~lie], sent[name][~lie]) for name, t in transform(sent, b).items())
    assert torch.equal(LIES[1](sent, b)["model"][lie], -sent["model"][lie])
    assert torch.equal(LIES[2](sent, b)["model"][lie], 10 * sent["model"][lie])
    assert torch.allclose(norms(LIES[0](sent, b))[lie], 10 * norms(sent)[lie], rtol=0.1)
    same(compare(), compare([fm.Liars(0.0, how, 1.0) for how in ("noise", "opposite", "scaled")]))


def test_a_study_with_transforms_is_saved_read_and_resumed(tmp_path):
    transforms = [fm.Clip(math.inf), *EVERY[:4], *LIES, fm.Clip(0.1), fm.Noise(1e-3, by="server")]
    whole, first = compare(transforms, METHODS[:2]), compare(transforms, METHODS[:2], rounds=2)
    first.save(tmp_path)
    loaded = fm.load(tmp_path)
    assert loaded.config["transforms"] == tuple(transforms)
    same(whole, loaded.resume(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fm.Clip(-1.0), r"Clip\.norm = -1\.0 is outside \[0, inf\].*largest norm"),
        (lambda: fm.Clip(math.nan), r"Clip\.norm = nan is not a number"),
        (lambda: fm.Clip(-math.inf), r"Clip\.norm = -inf is not a number"),
        (lambda: fm.Noise(-0.1), r"Noise\.std = -0\.1 is outside \[0, 1e\+06\]"),
        (lambda: fm.Noise(math.inf), r"Noise\.std = inf is not a number"),
        (lambda: fm.Noise(1.0, by="me"), r"Noise\.by = 'me' is not one of \('client', 'server'\)"),
        (lambda: fm.Quantize(1), r"Quantize\.bits = 1 is outside \[2, 16\]"),
        (lambda: fm.Quantize(2.5), r"Quantize\.bits = 2\.5 is not a whole number"),
        (lambda: fm.TopK(0.0), r"TopK\.share = 0\.0 is outside"),
        (lambda: fm.Liars(1.1), r"Liars\.share = 1\.1 is outside \[0, 1\]"),
        (lambda: fm.Liars(0.1, "silence"), r"Liars\.how = 'silence' is not one of"),
        (lambda: compare([fm.Clip(fm.sweep(1.0, 2.0))]), r"a transform cannot be swept \(norm\)"),
        (lambda: compare([fm.Noise(0.1), fm.Noise(0.2)]), "2 times Noise by the client, and all would draw the same"),
    ],
)
def test_bad_input_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_class_in_place_of_a_transform_is_said():
    with pytest.raises(TypeError, match="is not a function"):
        compare([fm.Clip])


def named(change):
    """A transform that changes every entry by itself."""
    return lambda sent, batch: {name: change(t) for name, t in sent.items()}


BROKEN = {
    "the first client's": (named(lambda t: t[:, :1]), r"\(2, 1, \d+\)"),
    "the clients' mean": (named(lambda t: t.mean(1, keepdim=True)), r"\(2, 1, \d+\)"),
    "the runs' mean": (named(lambda t: t.mean(0, keepdim=True)), r"\(1, 2, \d+\)"),
    "float64": (named(lambda t: t.double()), "float64"),
    "numpy": (named(lambda t: t.numpy()), "ndarray"),
    "nothing": (lambda sent, batch: None, "makes NoneType"),
    "a tensor": (lambda sent, batch: sent["model"], "makes Tensor"),
    "a number": (lambda sent, batch: 3, "makes int"),
    "emptied": (lambda sent, batch: sent.clear() or sent, r"makes \{\}"),
    "one argument": (lambda sent: sent, "fails on .*TypeError"),
    "another name": (lambda sent, batch: {"x": sent["mode"]}, "fails on .*KeyError: 'mode'"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_transform_that_changes_more_than_numbers_is_refused_before_training(how):
    transform, says = BROKEN[how]
    with pytest.raises(ValueError, match=rf"transform <function .*{says}.*; return the same names and shapes in"):
        compare([fm.Clip(1.0), transform], dtype=torch.float32)


def test_runs_that_are_swept_values_are_not_mixed_up_either():
    swept = [fm.FedAvg(2, lr=fm.sweep(0.01, 0.02), adapt_lr=0.02)]
    with pytest.raises(ValueError, match=r"makes .*\(1, 2, "):
        compare([BROKEN["the runs' mean"][0]], swept, seeds=1)


def test_every_exchange_of_a_round_is_tried():
    with pytest.raises(ValueError, match=r"makes {'x': .* of FedMA's message {'layer 1'"):
        compare([lambda sent, batch: {"x" if batch.phase else name: t for name, t in sent.items()}], METHODS[2:])


def test_a_transform_that_stops_sending_in_a_later_round_is_said():
    with pytest.raises(ValueError, match=r"makes \{\} of the message"):
        compare([lambda sent, batch: sent if batch.round < 2 else {}])


def test_noise_by_the_server_and_a_method_that_matches_first_are_told_how_to_part():
    with pytest.raises(
        ValueError, match=r"does not go with FedMA.*; give fm.Noise\(std\) by the client, or leave FedMA"
    ):
        compare([fm.Noise(0.1, by="server")], METHODS[2:])


def test_a_mean_among_the_transforms_is_told_where_it_goes():
    with pytest.raises(ValueError, match=r"give it as mean=SecureSum\(fraction_bits=32\)"):
        compare([fm.SecureSum()])
