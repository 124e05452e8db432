"""The memory of studies: bounded in number and in bytes, and a study's bytes are those of its tensors."""

import gc
from dataclasses import dataclass, field
from types import FrameType, FunctionType, ModuleType

import pytest
import torch

from lab.panel.cache import LRU, storages
from lab.panel.session import STUDIES, Session
from lab.panel.setting import Setting


def floats(n):
    """A tensor of n numbers in 4 n bytes."""
    return torch.empty(n, dtype=torch.float32)


def weight(thing):
    return sum(storages(thing).values())


def test_the_one_used_longest_ago_is_forgotten():
    cache = LRU(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


def test_tensors_are_found_wherever_they_are():
    @dataclass
    class Holder:
        one: object
        more: dict = field(default_factory=dict)

    t = floats(100)
    assert weight(t) == 400
    assert weight((t, [t, {"a": t}])) == 400, "once"
    assert weight([t[:10], t.view(10, 10)]) == 400, "a view keeps all of it"
    assert weight(Holder(t, {"b": (floats(5),)})) == 420
    assert weight(["text", 3, None, torch, int, len]) == 0
    circle = Holder(floats(1))
    circle.one, circle.more["self"] = t, circle
    assert weight(circle) == 400


def reached(thing):
    """Every tensor's memory that the garbage collector can reach from ``thing``, through data alone."""
    found, seen, todo = {}, set(), [thing]
    while todo:
        now = todo.pop()
        if id(now) in seen or isinstance(now, (type, ModuleType, FunctionType, FrameType)):
            continue
        seen.add(id(now))
        if isinstance(now, torch.Tensor):
            found[now.untyped_storage().data_ptr()] = now.untyped_storage().nbytes()
        todo += gc.get_referents(now)
    return found


@pytest.mark.parametrize("task", ["Sines", "Digits"])
def test_a_study_weighs_what_the_garbage_collector_finds(task):
    *_, study = Setting(task=task, rounds=2, seeds=1, clients_per_round=3).stream()
    before = storages(study)
    assert before == reached(study)
    assert sum(before.values()) > sum(t.nbytes for t in study.setup.training.support)
    study.participating  # noqa: B018  drawn when asked for, and held from then on
    assert storages(study) == reached(study)
    assert weight(study) > sum(before.values())


def test_what_no_longer_fits_goes_the_oldest_first():
    cache = LRU(10, room=1000, parts=storages)
    for name in "abc":
        cache.put(name, floats(100))
    assert [cache.get(n) is not None for n in "abc"] == [False, True, True]
    assert cache.weight == 800
    cache.get("b")
    cache.put("d", floats(100))
    assert [cache.get(n) is not None for n in "bcd"] == [True, False, True]


def test_one_larger_than_the_room_stays_alone():
    cache = LRU(10, room=1000, parts=storages)
    cache.put("small", floats(10))
    cache.put("large", floats(1000))
    assert cache.get("large") is not None
    assert len(cache) == 1


def test_what_several_share_counts_once():
    cache, images = LRU(10, room=1000, parts=storages), floats(200)
    for name in "abcde":
        cache.put(name, [images, floats(5)])
    assert (len(cache), cache.weight) == (5, 900)


def test_one_that_grew_is_weighed_again_when_it_is_used():
    cache, grows = LRU(10, room=1000, parts=storages), [floats(10)]
    cache.put("other", floats(100))
    cache.put("grows", grows)
    grows.append(floats(200))
    cache.get("grows")
    assert cache.get("other") is None
    assert cache.weight == 840


def test_the_panels_memory_is_bounded_in_bytes():
    """Fifty settings of a task that weighs 20 MB each: numbers alone would let a panel grow by a gigabyte."""
    for number in range(50):
        STUDIES.put(number, floats(5_000_000))
        assert STUDIES.weight <= 200e6
    assert len(STUDIES) == 10
    setting = Setting(rounds=1, seeds=1, clients_per_round=2)
    Session().full(setting)
    assert STUDIES.weight <= 200e6
    assert Session().known(setting) is not None
