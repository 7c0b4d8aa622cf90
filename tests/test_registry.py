"""A method is found by its path alone: one file makes it appear in the list, the plan schema and an audit."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import carbide.evasion.audit as room
from carbide import registry
from carbide.types import InputError

TOY = '''"""Nobody 2026, https://example.org/toy: every input becomes its mirror image within the ball.

A toy that shows what one file must hold.
"""

from dataclasses import dataclass

import numpy as np

from carbide.registry import Method
from carbide.types import Access, LpBall


@dataclass(frozen=True, kw_only=True)
class Toy(Method):
    """Moves every feature by a share of eps."""

    threats = (LpBall,)
    needs = Access.LABELS
    share: float = 1.0

    def __call__(self, model, x, y, threat, rng):
        return x + self.share * threat.eps * np.sign(rng.normal(size=x.shape))
'''


@pytest.fixture
def toy(monkeypatch, tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "toy.py").write_text(TOY)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path / "room")])
    registry._walk.cache_clear()
    yield
    registry._walk.cache_clear()
    sys.modules.pop("carbide.evasion.audit.toy", None)


def test_a_new_file_is_a_new_method_everywhere(toy, tmp_path):
    from carbide.plan import plan_schema

    entry = registry.method("evasion", "audit", "toy")
    assert entry.paper.startswith("Nobody 2026")
    evasion = plan_schema()["properties"]["threats"]["items"]["properties"]["evasion"]
    assert evasion["properties"]["audit"]["properties"]["toy"]["properties"]["share"] == {"type": "number", "default": 1.0}
    script = tmp_path / "use.py"
    script.write_text(
        textwrap.dedent(f"""
        import carbide.evasion.audit as room
        room.__path__.append({str(tmp_path / "room")!r})
        import json
        from sklearn.datasets import load_iris
        from sklearn.linear_model import LogisticRegression
        import carbide
        x, y = load_iris(return_X_y=True)
        report = carbide.audit(LogisticRegression(max_iter=500).fit(x, y), (x, y), threats=[{{"evasion": {{"eps": 0.3, "audit": ["toy"]}}}}], quiet=True)
        print(json.dumps([f.method for f in report.results.plain.sections[0].findings]))
        print("toy" in report.save({str(tmp_path / "run")!r}).read_text())
    """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    methods, in_page = done.stdout.strip().splitlines()[-2:]
    assert any("toy" in method for method in json.loads(methods))
    assert in_page == "True"


def test_unknown_methods_and_options_are_named():
    with pytest.raises(InputError, match="'nothing'"):
        registry.method("evasion", "audit", "nothing")
    with pytest.raises(InputError, match="'stepz'"):
        registry.method("evasion", "audit", "pgd").make({"stepz": 3})


def test_a_missing_extra_is_a_result_not_a_crash(monkeypatch, tmp_path):
    (tmp_path / "needy.py").write_text('"""X, https://example.org: y."""\nimport opacus\n')
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    registry._walk.cache_clear()
    try:
        entry = registry.method("evasion", "audit", "needy")
        assert entry.missing == "opacus"
        with pytest.raises(InputError, match="opacus"):
            entry.make()
    finally:
        registry._walk.cache_clear()


def test_a_broken_method_file_is_not_hidden(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text('"""X, https://example.org: y."""\nimport a_module_that_is_not_there\n')
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    registry._walk.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError):
            registry.methods(room="evasion")
    finally:
        registry._walk.cache_clear()


def test_importing_carbide_loads_nothing_heavy():
    code = (
        "import sys, carbide, carbide.cli; print([m for m in ('torch', 'sklearn', 'xgboost', 'scipy', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert Path(registry.__file__).exists()
