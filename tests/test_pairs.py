"""Pairs of nets and properties from the command line and from Python: verdicts, result files, lists that go on, and wrong input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import carbide
from carbide._pairs import read_pairs
from carbide.cli import app, guarded
from carbide.space.vnnlib import Property, Region, load_vnnlib
from carbide.types import InputError
from tests.evasion.onnx_nets import file_of, perceptron
from tests.evasion.onnx_nets import run as answers

NET = perceptron(0, (3, 12, 12, 2))


def run(*words: object) -> int:
    return guarded(lambda: app([str(w) for w in words], standalone_mode=False))


def below(limit: float) -> Property:
    """It must not happen that the first output falls to the limit."""
    region = Region(lower=-np.ones(3), upper=np.ones(3), matrix=np.eye(2)[:1], bound=np.array([limit]))
    return Property(inputs=3, outputs=2, regions=(region,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A net (plain and packed), a property that holds (packed) and one that does not."""
    blob = file_of(NET)
    least = answers(blob, np.random.default_rng(0).uniform(-1, 1, (2000, 3)))[:, 0].min()
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.onnx").write_bytes(blob)
    (tmp_path / "nets" / "packed.onnx.gz").write_bytes(gzip.compress(blob))
    (tmp_path / "broken.vnnlib").write_text(below(least + 0.05).text())
    (tmp_path / "holds.vnnlib.gz").write_bytes(gzip.compress(below(least - 3.0).text().encode()))
    return tmp_path


def test_a_pair_has_a_verdict_a_result_file_and_an_exit_code(folder, capsys):
    net, out = folder / "nets" / "net.onnx", folder / "run"
    assert run("prove", net, folder / "holds.vnnlib.gz", "--out", out) == 0
    said = capsys.readouterr().out
    assert said.startswith("unsat by ")
    assert "Assumed: the net answers in its stored precision" in said
    assert (out / "results" / "0001-net-holds.txt").read_text() == "unsat\n"
    assert run("prove", folder / "nets" / "packed.onnx.gz", folder / "broken.vnnlib", "--out", out, "--timeout", 20) == 1
    assert "sat by attack" in capsys.readouterr().out
    text = (out / "results" / "0001-packed-broken.txt").read_text()
    word, values = text.split("\n", 1)
    assert word == "sat"
    assert values.startswith("((X_0 ")
    assert values.endswith("))\n")
    numbers = {name: float(value) for name, value in (line.strip("()").split(" ") for line in values.strip().splitlines())}
    x, y = (np.array([[numbers[f"{side}_{i}"] for i in range(count)]]) for side, count in (("X", 3), ("Y", 2)))
    np.testing.assert_array_equal(answers(net.read_bytes(), x), y)
    assert load_vnnlib(folder / "broken.vnnlib").met(x, y).all()


def test_json_and_python_say_the_same(folder, capsys):
    net, unsafe = folder / "nets" / "net.onnx", folder / "broken.vnnlib"
    assert run("prove", net, unsafe, "--out", folder / "run", "--json") == 1
    (said,) = json.loads(capsys.readouterr().out)
    found = carbide.prove_property(net, unsafe)
    assert (said["verdict"], said["witness"], said["outputs"]) == (found.verdict, found.witness.tolist(), found.outputs.tolist())
    assert not found.proven
    assert carbide.prove_property(net, load_vnnlib(folder / "holds.vnnlib.gz")).proven


def test_a_list_runs_one_after_the_other_and_goes_on_where_it_was(folder, capsys):
    (folder / "list.csv").write_text("nets/net.onnx,holds.vnnlib,20\n\nnets/packed.onnx,broken.vnnlib,20\nnets/net.onnx,wrong.vnnlib,5\n")
    (folder / "wrong.vnnlib").write_text("(assert (<= X_0 1))")
    assert run("prove", folder / "list.csv", "--out", folder / "run") == 2
    said = capsys.readouterr().out
    assert "1 unsat, 1 sat, 1 error of 3 pairs" in said
    assert "uses X_0 before it is declared" in said
    verdicts = json.loads((folder / "run" / "verdicts.json").read_text())["pairs"]
    assert [pair["verdict"] for pair in verdicts] == ["unsat", "sat", "error"]
    assert len(list((folder / "run" / "results").glob("*.txt"))) == len(json.loads((folder / "run" / "timings.json").read_text())) == 3
    before = {name: (folder / "run" / name).read_bytes() for name in ("verdicts.json", "timings.json", "steps.jsonl")}
    assert run("prove", folder / "list.csv", "--out", folder / "run") == 2
    assert {name: (folder / "run" / name).read_bytes() for name in before} == before
    (folder / "list.csv").write_text("onnx,vnnlib,timeout\nnets/net.onnx,holds.vnnlib.gz,20\n")
    assert run("prove", folder / "list.csv", "--out", folder / "other", "--timeout", 5) == 0
    assert json.loads((folder / "other" / "verdicts.json").read_text())["pairs"][0]["timeout"] == 5.0


def value(name: str, *shape: object) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def graph(inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], *nodes: onnx.NodeProto) -> bytes:
    made = helper.make_graph(list(nodes), "g", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


N = helper.make_node
NETS = {
    "half a net": (file_of(NET)[:150], "ONNX graph"),
    "no net": (b"tree\nversion=v4\n", "holds lightgbm, where an ONNX graph is expected"),
    "nothing": (b"", "is empty"),
    "half a packed net": (gzip.compress(file_of(NET))[:60], "no whole gzip file"),
    "other inputs": (file_of(perceptron(0, (4, 5, 2))), "maps 4 numbers to 2, the property speaks of 3 inputs and 2 outputs"),
    "other outputs": (file_of(perceptron(0, (3, 5, 4))), "maps 3 numbers to 4, the property speaks of 3 inputs and 2 outputs"),
    "two inputs": (graph([value("x", 1, 3), value("z", 1, 3)], [value("out", 1, 3)], N("Add", ["x", "z"], ["out"])), "one numeric input"),
    "two outputs": (graph([value("x", 1, 3)], [value("a", 1, 3), value("b", 1, 3)], N("Relu", ["x"], ["a"]), N("Neg", ["x"], ["b"])), "the outputs a, b"),
    "no batch axis": (graph([value("x", 3)], [value("a", 3)], N("Relu", ["x"], ["a"])), "export it with a batch axis first"),
    "sizes that are open": (graph([value("x", 1, "d")], [value("a", 1, "d")], N("Relu", ["x"], ["a"])), "fixed sizes after it"),
    "answers that are no numbers": (graph([value("x", 1, 3)], [value("a", 1, 3)], N("Sub", ["x", "x"], ["z"]), N("Log", ["z"], ["a"])), "NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_wrong_nets_are_one_sentence_and_exit_code_2(name, folder, capsys):
    blob, words = NETS[name]
    (folder / "wrong.onnx").write_bytes(blob)
    assert run("prove", folder / "wrong.onnx", folder / "broken.vnnlib", "--out", folder / "run", "--quiet") == 2
    said = capsys.readouterr().err
    assert said.startswith("carbide: ")
    assert said.count("\n") == 1, said
    assert words in said


def test_wrong_commands_and_lists(folder, capsys):
    net, unsafe = folder / "nets" / "net.onnx", folder / "broken.vnnlib"
    (folder / "plan.yaml").write_text("{}")
    commands = [
        ((folder / "no.onnx", unsafe), "cannot be read"),
        ((net, folder / "no.vnnlib"), "cannot be read"),
        ((net,), "no property is named"),
        ((unsafe, unsafe), "names no ONNX file"),
        ((net, unsafe, "--timeout", "0"), "timeout is 0"),
        ((net, unsafe, "--timeout", "nan"), "timeout is nan"),
        ((folder / "plan.yaml", unsafe), "is a plan, which takes no property"),
        ((folder / "no.csv",), "cannot be read"),
    ]
    for text, match in (("", "names no pair"), ("a.onnx\n", "line 1, has 1 values"), ("nets/net.onnx,no.vnnlib,3\n", "no.vnnlib, which is not there"),
                        ("nets/net.onnx,broken.vnnlib,soon\n", "'soon' as seconds"), ("nets/net.onnx,broken.vnnlib,-3\n", "'-3' as seconds")):  # fmt: skip
        path = folder / f"{len(commands)}.csv"
        path.write_text(text)
        commands.append(((path,), match))
    commands.append(((folder / "8.csv", unsafe), "one too many"))
    for words, match in commands:
        assert run("prove", *words, "--out", folder / "run") == 2, words
        assert match in capsys.readouterr().err
    assert not list((folder / "run").glob("results/*"))
    with pytest.raises(InputError, match="timeout is inf"):
        carbide.prove_property(net, unsafe, timeout=float("inf"))


def test_a_list_gives_a_minute_where_it_names_no_seconds(folder):
    (folder / "list.csv").write_text("nets/net.onnx,broken.vnnlib\n")
    (pair,) = read_pairs(folder / "list.csv")
    assert (pair.timeout, pair.words()) == (60.0, "net.onnx broken.vnnlib")
