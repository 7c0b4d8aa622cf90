"""Work on a Ray cluster: against a stand-in that notes what it is asked, and on Ray itself where it is installed."""

from __future__ import annotations

import os
import sys
import types

import pytest

from carbide.run import Progress, Run, Store, cluster, cores, hands, spread, use
from carbide.types import InputError


def square(i: int) -> int:
    return i * i


def where(i: int) -> tuple[int, int, str]:
    return i, os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def picky(i: int) -> int:
    if i in (3, 5):
        raise InputError(f"item {i} is odd; leave it out")
    return i


class StandIn(types.ModuleType):
    """A Ray of 12 cores that computes at once and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.address, self.tasks, self.cores, self.rounds = None, 0, 0, []

    def is_initialized(self):
        return self.address is not None

    def init(self, address, **_):
        if "nobody" in address:
            raise ConnectionError("nothing there\nat all")
        self.address = address

    def cluster_resources(self):
        return {"CPU": 12.0}

    def put(self, value):
        return value

    def remote(self, num_cpus):
        self.cores = num_cpus

        def task(*given):
            self.tasks += 1
            return given

        return lambda work: types.SimpleNamespace(remote=lambda *given: task(work, *given))

    def get(self, refs):
        self.rounds.append(len(refs))
        return [work(*given) for work, *given in refs]


@pytest.fixture
def ray(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    return stand_in


def run(workers: int = 2, **options) -> Run:
    return Run(workers=workers, progress=Progress(quiet=True), **options)


def test_a_named_cluster_gets_the_items_as_many_at_once_as_there_are_workers(ray):
    with use(run(workers=hands())):
        assert spread(square, range(30), label="squares") == [i * i for i in range(30)]
    assert (ray.address, ray.tasks, ray.cores, ray.rounds) == ("10.0.0.7:6379", 30, 1, [12, 12, 6])
    with use(run(workers=1)):  # asked for one process, it stays here
        assert spread(square, range(30), label="squares") == [i * i for i in range(30)]
    assert ray.tasks == 30


def test_there_are_as_many_hands_as_the_cluster_has_cores(ray, monkeypatch):
    assert hands() == 12
    ray.address = None
    monkeypatch.delenv("RAY_ADDRESS")
    assert hands() == cores()


def test_finished_chunks_are_not_asked_again(ray, tmp_path):
    with use(run(store=Store(tmp_path))):
        first = spread(square, range(30), label="squares", key="k")
        assert spread(square, range(30), label="squares", key="k") == first
    assert ray.tasks == 30


def test_the_first_refusal_in_order_is_raised(ray):
    with use(run()), pytest.raises(InputError, match="item 3 is odd"):
        spread(picky, range(8), label="picky")


def test_a_cluster_is_named_by_address_or_by_a_program_that_joined_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert not cluster.named({})
    assert not cluster.named({"RAY_ADDRESS": ""})
    assert cluster.named({"RAY_ADDRESS": "auto"})
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    assert not cluster.named({})
    stand_in.init("auto")
    assert cluster.named({})


def test_what_is_missing_is_one_sentence(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nobody:1")
    with use(run()), pytest.raises(InputError, match=r"no Ray cluster answers at 'nobody:1' \(nothing there\); start it, or unset RAY_ADDRESS"):
        spread(square, range(4), label="squares")
    monkeypatch.setitem(sys.modules, "ray", None)
    with use(run()), pytest.raises(InputError, match=r"Ray is not installed; install it with: pip install 'carbide\[ray\]'"):
        spread(square, range(4), label="squares")


def test_ray_itself():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, log_to_driver=False, logging_level="error")
    try:
        with use(run()):
            found = spread(where, range(6), label="where")
            with pytest.raises(InputError, match="item 3 is odd"):
                spread(picky, range(8), label="picky")
    finally:
        ray.shutdown()
    assert [i for i, *_ in found] == list(range(6))
    assert os.getpid() not in {pid for _, pid, _ in found}
    assert {threads for *_, threads in found} == {"1"}
