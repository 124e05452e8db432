"""The page's address sets what a panel starts from, and never breaks it."""

import pytest

import lab
from lab.panel import address, panels


@pytest.fixture
def visit(monkeypatch):
    def visit(query):
        monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5")
        monkeypatch.setenv("QUERY_STRING", query)

    return visit


@pytest.fixture
def panel(small):
    made = []

    def panel(name="one_client", **options):
        made.append(getattr(lab, name)(synchronous=True, **{**small, **options} if name != "drift" else options))
        return made[-1]

    yield panel
    for one in made:
        one.close()


def test_fields_of_every_kind(visit, panel, capsys):
    visit("heterogeneity=0.5&k=1&methods=FedAvg,FedProx&task=Sines&size=projector&theme=dark&token=secret")
    shown = panel(heterogeneity=0.1)  # the address wins over the lesson
    assert (shown.setting.heterogeneity, shown.setting.methods) == (0.5, ("FedAvg", "FedProx"))
    assert "after 1 adaptation step," in shown.sentence
    assert {"fmlab-projector", "fmlab-dark"} <= {*shown._dom_classes}
    assert capsys.readouterr().out == ""


def test_one_method_alone(visit, panel):
    visit("methods=FedMAML")
    assert panel().setting.methods == ("FedMAML",)


@pytest.mark.parametrize(
    "query",
    [
        "heterogeneity=2",
        "heterogeneity=much",
        "heterogeneity=nan",
        "k=9",
        "k=a",
        "client=-1",
        "methods=FedSGD",
        "methods=",
        "task=Cats",
        "seeds=0.5",
        "theme=pink",
        "size=huge",
        "colour=red",
    ],
)
def test_what_cannot_be_is_said_and_left_out(visit, capsys, query):
    visit(f"{query}&inner_steps=2")
    assert panels._asked_for({"heterogeneity": 0.1}, None) == {"heterogeneity": 0.1, "inner_steps": 2}
    said = capsys.readouterr().out
    name, _, text = query.partition("=")
    if text:  # an empty one is no part of a query
        assert said.startswith(f"The address asks for {name} = {text}")
        assert len(said.splitlines()) == 1


def test_drift_too(visit, panel, capsys):
    visit("local_steps=7&lr=0.02&heterogeneity=3&inner_steps=2&size=projector")
    shown = panel("drift")
    assert (shown.setting.local_steps, shown.setting.lr, shown.setting.heterogeneity) == (7, 0.02, 0.6)
    said = capsys.readouterr().out
    assert "heterogeneity = 3" in said
    assert "inner_steps = 2; this panel knows heterogeneity, local_steps, lr, round, size, theme" in said


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setenv("QUERY_STRING", "heterogeneity=0.5")
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    assert address.asked() == {}
