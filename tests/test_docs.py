"""Every Python example in the README and docs runs, every plan is valid, every link leads somewhere."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import yaml

from carbide.plan import Plan, split_threat

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
ids = [str(p.relative_to(ROOT)) for p in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text())


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python") and p.name != "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "example"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), scope)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_plans_are_valid(page):
    for block in blocks(page, "yaml"):
        plan = Plan.model_validate(yaml.safe_load(block))
        for entry in plan.threats:
            split_threat(entry)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_contributed_method_is_found_and_tried(tmp_path, monkeypatch):
    import sys

    import carbide.evasion.audit as room
    from carbide import registry
    from tests.conformance.suite import check, check_form

    method, _ = blocks(ROOT / "CONTRIBUTING.md", "python")
    (tmp_path / "coin.py").write_text(method)
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    registry._walk.cache_clear()
    try:
        check_form(registry.method("evasion", "audit", "coin"))
        with pytest.raises(AssertionError, match="it broke"):
            check(registry.method("evasion", "audit", "coin"))
    finally:
        registry._walk.cache_clear()
        sys.modules.pop("carbide.evasion.audit.coin", None)
