"""The built-in stories as ordinary plans, and the draft of a plan for a lone model file.

>>> story_plan("patients")["data"]["source"]
'patients'
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

KINDS = {
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".txt": "lightgbm",
    ".cbm": "catboost",
    ".skops": "sklearn",
    ".onnx": "onnx",
    ".pkl": "sklearn",
    ".joblib": "sklearn",
    ".pt2": "torch",
}


def story_plan(name: str) -> dict[str, Any]:
    """The plan of a built-in story: ``fraud``, ``patients`` or ``images``."""
    return yaml.safe_load(resources.files("carbide.stories").joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def draft_plan(model: Path, data: str, *, label: str | None, eps: str | None) -> dict[str, Any]:
    """A plan that audits a model file against everything that needs no recipe: evasion and extraction."""
    from carbide.types import InputError

    suffix = model.suffix.lower()
    if suffix not in KINDS:
        raise InputError(
            f"{model} has the ending {suffix or 'nothing'}, which names no model format; use {', '.join(sorted(KINDS))}, or name it in a plan"
        )
    kind = KINDS[suffix]
    if suffix == ".json" and model.is_file():
        from carbide.models._files import by_content, read_bytes

        kind = "catboost" if by_content(read_bytes(model)) == "catboost" else kind
    threats: list[dict[str, Any]] = [{"extraction": {"queries": 500}}]
    if eps is not None:
        threats.insert(0, {"evasion": {"norm": "linf", "eps": eps}})
    source: dict[str, Any] = {"source": data} | ({"label": label} if label else {})
    return {"title": model.stem, "model": {kind: str(model.resolve())}, "data": source, "threats": threats}
