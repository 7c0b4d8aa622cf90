"""The scanner against ordinary pickles, which must pass, and crafted ones, none of which may run."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import os
import pickle
import pickletools
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbide.models import load_model
from carbide.models.pickle_file import load_pickle
from carbide.models.pickle_scan import scan_pickle
from carbide.types import Dataset, InputError
from tests.models.cases import SKLEARN, fitted


@pytest.mark.parametrize("name", SKLEARN)
@pytest.mark.parametrize("how", [2, 3, 4, 5, "joblib", "gzip"])
def test_ordinary_pickles_pass_and_answer_the_same(name: str, how: Any, data: Dataset) -> None:
    estimator = fitted(name)
    if isinstance(how, int):
        blob = pickle.dumps(estimator, protocol=how)
    else:
        out = io.BytesIO()
        joblib.dump(estimator, out, compress=("gzip", 3) if how == "gzip" else 0)
        blob = out.getvalue()
    assert np.array_equal(load_pickle(blob, "m").predict_proba(data.x), estimator.predict_proba(data.x))


def test_a_pickle_needs_trust(tmp_path: Path, data: Dataset) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(fitted("logistic_regression")))
    with pytest.raises(InputError, match=r"is a pickle, which can run code.*--trust"):
        load_model(path, space=data.space, classes=2)
    model = load_model(path, space=data.space, classes=2, trust=True)
    assert np.array_equal(model.predict(data.x), fitted("logistic_regression").predict_proba(data.x))


MARK = "carbide-was-here"


class _Calls:
    """Pickles into a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, self.arguments) if self.state is None else (self.function, self.arguments, self.state)


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


GOOD = ("sklearn.linear_model._logistic", "LogisticRegression")
EMPTY = b"\x80\x04" + _global(*GOOD) + b")\x81}b."  # the least pickle that passes


def _calls(target: str) -> Iterator[tuple[str, bytes]]:
    """Pickles that call something that runs code, directly or through something that seems harmless."""
    command = f"touch {target}"
    reaches: list[tuple[str, Any]] = [
        ("os.system", _Calls(os.system, command)),
        ("subprocess", _Calls(subprocess.check_output, ["touch", target])),
        ("Popen", _Calls(subprocess.Popen, ["touch", target])),
        ("eval", _Calls(eval, f"open({target!r}, 'w')")),
        ("exec", _Calls(exec, f"open({target!r}, 'w')")),
        ("open", _Calls(open, target, "w")),
        ("getattr", _Calls(getattr, fitted("logistic_regression"), "fit")),
        ("import", _Calls(__import__, "os")),
        ("compile", _Calls(compile, "1", "x", "eval")),
        ("breakpoint", _Calls(breakpoint)),
        ("pickle.loads", _Calls(pickle.loads, pickle.dumps(_Calls(os.system, command)))),
        ("joblib.load", _Calls(joblib.load, target)),
        ("numpy.load", _Calls(np.load, target)),
        ("numpy.save", _Calls(np.save, target, np.zeros(2))),
        ("numpy.fromfile", _Calls(np.fromfile, "/etc/passwd")),
        ("map", _Calls(map, len, [])),
        ("codecs.open", _Calls(codecs.open, target, "w")),
        ("os.makedirs", _Calls(os.makedirs, target)),
        ("Path.touch", _Calls(Path.touch, Path(target))),
        ("gzip.open", _Calls(gzip.open, target, "w")),
    ]
    for name, value in reaches:
        for protocol in (2, 4, 5):
            yield f"{name} {protocol}", pickle.dumps(value, protocol=protocol)
    inside = fitted("logistic_regression").__class__()
    inside.C = _Calls(os.system, command)
    yield "inside an attribute", pickle.dumps(inside)
    holder = fitted("pipeline").__class__([("a", _Calls(os.system, command)), ("b", inside)])
    yield "inside a step", pickle.dumps(holder)
    array = np.empty(1, object)
    array[0] = _Calls(os.system, command)
    inside.C = array
    yield "inside an object array", pickle.dumps(inside)
    out = io.BytesIO()
    joblib.dump(inside, out)
    yield "inside joblib's object array", out.getvalue()


def _tricks(target: str) -> Iterator[tuple[str, bytes]]:
    """Hand-made streams that other scanners miss."""
    run = _text(f"touch {target}")
    system = _global("os", "system") + run + b"\x85R"
    yield "system before the model", b"\x80\x04" + system + b"0" + EMPTY[2:]
    yield "after STOP", EMPTY + b"\x80\x04" + system + b"."
    yield "dotted name", b"\x80\x04" + _global("sklearn", "utils.os.system") + run + b"\x85R."
    yield "dotted module through a name", b"\x80\x04" + _global("sklearn.utils._bunch", "Bunch.__init__.__globals__") + b"."
    yield "text opcode", b"\x80\x02cos\nsystem\nX" + struct.pack("<I", len(run) - 2) + run[2:] + b"\x85R."
    yield "protocol 0", b"cos\nsystem\n(S'touch " + target.encode() + b"'\ntR."
    yield "no protocol", EMPTY[2:]
    yield "INST", b"\x80\x02(S'touch " + target.encode() + b"'\nios\nsystem\n."
    yield "OBJ", b"\x80\x02(" + _global("os", "system") + run + b"o."
    yield "name from the memo", b"\x80\x04" + _text("os") + b"\x94" + _text("system") + b"\x94" + b"h\x00h\x01\x93" + run + b"\x85R."
    yield "name through POP", b"\x80\x04" + _text("os") + _text("x") + b"0" + _text("system") + b"\x93" + run + b"\x85R."
    yield "name through DUP", b"\x80\x04" + _text("os") + b"2\x93."
    yield "memo overwritten", b"\x80\x04" + _text("a") + b"q\x00" + _text("os") + b"q\x00" + EMPTY[2:]
    yield "memo far away", b"\x80\x04" + _text("a") + b"r\xff\xff\xff\x7f" + EMPTY[2:]
    yield "memo never set", b"\x80\x04h\x05."
    yield "PERSID", b"\x80\x02Pos.system\n."
    yield "BINPERSID", b"\x80\x04" + run + b"Q."
    yield "EXT1", b"\x80\x02\x82\x01."
    yield "EXT2", b"\x80\x02\x83\x01\x00."
    yield "EXT4", b"\x80\x02\x84\x01\x00\x00\x00."
    yield "NEWOBJ_EX", b"\x80\x04" + _global(*GOOD) + b")}\x92}b."
    yield "NEWOBJ with arguments", b"\x80\x04" + _global(*GOOD) + run + b"\x85\x81}b."
    yield "REDUCE of a class", b"\x80\x04" + _global(*GOOD) + b")R."
    yield "BUILD of a name", b"\x80\x04" + _global(*GOOD) + b"}" + _text("fit") + run + b"sb0" + EMPTY[2:]
    yield "BUILD twice", b"\x80\x04" + _global(*GOOD) + b")\x81}b}b."
    yield "dunder attribute", b"\x80\x04" + _global(*GOOD) + b")\x81}" + _text("__class__") + _global("sklearn.pipeline", "Pipeline") + b"sb."
    yield "reduce attribute", b"\x80\x04" + _global(*GOOD) + b")\x81}" + _text("__reduce__") + run + b"sb."
    yield "slot state", b"\x80\x04" + _global(*GOOD) + b")\x81N}" + _text("fit") + run + b"s\x86b."
    yield "text state", b"\x80\x04" + _global(*GOOD) + b")\x81" + run + b"b."
    yield "a second protocol", b"\x80\x04\x80\x05" + EMPTY[2:]
    yield "protocol 6", b"\x80\x06" + EMPTY[2:]
    yield "stack not empty", b"\x80\x04N" + EMPTY[2:]
    yield "no model", b"\x80\x04]."
    yield "a name alone", b"\x80\x04" + _global(*GOOD) + b"."
    yield "a number of many bits", b"\x80\x04\x8a\xff" + b"\x01" * 255 + EMPTY[2:]
    yield "an array of addresses", _array(b"\x8c\x02O8", b"C\x08" + b"A" * 8)
    yield "an array too short", _array(b"\x8c\x02f8", b"C\x04" + b"A" * 4)
    yield "a type of odd flags", _array(b"\x8c\x02f8", b"C\x08" + b"A" * 8, flags=b"K\x3f")
    yield "a type from text", b"\x80\x04" + _global("numpy", "dtype") + _text("O,O") + b"\x89\x88\x87R."
    yield (
        "a scalar of an object",
        b"\x80\x04" + _global("numpy._core.multiarray", "scalar") + _global("numpy", "dtype") + _text("O8") + b"\x89\x88\x87R" + run + b"\x86R.",
    )
    yield "another codec", b"\x80\x04" + _global("_codecs", "encode") + run + _text("zip") + b"\x86R."
    yield "frame over the end", b"\x80\x04\x95\xff\xff\xff\xff\x00\x00\x00\x00" + EMPTY[2:]
    yield "frame inside a frame", b"\x80\x04\x95\x20\x00\x00\x00\x00\x00\x00\x00\x95\x02\x00\x00\x00\x00\x00\x00\x00" + EMPTY[2:]
    yield "out-of-band buffer", b"\x80\x05\x97."
    yield (
        "unpickled by Cython",
        b"\x80\x04" + _global("sklearn._loss._loss", "__pyx_unpickle_CyHalfBinomialLoss") + _global("os", "system") + b"K\x01N\x87R.",
    )
    yield "a list that is none", b"\x80\x04" + _global(*GOOD) + b")\x81N" + b"a}b."
    yield "a set that is none", b"\x80\x04" + _global(*GOOD) + b")\x81(N\x90}b."


def _array(code: bytes, data: bytes, flags: bytes = b"K\x00") -> bytes:
    """A model with an array attribute whose type, flags and data are chosen."""
    kind = _global("numpy", "dtype") + code + b"\x89\x88\x87R(K\x03" + _text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + flags + b"tb"
    made = (
        _global("numpy._core.multiarray", "_reconstruct")
        + _global("numpy", "ndarray")
        + b"K\x00\x85C\x01b\x87R(K\x01K\x01\x85"
        + kind
        + b"\x89"
        + data
        + b"tb"
    )
    return b"\x80\x04" + _global(*GOOD) + b")\x81}" + _text("coef_") + made + b"sb."


def test_the_least_pickle_passes() -> None:
    assert scan_pickle(EMPTY, "m").names == {GOOD}
    assert scan_pickle(_array(b"\x8c\x02f8", b"C\x08" + b"A" * 8), "m").names >= {("numpy", "dtype")}


def test_hostile_pickles_are_refused_even_with_trust(tmp_path: Path, data: Dataset) -> None:
    target = tmp_path / MARK
    hostile = [*_calls(str(target)), *_tricks(str(target))]
    assert len(hostile) >= 100
    passed = []
    for name, blob in hostile:
        path = tmp_path / "m.pkl"
        path.write_bytes(blob)
        for trust in (False, True):
            try:
                load_model({"sklearn": str(path)}, space=data.space, classes=2, trust=trust)
            except InputError:
                continue
            passed.append((name, trust))
        with pytest.raises(InputError):
            load_pickle(blob, "m")
    assert passed == []
    assert not target.exists()


def test_the_crafted_pickles_do_run_elsewhere(tmp_path: Path) -> None:
    """The hostile files are hostile: plain pickle.loads would have run them."""
    target = tmp_path / MARK
    pickle.loads(dict(_calls(str(target)))["open 4"])
    assert target.exists()


def test_compressed_and_wrapped_pickles_are_scanned_too(tmp_path: Path, data: Dataset) -> None:
    target = tmp_path / MARK
    bad = pickle.dumps(_Calls(os.system, f"touch {target}"))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("data.pkl", bad)
    for blob in (
        gzip.compress(bad),
        archive.getvalue(),
        gzip.compress(bad)[:-4],
        gzip.compress(gzip.compress(bad)),
        gzip.compress(b"\x00" * (1 << 28)),
    ):
        path = tmp_path / "m.joblib"
        path.write_bytes(blob)
        with pytest.raises(InputError):
            load_model(path, space=data.space, classes=2, trust=True)
    assert not target.exists()


def test_an_ordinary_pickle_asks_for_few_names() -> None:
    names = {name for estimator in SKLEARN[:9] for name in scan_pickle(pickle.dumps(fitted(estimator)), "m").names}
    assert len(names) < 60
    assert all(not attribute.startswith("_") or module.startswith(("numpy", "sklearn", "_codecs")) for module, attribute in names)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=st.data())
def test_flipped_bytes_never_run_and_never_crash(tmp_path: Path, data: Dataset, source: st.DataObject) -> None:
    blob = bytearray(pickle.dumps(fitted("decision_tree")))
    for _ in range(source.draw(st.integers(1, 4))):
        blob[source.draw(st.integers(0, len(blob) - 1))] = source.draw(st.integers(0, 255))
    path = tmp_path / "m.pkl"
    path.write_bytes(bytes(blob[: source.draw(st.integers(1, len(blob)) | st.just(len(blob)))]))
    with contextlib.suppress(InputError):
        load_model(path, space=data.space, classes=2, trust=True).predict(data.x)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_sentence(blob: bytes) -> None:
    with pytest.raises(InputError) as caught:
        scan_pickle(b"\x80\x04" + blob, "m.pkl")
    assert "m.pkl" in str(caught.value)


def test_scanner_reads_what_pickletools_reads() -> None:
    """The stream that is read has the same opcodes as the file, less the frames."""
    blob = pickle.dumps(fitted("random_forest"), protocol=5)
    said = [(op.name, argument) for op, argument, _ in pickletools.genops(blob) if op.name != "FRAME"]
    read = [(op.name, argument) for op, argument, _ in pickletools.genops(scan_pickle(blob, "m").stream)]
    assert said == read
