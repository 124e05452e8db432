"""torch's default dtype is no setting: a study in either precision is the same under both."""

import pytest
import torch

import fmlab as fm

CLIENTS = fm.Sines(n_clients=6, n_validation=2, n_unseen=3)
STEPS = {"lr": 0.02, "adapt_lr": 0.01, "inner_lr": 0.01}
OPTIONS = {
    "given": {"sampling": "poisson", "transforms": [fm.Clip(1.0)]},
    "chosen": {"server": fm.Adam(), "dropout": 0.3, "weights": "size"},
}


@pytest.fixture
def default():
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def run(cls, dtype, name):
    steps = STEPS | ({"adapt_lr": fm.validated(0.01)} if name == "chosen" else {})
    method = cls(**{field: value for field, value in steps.items() if field in cls.__dataclass_fields__})
    return fm.compare([method], CLIENTS, rounds=3, seeds=2, clients_per_round=3, dtype=dtype, **OPTIONS[name])


CASES = [
    (cls, name, dtype)
    for cls in fm.ALGORITHMS
    for name, dtype in (("given", torch.float64), ("chosen", torch.float64), ("chosen", torch.float32))
    if cls.averages or name != "given"  # FedMA is refused under Poisson sampling
]


@pytest.mark.parametrize(("cls", "name", "dtype"), CASES)
def test_a_study_does_not_know_the_default_dtype(default, tmp_path, cls, name, dtype):
    studies = []
    for other in (torch.float32, torch.float64):
        default(other)
        study = run(cls, dtype, name)
        study.save(tmp_path / str(other))
        studies.append((study, fm.load(tmp_path / str(other)).resume(rounds=5)))
    for a, b in zip(*studies, strict=True):
        assert a.adaptation[cls.__name__].dtype == dtype
        for field in ("adaptation", "history", "personal", "adapt_lr"):
            for one, two in zip(getattr(a, field).values(), getattr(b, field).values(), strict=True):
                assert torch.equal(one, two)
