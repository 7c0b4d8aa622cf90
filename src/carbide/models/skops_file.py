"""skops files: scikit-learn estimators without pickles, read only if every type inside is known to be inert.

skops can tell which types a file would make, but not whether their numbers are sound, so trees are walked after loading
(see ``_sound``). ``dump_skops`` writes the same bytes for the same estimator, wherever its parts lie in memory.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from typing import Any

import numpy as np

from carbide.models._files import check_zip, one_line
from carbide.models._sound import check_estimator
from carbide.types import InputError

# Types that skops leaves to the reader. The trees are checked after loading; the others hold plain values and methods
# of scikit-learn only.
TRUSTED = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
OLDEST = (0, 13)  # earlier versions can be made to run code (CVE-2025-54412, CVE-2025-54413, CVE-2025-54886)
_PLAIN = ("JsonNode", "TypeNode", "FunctionNode")


def load_skops(blob: bytes, name: str) -> Any:
    """The estimator in a skops file.

    Raises:
        InputError: if the file is broken, or holds a type that is not known to be inert (they are listed), or a tree that points outside itself.
    """
    sio = _skops()
    check_zip(blob, name)
    # What a library raises on bytes that were not written by it has no end, and none of it is Carbide's failure.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            untrusted = sorted(set(sio.get_untrusted_types(data=blob)) - set(TRUSTED))
            if untrusted:
                raise InputError(
                    f"{name} holds types that may run code or corrupt memory: {', '.join(untrusted)}; save a model of scikit-learn's own types"
                )
            estimator = sio.loads(blob, trusted=list(TRUSTED))
            check_estimator(estimator, name)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} is no whole skops file ({type(error).__name__}: {one_line(error)}); save the model again and give the new file"
        ) from error
    return estimator


def dump_skops(estimator: Any) -> bytes:
    """An estimator as the bytes of a skops file; equal estimators give equal bytes.

    Raises:
        InputError: if it holds something that a safe file cannot hold.
    """
    sio = _skops()
    try:
        blob = sio.dumps(estimator)
    except Exception as error:
        raise InputError(
            f"{type(estimator).__name__} cannot be stored without pickles ({one_line(error)}); use a model of scikit-learn's own types"
        ) from error
    untrusted = sorted(set(sio.get_untrusted_types(data=blob)) - set(TRUSTED))
    if untrusted:
        raise InputError(f"{type(estimator).__name__} holds types that a safe file cannot hold: {', '.join(untrusted)}; use scikit-learn's own types")
    return _canonical(blob)


def _skops() -> Any:
    try:
        import skops
        import skops.io as sio
    except ImportError as error:
        raise InputError("scikit-learn files need the skops extra; install it with: pip install 'carbide[skops]'") from error
    if tuple(int(part) for part in skops.__version__.split(".")[:2]) < OLDEST:
        raise InputError(f"skops is version {skops.__version__}, which can be made to run code; install skops>={OLDEST[0]}.{OLDEST[1]}")
    return sio


def _canonical(blob: bytes) -> bytes:
    """The same archive with members numbered in order of use instead of by address, and without dates."""
    with zipfile.ZipFile(io.BytesIO(blob)) as source:
        schema = json.loads(source.read("schema.json"))
        ids: dict[int, int] = {}
        files: dict[str, str] = {}
        _renumber(schema, ids, files)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
            for old, new in files.items():
                target.writestr(_entry(new), _without_gaps(source.read(old)) if new.endswith(".npy") else source.read(old))
            target.writestr(_entry("schema.json"), json.dumps(schema, separators=(",", ":")))
    return out.getvalue()


def _without_gaps(blob: bytes) -> bytes:
    """An array file whose records have zeros between their fields: what lies there by chance is no part of the model."""
    array = np.load(io.BytesIO(blob), allow_pickle=False)
    if array.dtype.names is None:
        return blob
    clean = np.zeros(array.shape, array.dtype)
    for field in array.dtype.names:
        clean[field] = array[field]
    out = io.BytesIO()
    np.save(out, clean, allow_pickle=False)
    return out.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _renumber(node: Any, ids: dict[int, int], files: dict[str, str]) -> None:
    if isinstance(node, list):
        for item in node:
            _renumber(item, ids, files)
        return
    if not isinstance(node, dict):
        return
    if "__loader__" in node:
        if node["__loader__"] in _PLAIN:
            node.pop("__id__", None)  # whether two equal texts or numbers are one object is chance
        elif "__id__" in node:
            node["__id__"] = ids.setdefault(node["__id__"], len(ids) + 1)
        if isinstance(node.get("file"), str):
            node["file"] = files.setdefault(node["file"], f"{len(files)}.{node['file'].rpartition('.')[2]}")
    for value in node.values():
        _renumber(value, ids, files)
