"""The door of the data: what every source gives, how rows are cut, and the sentence for whatever is wrong."""

from __future__ import annotations

import gzip
import io
import re
import struct
import zipfile

import numpy as np
import pytest

from carbide.data import load_data
from carbide.data.parts import PARTS
from carbide.types import InputError, Kind, rng_for

pd = pytest.importorskip("pandas")


def parts(loaded):
    return [getattr(loaded.splits, part) for part in PARTS]


def table(n=200, seed=0):
    """A frame with a number, a whole number, a text and a label that depends on the number."""
    rng = np.random.default_rng(seed)
    amount = rng.normal(10, 3, n)
    return pd.DataFrame({"amount": amount, "visits": rng.integers(0, 9, n), "town": rng.choice(["Bonn", "Kiel", "Ulm"], n),
                         "fraud": np.where(amount > 11, "yes", "no")})  # fmt: skip


def written(tmp_path, frame, name="rows.csv"):
    path = tmp_path / name
    frame.to_csv(path, index=False)
    return str(path)


def idx(array, code=8, gz=True, cut=0):
    data = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    data = data[: len(data) - cut]
    return gzip.compress(data) if gz else data


# Tables ----------------------------------------------------------------------------------------------------------


def test_a_csv_gives_names_kinds_and_disjoint_stratified_parts(tmp_path):
    frame = table()
    loaded = load_data(written(tmp_path, frame), label="fraud")
    train, validation, test = parts(loaded)
    assert [len(p) for p in (train, validation, test)] == [120, 40, 40]
    assert train.space.names == ("amount", "visits", "town")
    assert train.space.kind.tolist() == [Kind.REAL, Kind.INTEGER, Kind.CATEGORICAL]
    assert train.class_names == ("no", "yes")
    share = (frame.fraud == "yes").mean()
    for part in (train, validation, test):
        assert abs(part.y.mean() - share) < 0.03
        assert part.y.dtype == np.int64
        assert (part.y == (part.x[:, 0] > 11)).all(), "labels and rows belong together"
    ids = np.concatenate([p.ids for p in (train, validation, test)])
    assert len(set(ids)) == 200


@pytest.mark.parametrize("header", ["a,y,y", "a,y, y", "a,a,y", '"y",a,y'])
def test_a_name_that_stands_twice_in_a_header_is_refused(tmp_path, header):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, *(f"{i % 7},{i % 2},{i % 2}" for i in range(60))]))
    with pytest.raises(InputError, match=r"two columns named '[ay]'; give each column its own name"):
        load_data(str(path), label="y")
    assert load_data(str(path), label="z", names=["p", "q", "z"]).splits.train.space.names == ("p", "q")


def test_nameless_columns_and_names_with_numbers_are_no_repeats(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([",y,y.1,", *(f"{i % 7},{i % 2},{i % 3},{i % 5}" for i in range(60))]))
    assert load_data(str(path), label="y").splits.train.space.names == ("Unnamed: 0", "y.1", "Unnamed: 3")


def test_a_name_that_stands_twice_in_a_parquet_file_is_refused(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    columns = [arrow.array(np.arange(60) % k) for k in (7, 2, 2)]
    parquet.write_table(arrow.Table.from_arrays(columns, names=["a", "y", "y"]), path)
    with pytest.raises(InputError, match="two columns named 'y'; give each column its own name"):
        load_data(str(path), label="y")


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tmp_path):
    path = written(tmp_path, table())
    one, two, other = (load_data(path, label="fraud", seed=s).splits.test for s in (3, 3, 4))
    np.testing.assert_array_equal(one.x, two.x)
    assert one.ids.tolist() == two.ids.tolist() != other.ids.tolist()


def test_ids_do_not_depend_on_the_file_around_a_row(tmp_path):
    frame = table()
    whole = load_data(written(tmp_path, frame), label="fraud", duplicates="keep")
    known = {tuple(x): i for p in parts(whole) for x, i in zip(p.x[:, :2], p.ids, strict=True)}
    half = load_data(written(tmp_path, frame.iloc[:100], "half.csv"), label="fraud", duplicates="keep")
    for part in parts(half):
        for x, i in zip(part.x[:, :2], part.ids, strict=True):
            assert known[tuple(x)] == i


def test_categories_come_from_the_training_rows_and_others_become_other(tmp_path):
    frame = table(60)
    frame["t"] = np.arange(60)
    frame.loc[59, "town"] = "Oz"
    loaded = load_data(written(tmp_path, frame), label="fraud", time="t")
    assert loaded.splits.train.space.categories["town"] == ("Bonn", "Kiel", "Ulm", "(other)")
    assert loaded.splits.test.x[-1, 2] == 3
    assert any("no training row" in note for note in loaded.notes)
    codes = loaded.splits.train.x[:, 2].astype(int)
    assert [("Bonn", "Kiel", "Ulm")[c] for c in codes] == frame.town[: len(codes)].tolist()


@pytest.mark.parametrize(("label", "positive", "names", "expected"), [
    ("grade", None, ("1", "2", "10"), {1: 0, 2: 1, 10: 2}),
    ("grade", 10, ("other", "10"), {1: 0, 2: 0, 10: 1}),
    ("grade", ["1", 2], ("10", "1 or 2"), {1: 1, 2: 1, 10: 0}),
])  # fmt: skip
def test_labels_are_sorted_as_numbers_or_named_positive(tmp_path, label, positive, names, expected):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=90), "grade": np.tile([10, 1, 2], 30)})
    loaded = load_data(written(tmp_path, frame), label=label, positive=positive)
    assert loaded.splits.train.class_names == names
    found = {a: y for p in parts(loaded) for a, y in zip(p.x[:, 0], p.y, strict=True)}
    assert all(found[a] == expected[g] for a, g in zip(frame.a, frame.grade, strict=True))


def test_a_group_is_in_one_part_only(tmp_path):
    frame = table(300)
    frame["patient"] = np.random.default_rng(1).integers(0, 60, 300)
    loaded = load_data(written(tmp_path, frame), label="fraud", group="patient")
    assert "patient" not in loaded.splits.train.space.names
    owner = dict(zip(frame.amount, frame.patient, strict=True))
    groups = [{owner[a] for a in p.x[:, 0]} for p in parts(loaded)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]
    assert sum(len(p) for p in parts(loaded)) == 300


@pytest.mark.parametrize("stamp", [lambda i: f"2024-{1 + i // 28:02d}-{1 + i % 28:02d}", lambda i: i / 3])
def test_time_orders_the_parts_without_overlap_and_ties_stay_together(tmp_path, stamp):
    frame = table(300)
    day = np.random.default_rng(1).permutation(np.repeat(np.arange(100), 3))
    frame["day"] = [stamp(int(d)) for d in day]
    loaded = load_data(written(tmp_path, frame), label="fraud", time="day")
    when = dict(zip(frame.amount, day, strict=True))
    days = [[when[a] for a in p.x[:, 0]] for p in parts(loaded)]
    assert max(days[0]) < min(days[1])
    assert max(days[1]) < min(days[2])
    assert all(d == sorted(d) for d in days)
    assert [len(d) for d in days] == [180, 60, 60]


def test_time_and_group_together_leave_no_group_in_two_parts(tmp_path):
    frame = table(300)
    frame["day"], frame["who"] = np.arange(300), np.random.default_rng(2).integers(0, 150, 300)
    loaded = load_data(written(tmp_path, frame), label="fraud", time="day", group="who")
    owner = dict(zip(frame.amount, frame.who, strict=True))
    groups = [{owner[a] for a in p.x[:, 0]} for p in parts(loaded)]
    assert not groups[0] & (groups[1] | groups[2])
    assert not groups[1] & groups[2]
    assert any("group of an earlier part" in note for note in loaded.notes)


def test_repeated_rows_stay_together_go_or_are_left_alone(tmp_path):
    frame = pd.concat([table(100)] * 3, ignore_index=True)
    path = written(tmp_path, frame)
    together = [set(p.x[:, 0]) for p in parts(load_data(path, label="fraud"))]
    assert not together[0] & together[1]
    assert not together[0] & together[2]
    assert sum(len(p) for p in parts(load_data(path, label="fraud", duplicates="drop"))) == 100
    loose = [set(p.x[:, 0]) for p in parts(load_data(path, label="fraud", duplicates="keep"))]
    assert loose[0] & loose[2]
    assert any("repeat the features" in note for note in load_data(path, label="fraud", duplicates="keep").notes)


def test_a_repeated_row_of_the_test_file_leaves_the_training_rows(tmp_path):
    frame = table(200)
    train, test = written(tmp_path, frame, "train.csv"), written(tmp_path, frame.iloc[:30], "test.csv")
    loaded = load_data(train, label="fraud", test=test)
    assert len(loaded.splits.test) == 30
    seen = {*loaded.splits.train.x[:, 0], *loaded.splits.validation.x[:, 0]}
    assert not seen & set(loaded.splits.test.x[:, 0])


def test_fills_use_training_rows_only(tmp_path):
    frame = table(100)
    frame["t"] = np.arange(100)
    frame["amount"] = np.where(frame.t < 60, 5.0, 50.0)
    frame["fraud"] = np.tile(["yes", "no"], 50)
    frame.loc[99, ["amount", "town"]] = [np.nan, None]
    path = written(tmp_path, frame)
    commonest = frame.town[:60].value_counts().index[0]
    filled = load_data(path, label="fraud", time="t", fill="median").splits
    assert filled.test.x[-1, 0] == 5.0
    assert filled.test.space.categories["town"][int(filled.test.x[-1, 2])] == commonest
    assert load_data(path, label="fraud", time="t", fill="7").splits.test.x[-1, 0] == 7.0
    assert np.isnan(load_data(path, label="fraud", time="t", fill="keep").splits.test.x[-1, 0])
    dropped = load_data(path, label="fraud", time="t", fill="drop").splits
    assert sum(len(p) for p in (dropped.train, dropped.validation, dropped.test)) == 99


def test_marked_cells_are_missing_and_the_word_none_is_a_value(tmp_path):
    frame = table(90)
    frame.loc[4, "amount"] = np.nan
    frame["amount"] = frame.amount.astype(object).where(frame.amount.notna(), "?")
    frame["level"] = np.tile(["None", "high", "NA"], 30)
    loaded = load_data(written(tmp_path, frame), label="fraud", missing=["?"], fill="median")
    assert loaded.splits.train.space.categories["level"] == ("NA", "None", "high", "(other)")
    assert loaded.splits.train.space.kind[0] == Kind.REAL


def test_missing_cells_that_give_the_label_away_are_noted(tmp_path):
    frame = table(200)
    frame.loc[frame.index[frame.fraud == "yes"][:30], "visits"] = np.nan
    loaded = load_data(written(tmp_path, frame), label="fraud", fill=0)
    assert any("give the label away" in note and "'visits'" in note for note in loaded.notes)


def test_zip_gz_parquet_and_plain_give_the_same_rows(tmp_path):
    frame = table()
    plain = load_data(written(tmp_path, frame), label="fraud").splits.test
    frame.to_csv(tmp_path / "rows.csv.gz", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("in/rows.csv", frame.to_csv(index=False))
        archive.writestr("__MACOSX/._rows.csv", "junk")
        archive.writestr("in/notes.csv", "a,b\n1,2\n")
    for source in ("rows.csv.gz", "rows.parquet", "rows.zip::in/rows.csv"):
        same = load_data(str(tmp_path / source), label="fraud").splits.test
        np.testing.assert_allclose(same.x, plain.x)
        assert same.ids.tolist() == plain.ids.tolist()
    with pytest.raises(InputError, match=r"2 tables .*in/rows\.csv"):
        load_data(str(tmp_path / "rows.zip"), label="fraud")


def test_without_header_columns_are_numbered_or_named(tmp_path):
    frame = table()[["amount", "visits", "fraud"]]
    path = tmp_path / "bare.csv"
    frame.to_csv(path, index=False, header=False)
    assert load_data(str(path), label=2, header=False).splits.train.space.names == ("c0", "c1")
    assert load_data(str(path), label="y", header=False, names=["a", "b", "y"]).splits.train.space.names == ("a", "b")


def test_a_space_chooses_and_orders_the_columns(tmp_path):
    space = {"features": [{"name": "town", "categories": ["Ulm", "Kiel", "Bonn"]}, {"name": "amount", "lower": -100, "upper": 100}]}
    loaded = load_data(written(tmp_path, table()), label="fraud", space=space)
    assert loaded.splits.train.space.names == ("town", "amount")
    assert loaded.splits.train.space.upper.tolist() == [2.0, 100.0]
    assert any("visits" in note and "left out" in note for note in loaded.notes)


def test_rows_and_suppliers(tmp_path):
    frame = table()
    frame["bank"] = np.tile(["north", "south"], 100)
    loaded = load_data(written(tmp_path, frame), label="fraud", rows=100, source_column="bank")
    assert sum(len(p) for p in parts(loaded)) == 100
    assert set(loaded.splits.train.source) == {"north", "south"}


# Arrays and images -----------------------------------------------------------------------------------------------


def test_npz_rows_and_images_in_every_layout(tmp_path):
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    grey = rng.integers(0, 256, (60, 6, 5), np.uint8)
    colour = rng.integers(0, 256, (60, 6, 5, 3), np.uint8)
    np.savez(tmp_path / "rows.npz", x=rng.normal(size=(60, 4)), y=y, names=["a", "b", "c", "d"], class_names=["u", "v", "w"])
    np.savez(tmp_path / "grey.npz", x=grey, y=y)
    np.savez(tmp_path / "colour.npz", x=colour, y=y[:, None])
    rows = load_data(str(tmp_path / "rows.npz")).splits.train
    assert rows.space.names == ("a", "b", "c", "d")
    assert rows.class_names == ("u", "v", "w")
    one = load_data(str(tmp_path / "grey.npz")).splits.train
    assert one.x.shape == (36, 1, 6, 5)
    assert one.x.dtype == np.float32
    pictures = {tuple((x[0] * 255).round().astype(int).ravel()): c for x, c in zip(one.x, one.y, strict=True)}
    assert all(pictures.get(tuple(g.ravel().astype(int)), c) == c for g, c in zip(grey, y, strict=True))
    many = load_data(str(tmp_path / "colour.npz"))
    assert many.splits.train.x.shape == (36, 3, 6, 5)
    assert many.splits.train.space.is_image
    assert any("divided by 255" in note for note in many.notes)


def test_npz_with_parts_keeps_them(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 3)), np.arange(100) % 2
    np.savez(tmp_path / "parts.npz", x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])
    loaded = load_data(str(tmp_path / "parts.npz"))
    np.testing.assert_array_equal(loaded.splits.test.x, x[80:])
    assert [len(p) for p in parts(loaded)] == [60, 20, 20]


def test_idx_pair_and_folder(tmp_path):
    rng = np.random.default_rng(0)
    for stem, n in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 4, 3), np.uint8)
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(idx((np.arange(n) % 4).astype(np.uint8)))
    folder = load_data(str(tmp_path))
    assert [len(p) for p in parts(folder)] == [44, 16, 20]
    np.testing.assert_allclose(folder.splits.test.x[:, 0] * 255, images, atol=1e-4)
    alone = load_data(str(tmp_path / "t10k-images-idx3-ubyte.gz"), split=(0.5, 0.25, 0.25))
    assert sum(len(p) for p in parts(alone)) == 20


def test_image_folders(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    kept = {}
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(15):
            pixels = rng.integers(0, 256, (5, 4), np.uint8)
            kept[tuple(pixels.ravel().astype(int))] = name
            image.fromarray(pixels).save(tmp_path / name / f"{i}.{'png' if i % 2 else 'pgm'}")
    (tmp_path / "README").write_text("no image")
    loaded = load_data(str(tmp_path))
    for part in parts(loaded):
        assert part.x.shape[1:] == (1, 5, 4)
        for x, label in zip(part.x, part.y, strict=True):
            assert kept[tuple((x * 255).round().astype(int).ravel())] == part.class_names[label]
    small = load_data(str(tmp_path), size=[3, 2])
    assert small.splits.train.x.shape[1:] == (1, 3, 2)


def test_built_in_cases_can_be_cut_down():
    loaded = load_data("patients", rows=100)
    assert abs(sum(len(p) for p in parts(loaded)) - 100) <= 2
    np.testing.assert_array_equal(load_data("patients").splits.train.x, load_data("patients").splits.train.x)


# What is wrong ---------------------------------------------------------------------------------------------------


def refused(match, source, **options):
    with pytest.raises(InputError, match=match) as caught:
        load_data(str(source), **options)
    words = str(caught.value)
    assert "\n" not in words
    assert len(words) < 400
    return words


def test_files_that_are_not_what_they_say(tmp_path):
    frame = table()
    csv = written(tmp_path, frame)
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "header.csv").write_text("a,b\n")
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    (tmp_path / "wrong.npz").write_bytes((tmp_path / "rows.csv").read_bytes())
    frame.to_parquet(tmp_path / "hidden.csv")
    frame.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:-40])
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((tmp_path / "rows.csv").read_bytes())[:-30])
    (tmp_path / "latin.csv").write_bytes("a,b\nM\xfcnchen,1\n".encode("latin-1"))
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3,4\n")
    (tmp_path / "wide.csv").write_text("a,b\n1,2,3\n1,2,3\n")
    (tmp_path / "semicolon.csv").write_text("a;b\n1;2\n")
    (tmp_path / "hollow").mkdir()
    assert "did you mean 'rows.csv'" in refused("is not there", tmp_path / "row.csv", label="fraud")
    for name, match in (("empty.csv", "is empty"), ("header.csv", "0 rows"), ("rows.xlsx", "ending"), ("wrong.npz", "npz"), ("hidden.csv", "parquet"),
                        ("cut.parquet", "damaged"), ("cut.csv.gz", "cut short"), ("latin.csv", "not utf-8"), ("ragged.csv", "no readable CSV"),
                        ("wide.csv", "more cells"), ("semicolon.csv", "separator: ';'"), ("hollow", "neither IDX")):  # fmt: skip
        refused(match, tmp_path / name)
    refused("no zip file", f"{csv}::inner.csv", label="fraud")
    refused("UTF-8|Python does not know", csv, label="fraud", encoding="nonsense")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("separator", 5),
        ("separator", ""),
        ("separator", ";;"),
        ("names", 5),
        ("names", "abc"),
        ("names", [1.5]),
        ("header", "foo"),
        ("header", 0),
        ("encoding", 5),
    ],
)
def test_options_of_the_reader_are_named_with_their_values(tmp_path, option, value):
    refused(re.escape(f"{option} is {value!r}; give"), written(tmp_path, table()), label="fraud", **{option: value})


def test_a_role_that_the_label_has_is_refused(tmp_path):
    path = written(tmp_path, table())
    for role in ("group", "time"):
        refused(f"{role} is 'fraud', which is the label column", path, label="fraud", **{role: "fraud"})


def test_columns_that_are_missing_or_cannot_be_used(tmp_path):
    frame = table()
    path = written(tmp_path, frame)
    assert "did you mean 'fraud'" in refused("not a column", path, label="Fraud_")
    refused("no label is named", path)
    refused("under drop", path, label="fraud", drop=["fraud"])
    refused("drop .*'mont'", path, label="fraud", drop=["mont"])
    refused("positive is 'maybe'", path, label="fraud", positive="maybe")
    refused("no classes", path, label="amount")
    refused("no feature column", path, label="fraud", drop=["amount", "visits", "town"])
    refused("split is", path, label="fraud", split=(0.5, 0.5, 0.0))
    refused("rows is 0", path, label="fraud", rows=0)
    refused("duplicates is", path, label="fraud", duplicates="maybe")
    refused("fill is 'mean'", path, label="fraud", fill="mean")
    refused("option 'size'", path, label="fraud", size=3)
    refused("part has", path, label="fraud", rows=4)
    refused("test file lacks column 'town'", path, label="fraud", test=written(tmp_path, frame.drop(columns=["town"]), "t.csv"))
    frame.assign(one="a").to_csv(tmp_path / "one.csv", index=False)
    refused("one value only", tmp_path / "one.csv", label="one")


@pytest.mark.parametrize(("column", "values", "match"), [
    ("amount", [None], "missing cells.*median"),
    ("town", [None], "missing cells.*keep"),
    ("fraud", [None], "label column.*missing"),
    ("amount", [np.inf], "infinite"),
    ("amount", ["n/a"], "missing:.*categorical:"),
    ("t", ["soon"], "no time"),
    ("t", [None], "holds nothing in row 7"),
    ("who", [None], "group column 'who' has 1 missing"),
])  # fmt: skip
def test_cells_that_cannot_be_used(tmp_path, column, values, match):
    frame = table().astype(object)
    frame["t"] = [f"2024-01-{1 + i % 28:02d}" for i in range(200)]
    frame["who"] = np.arange(200) // 2
    frame.loc[7, column] = values[0]
    roles = {"time": "t"} if column == "t" else {"group": "who", "drop": ["t"]} if column == "who" else {"drop": ["t", "who"]}
    refused(match, written(tmp_path, frame), label="fraud", **roles)


def test_texts_that_name_rows_are_refused(tmp_path):
    frame = table()
    frame["address"] = [f"0x{i:05d}ab" for i in range(200)]
    refused(r"names rows instead.*drop: \[address\]", written(tmp_path, frame), label="fraud")


def test_rows_outside_a_given_space_are_refused(tmp_path):
    features = [{"name": "amount", "lower": 0, "upper": 12}, {"name": "visits", "kind": "integer", "lower": 0, "upper": 8}]
    refused("amount = .*outside its bounds", written(tmp_path, table()), label="fraud", space={"features": features})
    refused("not a column.*did you mean 'visits'", written(tmp_path, table()), label="fraud", space={"features": [{"name": "visit"}]})


def test_arrays_that_cannot_be_used(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    x, y = rng.normal(size=(40, 3)), np.arange(40) % 2

    def saved(**arrays):
        np.savez(path, **arrays)
        return path

    refused("no array x", saved(z=x))
    refused("no y", saved(x=x))
    refused("could run code", saved(x=np.array([{}], object), y=y))
    refused("give one label a row", saved(x=x, y=np.eye(2)[y]))
    refused("holds -1", saved(x=x, y=y - 1))
    refused("holds 0.5", saved(x=x, y=y / 2))
    refused("out of range", saved(x=x, y=y * 1000))
    refused("no row of class 1", saved(x=x, y=y * 2))
    refused("class", saved(x=x, y=y * 0))
    refused("missing cells", saved(x=np.where(np.eye(40, 3), np.nan, x), y=y))
    refused("infinite", saved(x=np.where(np.eye(40, 3), np.inf, x), y=y))
    refused("shape", saved(x=x[0], y=y))
    refused("scale them", saved(x=rng.uniform(0, 255, (40, 4, 4)), y=y))
    refused("NaN or infinite", saved(x=np.full((40, 4, 4), np.nan), y=y))
    refused("no table", saved(x=x, y=y), label="y")
    refused("2 names for 3", saved(x=x, y=y, names=["a", "b"]))
    refused("space has shape", saved(x=x, y=y), space={"features": [{"name": "a"}]})
    path.write_bytes(saved(x=x, y=y).read_bytes()[:-90])
    refused("damaged", path)


def test_idx_that_cannot_be_used(tmp_path):
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    x = np.zeros((20, 4, 4), np.uint8)
    labels.write_bytes(idx((np.arange(20) % 2).astype(np.uint8), gz=False))
    images.write_bytes(idx(x, gz=False, cut=9))
    refused("cut short", images)
    images.write_bytes(idx(x, gz=False) + b"more")
    refused("holds more", images)
    images.write_bytes(b"\x00\x00\x42\x03" + b"\0" * 40)
    refused("no IDX header", images)
    images.write_bytes(b"hello there")
    refused("IDX", images)
    images.write_bytes(idx(x[:19], gz=False))
    refused("19 images.*20 labels", images)
    labels.unlink()
    refused("no labels file", images)


def test_images_that_cannot_be_used(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(6):
            image.fromarray(np.full((5, 4), 7 * i, np.uint8)).save(tmp_path / name / f"{i}.png")
    odd = tmp_path / "dog" / "odd.png"
    image.fromarray(np.zeros((9, 9), np.uint8)).save(odd)
    refused("bring all to one size", tmp_path)
    odd.write_bytes(odd.read_bytes()[:40])
    refused("damaged or no image", tmp_path)
    odd.unlink()
    refused("size is", tmp_path, size=[0, 3])
    for file in (tmp_path / "dog").iterdir():
        file.unlink()
    refused(r"1 sub-folder\(s\)", tmp_path)


def test_draws_of_rows_are_seeded():
    from carbide.data.parts import Cutting

    assert (Cutting(rows=5, seed=1).drawn(100) == Cutting(rows=5, seed=1).drawn(100)).all()
    expected = np.sort(rng_for(1, "rows").permutation(100)[:5])
    np.testing.assert_array_equal(Cutting(rows=5, seed=1).drawn(100), expected)


def test_bytes_of_npz_are_never_unpickled(tmp_path):
    """A hostile object array would run code if it were loaded; reading it must not."""

    class Hostile:
        def __reduce__(self):
            return (exec, ("import pathlib; pathlib.Path(r'%s').touch()" % (tmp_path / "ran"),))

    out = io.BytesIO()
    np.savez(out, x=np.array([Hostile()], object), y=np.array([0]))
    (tmp_path / "bad.npz").write_bytes(out.getvalue())
    refused("could run code", tmp_path / "bad.npz")
    assert not (tmp_path / "ran").exists()
