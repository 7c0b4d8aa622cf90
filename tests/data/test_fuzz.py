"""Whatever bytes lie behind the door, either rows come out or one InputError does."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbide.data import load_data
from carbide.data.parts import PARTS
from carbide.types import InputError

pd = pytest.importorskip("pandas")
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = ("f.csv", "f.csv.gz", "f.zip", "f.parquet", "f.npz", "f-images-idx3-ubyte", "f-images-idx3-ubyte.gz", "f.tsv")


def opened(path, **options):
    """What must hold of any loaded data; InputError otherwise."""
    try:
        loaded = load_data(str(path), **options)
    except InputError as error:
        assert "\n" not in str(error)
        return None
    for part in PARTS:
        data = getattr(loaded.splits, part)
        assert np.isfinite(data.x).all()
        assert data.x.shape == (len(data), *data.space.shape)
        assert set(data.y) <= set(range(data.classes))
        assert len(np.unique(data.y)) >= 2
    return loaded


def table_bytes():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=60), "b": rng.integers(0, 5, 60), "c": rng.choice(["x", "y"], 60), "y": np.arange(60) % 2})
    text, out = frame.to_csv(index=False).encode(), io.BytesIO()
    frame.to_parquet(out)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("f.csv", text)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, x=frame[["a", "b"]].to_numpy(), y=frame.y.to_numpy())
    pixels = rng.integers(0, 256, (30, 4, 4), np.uint8)
    images = bytes([0, 0, 8, 3]) + struct.pack(">3I", *pixels.shape) + pixels.tobytes()
    return {"f.csv": text, "f.csv.gz": gzip.compress(text), "f.zip": zipped.getvalue(), "f.parquet": out.getvalue(), "f.npz": arrays.getvalue(),
            "f-images-idx3-ubyte": images, "f-images-idx3-ubyte.gz": gzip.compress(images), "f.tsv": text.replace(b",", b"\t")}  # fmt: skip


VALID = table_bytes()
LABELS = bytes([0, 0, 8, 1]) + struct.pack(">I", 30) + bytes(i % 2 for i in range(30))


def options_for(name):
    return {"label": "y"} if name.split(".")[0] == "f" and not name.endswith("npz") else {}


def put(tmp_path, name, blob):
    (tmp_path / name).write_bytes(blob)
    if "images" in name:
        (tmp_path / name.replace("images-idx3", "labels-idx1")).write_bytes(gzip.compress(LABELS) if name.endswith("gz") else LABELS)
    return tmp_path / name


@pytest.mark.parametrize("name", NAMES)
def test_the_untouched_file_is_read(tmp_path, name):
    assert opened(put(tmp_path, name, VALID[name]), **options_for(name)) is not None


@FUZZ
@given(name=st.sampled_from(NAMES), blob=st.binary(max_size=300))
def test_random_bytes(tmp_path, name, blob):
    opened(put(tmp_path, name, blob), **options_for(name))


@FUZZ
@given(name=st.sampled_from(NAMES), share=st.floats(0, 1))
def test_truncated_files_never_read_as_whole(tmp_path, name, share):
    blob = VALID[name][: int(share * (len(VALID[name]) - 1))]
    loaded = opened(put(tmp_path, name, blob), **options_for(name))
    assert loaded is None or name in ("f.csv", "f.tsv"), "only plain text can end anywhere and still be a table"


@FUZZ
@given(name=st.sampled_from(NAMES), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=8))
def test_damaged_files(tmp_path, name, flips):
    blob = bytearray(VALID[name])
    for place, value in flips:
        blob[place % len(blob)] ^= value
    opened(put(tmp_path, name, bytes(blob)), **options_for(name))


cells = st.one_of(
    st.text(max_size=6), st.floats().map(str), st.integers().map(str), st.sampled_from(["", "nan", "inf", "-inf", "1e400", "NULL", "?", "0x10", '"'])
)


@FUZZ
@given(rows=st.lists(st.lists(cells, min_size=1, max_size=4), min_size=0, max_size=12), header=st.booleans(),
       options=st.fixed_dictionaries({}, optional={"fill": st.sampled_from(["median", 0, "drop", "bad"]), "drop": st.just(["b"]), "time": st.just("b"),
                                                   "group": st.just("a"), "missing": st.just(["?"]), "positive": cells, "categorical": st.just(["a"]),
                                                   "duplicates": st.sampled_from(["group", "drop", "keep"])}))  # fmt: skip
def test_random_tables(tmp_path, rows, header, options):
    lines = [["a", "b", "y"], *rows] if header else rows
    (tmp_path / "f.csv").write_text("\n".join(",".join(row) for row in lines), encoding="utf-8", errors="surrogatepass")
    opened(tmp_path / "f.csv", label="y" if header else 0, **options)


@FUZZ
@given(
    column=st.lists(
        st.one_of(st.floats(width=32), st.none(), st.text(max_size=3), st.integers(-(2**70), 2**70), st.booleans()), min_size=30, max_size=30
    )
)
def test_random_columns_beside_sound_ones(tmp_path, column):
    frame = pd.DataFrame({"a": np.arange(30) / 7, "b": pd.Series(column, dtype=object), "y": np.arange(30) % 2})
    frame.to_csv(tmp_path / "f.csv", index=False, errors="surrogatepass")
    opened(tmp_path / "f.csv", label="y")


@FUZZ
@given(shape=st.lists(st.integers(0, 6), min_size=0, max_size=5), labels=st.lists(st.one_of(st.integers(-3, 40), st.floats()), max_size=6),
       kind=st.sampled_from(["f8", "f4", "u1", "i8", "?", "c16", "U3", "M8[s]"]))  # fmt: skip
def test_random_arrays(tmp_path, shape, labels, kind):
    x = np.arange(int(np.prod(shape)) if shape else 1).astype("i8").astype(kind).reshape(shape)
    np.savez(tmp_path / "f.npz", x=np.concatenate([x] * 5) if x.ndim else x, y=np.array(labels * 5))
    opened(tmp_path / "f.npz")
