"""Whole runs, full batches, float64: the numbers of the core as it was when a model was one flat tensor.

They were written once, by the commit before named trees came, with which the new core agreed bit for bit on the
machine that wrote them. Elsewhere the last digits depend on the processor.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import fmlab as fm

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
SMALL = {"n_clients": 8, "n_validation": 2, "n_unseen": 6}
CLIENTS = {"Sines uniform": fm.Sines(**SMALL), "Synthetic size": fm.Synthetic(**SMALL)}
FINE, WHOLE = {"adapt_lr": 0.01}, {"batch_size": 10**6}
ADAM = {"server": fm.Adam(lr=0.01)}
LOCAL = {"local_steps": 3, "lr": 0.02} | FINE
METHODS = {
    "LocalOnly": fm.LocalOnly(local_steps=3, lr=0.02),
    "FedAvg": fm.FedAvg(**LOCAL),
    "FedAvg Adam": fm.FedAvg(**LOCAL, **ADAM),
    "FedProx": fm.FedProx(mu=0.5, **LOCAL),
    "FedReptile": fm.FedReptile(epsilon=0.5, **LOCAL),
    "FedMAML": fm.FedMAML(inner_steps=2, inner_lr=0.02, **FINE, **ADAM),
    "FOMAML": fm.FedMAML(inner_steps=2, inner_lr=0.02, first_order=True, **FINE, **ADAM),
    "FedMetaSGD": fm.FedMetaSGD(inner_steps=2, inner_lr=0.01, **ADAM),
    "PerFedAvg FO": fm.PerFedAvg(inner_lr=0.01, **LOCAL, **WHOLE),
    "PerFedAvg HF": fm.PerFedAvg(variant="HF", inner_lr=0.01, **LOCAL, **WHOLE),
    "PFedMe": fm.PFedMe(lam=2.0, local_rounds=2, inner_steps=2, inner_lr=0.01, lr=0.05, **FINE),
    "sweep": fm.FedMAML(inner_steps=2, inner_lr=fm.sweep(0.01, 0.02), **FINE, **ADAM),
}


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.parametrize("name", METHODS)
def test_a_run_gives_the_numbers_it_gave(case, name):
    weights = case.split()[1]
    study = fm.compare(
        {name: METHODS[name]}, CLIENTS[case], rounds=6, seeds=2, clients_per_round=4, steps=2, evaluations=2,
        weights=weights,
    )  # fmt: skip
    server = torch.cat(list(study.held[name].values()), -1).flatten(0, -2)
    golden, n = GOLDEN[case][name], server.shape[-1]
    found = [server[r, i].item() for r in (0, -1) for i in (0, n // 3, 2 * n // 3, n - 1)]
    close = {"rtol": 1e-9, "atol": 1e-11}
    assert_close(torch.tensor(found), torch.tensor(golden["server"]), **close)
    assert server.norm().item() == pytest.approx(golden["norm"], rel=1e-11)
    per_step = study.adaptation[name].flatten(0, -2).mean(0)
    assert_close(per_step, torch.tensor(golden["adaptation"]), **close)
