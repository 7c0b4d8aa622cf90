"""The store: what goes in comes out, nothing is computed twice, a torn file never reads as a result."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.run import Run, Store, spread, use
from carbide.run.store import decode, encode, write_whole
from carbide.types import Certificate, Finding, InputError, LpBall, Price, PriceTable

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@given(plain)
def test_plain_values_come_back_as_they_went_in(value):
    assert same(decode(encode(value)), value)


def test_arrays_and_nouns_come_back_exactly():
    finding = Finding(metric="m", value=0.1 + 0.2, low=-np.inf, high=np.nan, n=3, method="a", threat="t", access="l", seed=1)
    certificate = Certificate(claim="c", holds=np.array([True, False]), bound=np.array([1.5, np.inf]), failure_probability=0.0,
                              assumptions=("a", "b"), method="m", threat="t")  # fmt: skip
    table = PriceTable(prices={"a": Price(up=1.0, matrix=np.eye(2))})
    back = decode(encode({"f": finding, "c": certificate, "t": table, "x": np.arange(6, dtype=np.float32).reshape(2, 3), "e": LpBall(eps=0.1)}))
    assert back["f"].value == finding.value
    assert np.isnan(back["f"].high)
    assert back["c"].assumptions == ("a", "b")
    np.testing.assert_array_equal(back["c"].bound, certificate.bound)
    assert back["x"].dtype == np.float32
    np.testing.assert_array_equal(back["t"].prices["a"].matrix, np.eye(2))
    assert back["e"] == LpBall(eps=0.1)


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(TypeError, match="cannot store a object"):
        encode(object())


def test_a_step_is_computed_once_and_found_by_its_inputs(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"answer": np.array([len(calls)])}

    store = Store(tmp_path)
    first = store.step("one", {"a": np.arange(3)}, compute)
    again = Store(tmp_path).step("one", {"a": np.arange(3)}, compute)
    other = store.step("one", {"a": np.arange(4)}, compute)
    assert first["answer"] == again["answer"] == [1]
    assert other["answer"] == [2]
    assert [line["step"] for line in store.timings()] == ["one", "one"]


def test_lines_of_the_log_that_a_kill_tore_are_dropped(tmp_path):
    store = Store(tmp_path)
    store.step("one", 1, lambda: 1)
    whole = (tmp_path / "steps.jsonl").read_bytes()
    for tail in (b'{"step": "tw', b'{"step": "t\xff\xfe\x00', b"\xc3", b"3}", b"[1]"):
        (tmp_path / "steps.jsonl").write_bytes(whole + tail)
        assert [line["step"] for line in Store(tmp_path).timings()] == ["one"]
        (tmp_path / "steps.jsonl").write_bytes(whole + tail + whole + whole)
        assert [line["step"] for line in Store(tmp_path).timings()] == ["one", "one"], "and the next run's first line, which stands behind it"


def test_another_version_computes_again(tmp_path):
    assert Store(tmp_path, version="1").step("s", 0, lambda: 1) == 1
    assert Store(tmp_path, version="2").step("s", 0, lambda: 2) == 2


def test_a_damaged_step_is_named(tmp_path):
    store = Store(tmp_path)
    store.step("s", 0, lambda: 1)
    (file,) = (tmp_path / "steps").glob("*.npz")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(InputError, match=file.name):
        store.step("s", 0, lambda: 1)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_whole(tmp_path / "a.json", b"x" * 100)
    assert list(tmp_path.iterdir()) == []


def test_spread_stores_whole_chunks(tmp_path):
    calls = []

    def work(item):
        calls.append(item)
        if item == 5 and len(calls) == 6:
            raise KeyboardInterrupt
        return item * 10

    with use(Run(store=Store(tmp_path))), pytest.raises(KeyboardInterrupt):
        spread(work, range(8), label="w", key="k", chunk=2)
    with use(Run(store=Store(tmp_path))):
        assert spread(work, range(8), label="w", key="k", chunk=2) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert calls == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]


def test_spread_over_processes_keeps_the_order():
    with use(Run(workers=2)):
        assert spread(abs, [-3, 2, -1], label="w") == [3, 2, 1]


@pytest.mark.skipif(os.name != "posix", reason="kill is POSIX")
def test_a_kill_loses_only_the_step_under_way(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from carbide.run import Store
        store = Store(Path(sys.argv[1]))
        for i in range(5):
            def compute(i=i):
                if i == 3 and sys.argv[2] == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                return i
            assert store.step("s", i, compute) == i
    """)
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path), "die"], check=False)
    assert died.returncode == -signal.SIGKILL
    subprocess.run([sys.executable, "-c", script, str(tmp_path), "live"], check=True)
    assert len(Store(tmp_path).timings()) == 5


def refuse_late(item: int) -> int:
    import time

    time.sleep(0.4 if item == 1 else 0.0)
    if item in (1, 2):
        raise InputError(f"item {item} is refused")
    return item


@pytest.mark.parametrize("workers", [1, 2])
def test_of_several_refusals_the_first_in_order_is_told_whichever_comes_first(workers):
    with use(Run(workers=workers)), pytest.raises(InputError, match="item 1 is refused"):
        spread(refuse_late, [0, 1, 2, 3], label="items")
