"""N-way K-shot tasks over a bank of images: what heterogeneity moves, and what unseen clients hold."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlab as fm
from fmlab.data import stack
from fmlab.engine import rounds
from fmlab.evaluation import evaluate
from fmlab.populations.fewshot import counts
from fmlab.populations.glyphs import CHARACTERS, HANDS
from fmlab.randomness import generator

SPLITS = ("training", "participating", "validation", "unseen")


@pytest.fixture(params=[fm.Digits, fm.Glyphs], ids=lambda p: p.__name__)
def population(request):
    return request.param(n_clients=40, n_validation=20, n_unseen=30, ways=3, shots=2)


def row_sets(clients):
    """Rows of the bank in every client's support and query set."""
    return [(set(s.tolist()), set(q.tolist())) for s, q in zip(clients.support.x[0], clients.query.x[0], strict=True)]


def behind(population):
    """Style and class of every row of the bank."""
    bank = population.bank()
    found = {}
    for part in (bank.training, bank.others):
        for style, classes in enumerate(part.tolist()):
            for number, rows in enumerate(classes):
                found |= dict.fromkeys(rows, (style, number))
    return found


def held(population, split, seed=0):
    """(client, label) -> the classes and the styles that its images show."""
    known, clients = behind(population), population.draw(split, seed)
    found = {}
    for e in (clients.support, clients.query):
        for i, (xs, ys) in enumerate(zip(e.x[0].tolist(), e.y[0].tolist(), strict=True)):
            for x, y in zip(xs, ys, strict=True):
                found.setdefault((i, y), set()).add(known[x])
    return found


# --- counts -------------------------------------------------------------------------------------


@given(
    ways=st.integers(2, 8), shots=st.integers(1, 12), spare=st.integers(0, 20), weight=st.floats(0, 1), data=st.data()
)
@settings(max_examples=40, deadline=None)
def test_counts_add_up_and_stay_in_their_range(ways, shots, spare, weight, data):
    raw = torch.tensor(
        [data.draw(st.lists(st.floats(2**-10, 1, width=16), min_size=ways, max_size=ways)) for _ in range(3)]
    )
    p = raw.double() / raw.double().sum(1, keepdim=True)
    found = counts(p, weight, ways * shots, shots + spare)
    assert found.sum(1).tolist() == [ways * shots] * 3
    assert found.min() >= 1
    assert found.max() <= shots + spare
    if weight == 0 or spare == 0:
        assert (found == shots).all()


def test_counts_follow_the_shares_where_there_is_room():
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    assert counts(p, 1.0, 103, 103).tolist() == [[51, 31, 21]]
    assert counts(p, 0.0, 30, 30).tolist() == [[10, 10, 10]]


# --- tasks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("h", [0.0, 0.5, 1.0])
def test_a_label_is_one_class_in_one_style(population, split, h):
    population = replace(population, heterogeneity=h)
    found = held(population, split)
    assert all(len(shown) == 1 for shown in found.values())
    assert len(found) == population.count(split) * population.ways
    for i in range(population.count(split)):
        assert len({number for y in range(population.ways) for _, number in found[i, y]}) == population.ways


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0])
def test_support_and_query_share_no_image(population, h):
    for split in SPLITS:
        for support, query in row_sets(replace(population, heterogeneity=h).draw(split, 0)):
            assert not support & query
            assert (len(support), len(query)) == (
                3 * population.shots,
                3 * (population.query if split == "training" else population.test),
            )


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0])
def test_no_image_is_trained_on_and_scored_on(population, h):
    population = replace(population, heterogeneity=h)
    trained = set().union(*(s | q for s, q in row_sets(population.draw("training", 0))))
    for split in ("validation", "unseen"):
        assert all(not (s | q) & trained for s, q in row_sets(population.draw(split, 0)))
    assert all(not q & trained for _, q in row_sets(population.draw("participating", 0)))


def test_at_zero_all_hold_the_same_task(population):
    population = replace(population, heterogeneity=0.0)
    for seed in (0, 1):
        common = population.pool("training", seed)
        for split in SPLITS:
            for (_, y), shown in held(population, split, seed).items():
                assert shown == {(int(common.styles[0]), int(common.classes[y]))}
            clients = population.draw(split, seed)
            for e in (clients.support, clients.query):
                labels = torch.arange(3).repeat_interleave(e.y.shape[-1] // 3)
                assert torch.equal(e.y[0], labels.expand_as(e.y[0]))


def test_at_one_unseen_clients_hold_only_what_nobody_trained_on(population):
    for seed in (0, 1):
        shown = {split: {number for s in held(population, split, seed).values() for _, number in s} for split in SPLITS}
        assert not shown["unseen"] & shown["training"]
        assert not shown["validation"] & shown["training"]
        assert shown["participating"] == shown["training"]
        pools = {split: set(population.pool(split, seed).classes.tolist()) for split in SPLITS if split[0] != "p"}
        assert all(shown[split] <= pool for split, pool in pools.items())


def test_validation_and_unseen_clients_share_no_class(population):
    """For digits a class is a digit in an orientation: the same digits, but mirrored."""
    shown = {s: set().union(*held(population, s).values()) for s in ("validation", "unseen")}
    assert not shown["validation"] & shown["unseen"]


def test_at_one_every_client_has_its_own(population):
    population = replace(population, n_clients=400)
    classes, styles = population.tasks("training", 0)
    pool = population.pool("training", 0)
    for j in range(3):  # every class of the pool is as likely behind every label
        share = torch.bincount(classes[:, j], minlength=100)[pool.classes] / 400
        torch.testing.assert_close(share, torch.full_like(share, 1 / len(share)), rtol=0, atol=0.08)
    assert set(styles.flatten().tolist()) == set(pool.styles.tolist())


@pytest.mark.parametrize("h", [0.25, 0.75])
def test_share_of_own_labels_is_h(population, h):
    population = replace(population, n_unseen=1500, heterogeneity=h)
    classes, _ = population.tasks("unseen", 0)
    own = torch.isin(classes, population.pool("unseen", 0).classes).double().mean()
    assert abs(float(own) - h) < 0.03


def test_labels_that_move_stay_moved(population):
    """Raising h only ever turns common labels of an unseen client into its own."""
    before = torch.zeros(30, 3, dtype=torch.bool)
    for h in (0.1, 0.3, 0.6, 1.0):
        classes, _ = replace(population, heterogeneity=h).tasks("unseen", 0)
        own = torch.isin(classes, population.pool("unseen", 0).classes)
        assert (own | ~before).all()
        before = own
    assert before.all()


def label_spread(population, part):
    """Mean over clients of the standard deviation of a label's count."""
    y = getattr(population.draw("training", 0), part).y[0]
    return float(torch.nn.functional.one_hot(y, population.ways).sum(1).double().std(1).mean())


@pytest.mark.parametrize(
    ("part", "skewed"), [("support", fm.Digits(shots=5)), ("query", fm.Digits()), ("query", fm.Glyphs())]
)
def test_label_skew_grows_with_h(part, skewed):
    found = [label_spread(replace(skewed, heterogeneity=h, n_clients=40), part) for h in (0.0, 0.5, 1.0)]
    assert found[0] == 0 < found[1] < found[2]
    assert label_spread(replace(skewed, skew=0.0, n_clients=40), part) == 0


def test_one_shot_leaves_no_room_for_skew():
    assert label_spread(fm.Digits(shots=1, n_clients=40), "support") == 0


# --- images -------------------------------------------------------------------------------------


def test_images(population):
    images = population.bank().images
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.flatten(1).amax(1).min() > 0.3  # none is empty
    assert population.bank() is population.bank()
    assert torch.equal(images, replace(population, n_clients=7).bank().images)


def test_digits_come_from_scikit_learn():
    from sklearn.datasets import load_digits

    data, bank = load_digits(), fm.Digits().bank()
    for digit in range(10):
        for rows in (bank.training[0, digit], bank.others[0, digit]):
            assert (data.target[rows] == digit).all()
            torch.testing.assert_close(bank.images[rows], torch.tensor(data.images[rows] / 16, dtype=torch.float32))
        assert torch.equal(bank.images[bank.others[5, digit]], bank.images[bank.others[4, digit]].rot90(1, (1, 2)))
        assert torch.equal(bank.images[bank.others[4, digit]], bank.images[bank.others[0, digit]].flip(2))


def test_glyphs_are_seeded_and_writers_unlike():
    bank, other = fm.Glyphs().bank(), fm.Glyphs(script=1).bank()
    assert not torch.equal(bank.images, other.images)
    mean = bank.images[bank.training].mean(2)  # (writers, classes, pixels, pixels)
    for writer in range(1, 8):
        assert (mean[writer] - mean[0]).abs().mean() > 0.02
    own = bank.images[bank.training[0]].flatten(2)
    within = (own - own.mean(1, keepdim=True)).norm(dim=-1).mean()
    between = torch.pdist(own.mean(1)).mean()
    assert between > within / 2 > 0  # means of twelve drawings are unlike; their own noise is within / 3.5
    assert torch.pdist(own.mean(1)).min() > 0.2  # no character stands twice


def test_comparing_pixels_goes_so_far_and_no_further():
    """The nearest mean of the raw pixels, 5 characters, 5 examples of each: something is left to learn."""
    shares = []
    for seed in range(3):
        support, query = fm.Glyphs(shots=5, skew=0.0).draw("unseen", seed).everyone()
        of = torch.nn.functional.one_hot(support.y[0], 5).to(support.x)
        means = torch.einsum("cnk,cnd->ckd", of, support.x[0].flatten(2)) / of.sum(1)[..., None]
        shares.append((torch.cdist(query.x[0].flatten(2), means).argmin(-1) == query.y[0]).to(means).mean())
    assert all(0.70 < share < 0.85 for share in shares)


def test_unseen_alphabets_and_writers():
    pools = {s: fm.Glyphs().pool(s, 0) for s in HANDS}
    alphabets = [set((p.classes // CHARACTERS).tolist()) for p in pools.values()]
    writers = [set(p.styles.tolist()) for p in pools.values()]
    assert sum(map(len, alphabets)) == len(set().union(*alphabets)) == 16
    assert sum(map(len, writers)) == len(set().union(*writers)) == 8


# --- bad input ----------------------------------------------------------------------------------


def test_more_ways_than_classes():
    with pytest.raises(ValueError, match=r"Digits\.ways = 5 is outside \[2, 4\]"):
        fm.Digits(ways=5)
    with pytest.raises(ValueError, match=r"Glyphs\.ways = 19 is outside \[2, 18\]"):
        fm.Glyphs(ways=19)


class Narrow(fm.Digits):
    def pool(self, split, seed):
        pool = super().pool(split, seed)
        return pool._replace(classes=pool.classes[:2]) if split == "unseen" else pool


def test_more_ways_than_a_pool_of_classes():
    with pytest.raises(ValueError, match=r"ways = 3 is more than the 2 classes that unseen clients may have.*\[2, 2\]"):
        Narrow().draw("training", 0)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("part", ["query", "test"])
def test_more_examples_than_a_class_has(population, part, split):
    most = population.bank().training.shape[-1]
    allowed = replace(population, shots=3, **{part: most - 3})
    assert allowed.draw(split, 0).number == population.count(split)
    with pytest.raises(ValueError, match=rf"shots \+ \S+\.{part} = 3 \+ {most - 2} is more than the {most} .* give"):
        replace(population, shots=3, **{part: most - 2}).draw(split, 0)


@pytest.mark.parametrize("part", ["shots", "query", "test", "ways"])
def test_what_the_other_fields_leave_a_field(population, part):
    """Both ends are drawn; what is beyond is refused, by the field's own range or when clients are drawn."""
    low, high = population.span(part)
    for end in (low, high):
        assert replace(population, **{part: end}).draw("training", 0).number == population.count("training")
        assert replace(population, **{part: end}).draw("unseen", 0).number == population.count("unseen")
    for beyond in (low - 1, high + 1):
        with pytest.raises(ValueError, match=rf"{part}\b.*(is outside|is more than)"):
            replace(population, **{part: beyond}).draw("training", 0)


def test_a_field_that_nothing_else_bounds_has_its_declared_range():
    assert fm.Digits().span("heterogeneity") == fm.Sines(support=3).span("heterogeneity") == (0, 1)


# --- the crossover ------------------------------------------------------------------------------


def accuracy_after_one_step(population, algorithm, number):
    model, seeds = population.model(), (0, 1)
    f, clients = population.objective(model), [population.draw("training", s) for s in seeds]
    start = torch.stack([model.init(generator("model", s)) for s in seeds]).float()
    train = stack(clients).to(torch.float32, torch.device("cpu"))
    unseen = stack([population.draw("unseen", s) for s in seeds]).to(torch.float32, torch.device("cpu"))
    for state in rounds(algorithm, f, train, start, seeds=seeds, per_round=20):
        if state.round == number:
            return evaluate(algorithm, f, state.held, unseen, 1).accuracy[..., -1].mean(1)


def test_meta_learning_wins_where_clients_differ():
    """One step on unseen glyphs, each method with a step size near its best one (a coarse search)."""
    population = fm.Glyphs(n_clients=300)
    averaged = accuracy_after_one_step(population, fm.FedAvg(lr=0.1, adapt_lr=0.1), 100)
    meta = accuracy_after_one_step(population, fm.FedMAML(inner_lr=1.0, adapt_lr=1.0), 100)
    assert meta.min() > averaged.max() + 0.03


def test_averaging_holds_its_own_where_clients_are_alike():
    population = fm.Glyphs(n_clients=300, heterogeneity=0.0)
    averaged = accuracy_after_one_step(population, fm.FedAvg(lr=0.2, adapt_lr=0.01), 60)
    meta = accuracy_after_one_step(population, fm.FedMAML(inner_lr=1.0, adapt_lr=0.01), 60)
    assert averaged.min() > 0.85
    assert (averaged > meta - 0.03).all()
