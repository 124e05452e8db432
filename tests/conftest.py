"""What the tests of the core share: random federated problems, and whole runs without an evaluation."""

import importlib.util
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fmlab.data import Batch, examples
from fmlab.declare import step_sizes
from fmlab.engine import Store, rounds
from fmlab.losses import CrossEntropy, SquaredError
from fmlab.models import MLP
from fmlab.objective import Empirical
from fmlab.setup import prepare

TOOLS = Path(__file__).resolve().parents[1] / "tools"
# Files that take long, in turns real nodes, a browser, a lesson: they come first, so that no worker waits for the last.
LONG = (
    "test_lesson_10.py", "test_panels.py", "test_federation.py", "test_start_here.py", "test_real_nodes.py",
    "04_heterogeneity.ipynb", "test_reading.py", "test_realnodes.py", "05_inner_steps.ipynb", "test_app.py",
    "test_gone.py", "test_predictions.py", "07_real_clients.ipynb", "08_what_leaves_the_client.ipynb",
    "03_federated_meta_learning.ipynb", "06_few_shot.ipynb", "playground.ipynb", "00_start_here.ipynb",
    "test_unanswered.py", "test_stored.py", "test_threads.py", "test_controls.py", "test_any_study.py",
)  # fmt: skip
sys.path.append(str(TOOLS))  # the tools import each other, and some tests import them
torch.set_default_dtype(torch.float64)  # theorems are tested to many digits; ``compare`` takes torch's default


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """No test reads or writes the user's cache folder."""
    os.environ["FMLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tool():
    """``tool(name)``: the script of that name, loaded anew."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def _problem(sizes=(2, 5, 3), *, runs=2, clients=3, support=4, query=6, classes=False, ragged=False, seed=0):
    """An objective, a different model for every client (R, C, P), and a batch; float64.

    ``ragged``: client i has i examples fewer; the rest of its rows is padding.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(n):
        x = torch.randn(runs, clients, n, sizes[0], generator=g, dtype=torch.float64)
        if classes:
            y = torch.randint(sizes[-1], (runs, clients, n), generator=g)
        else:
            y = torch.randn(runs, clients, n, sizes[-1], generator=g, dtype=torch.float64)
        real = torch.arange(n) < (n - torch.arange(clients)[:, None] * ragged).clamp(min=1)
        return examples(x, y, real.expand(runs, clients, n))

    model = MLP(tuple(sizes))
    w = torch.stack([model.init(g) for _ in range(runs * clients)]).view(runs, clients, -1)
    batch = Batch(draw(support), draw(query), seeds=tuple(range(runs)))
    return Empirical(model, CrossEntropy() if classes else SquaredError()), w, batch


def _filled(algorithm, value=0.005):
    """The algorithm with every step size that is None set to ``value``."""
    return replace(algorithm, **{f: value for f in step_sizes(algorithm) if getattr(algorithm, f) is None})


def _after(last, algorithm, f, clients, start, **options):
    """The state after ``last`` rounds, beside it ``server``, all that is held in one tensor (R, 1, .), and ``kept``."""
    store = Store()
    state = next(islice(rounds(algorithm, f, clients, start, store=store, **options), last, None))
    server = torch.cat(list(state.held.values()), -1)
    return SimpleNamespace(**vars(state), server=server, kept=dict(store.kept), state=state)


def _train(algorithm, population, last=3, *, seeds=(0,), per_round=None, dtype=torch.float64, model=None, **options):
    """(the state after ``last`` rounds, the setup)."""
    setup = prepare([algorithm], population, seeds=seeds, clients_per_round=1, dtype=dtype, model=model)
    options |= {"seeds": setup.config["seeds"], "per_round": per_round or population.n_clients}
    return _after(last, algorithm, setup.objective, setup.training, setup.start, **options), setup


@pytest.fixture(scope="session")
def after():
    return _after


@pytest.fixture(scope="session")
def problem():
    return _problem


@pytest.fixture(scope="session")
def filled():
    return _filled


@pytest.fixture(scope="session")
def train():
    return _train
