"""CSV and Parquet: what columns mean, one owner, many owners, and files that are no tables."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data import Columns, FederatedData, Split, csv_table, parquet
from hansa.errors import InputError, MissingExtraError

few = settings(derandomize=True, deadline=None, max_examples=40)

TABLE: dict[str, list[Any]] = {
    "hospital": ["north", "south", "north", "east, upper", "south", "north"],
    "age": [61, 40, 35, 70, 52, 44],
    "sex": ["F", "M", "M", "F", "M", "F"],
    "ill": [1, 0, 0, 1, 1, 0],
}
SEX = {"sex": ["F", "M"]}

Writer = Callable[[Path, dict[str, list[Any]]], Path]


def write_csv(file: Path, table: dict[str, list[Any]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return file


def write_gzipped(file: Path, table: dict[str, list[Any]]) -> Path:
    file.write_bytes(gzip.compress(write_csv(file, table).read_bytes()))
    return file


def write_parquet(file: Path, table: dict[str, list[Any]]) -> Path:
    pa = pytest.importorskip("pyarrow")
    made = pa.table({k: pa.array(v).dictionary_encode() if k == "sex" else v for k, v in table.items()})
    pytest.importorskip("pyarrow.parquet").write_table(made, file, row_group_size=2)
    return file


FORMATS: dict[str, Writer] = {"csv": write_csv, "csv.gz": write_gzipped, "parquet": write_parquet}


def read(name: str, *args: Any, **settings: Any) -> Split:
    return (parquet if name == "parquet" else csv_table).read(*args, **settings)


def read_clients(name: str, *args: Any, **settings: Any) -> FederatedData:
    return (parquet if name == "parquet" else csv_table).read_clients(*args, **settings)


@pytest.mark.parametrize("name", FORMATS)
def test_columns_become_inputs_and_targets(name: str, tmp_path: Path) -> None:
    file = FORMATS[name](tmp_path / "t", TABLE)
    split = read(name, file, Columns("ill", features=["age", "sex"], categories=SEX), test_fraction=0)
    assert split.train.x.tolist() == [[61, 1, 0], [40, 0, 1], [35, 0, 1], [70, 1, 0], [52, 0, 1], [44, 1, 0]]
    assert (split.train.x.dtype, split.train.y.dtype) == (np.dtype(np.float32), np.dtype(np.int64))
    assert split.train.y.tolist() == TABLE["ill"]
    other = read(name, file, Columns("sex", features=["age"], classes=["M", "F"]), test_fraction=0.5)
    assert (len(other.train.y), len(other.test.y)) == (3, 3)
    ages = read(name, file, Columns("age", features=["ill"], regression=True), test_fraction=0)
    assert (ages.train.y.dtype, ages.train.y.tolist()) == (np.dtype(np.float32), TABLE["age"])


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_names_the_owners(name: str, tmp_path: Path) -> None:
    file = FORMATS[name](tmp_path / "t", TABLE)
    owners = read_clients(name, file, "hospital", Columns("ill", categories=SEX), test_fraction=0)
    assert list(owners) == ["east, upper", "north", "south"]
    assert owners["north"].train.x.tolist() == [[61, 1, 0], [35, 0, 1], [44, 1, 0]]
    assert owners["south"].train.y.tolist() == [0, 1]
    assert owners["east, upper"].train.x.tolist() == [[70, 1, 0]]


WRONG: dict[str, tuple[dict[str, list[Any]], dict[str, Any], str]] = {
    "text without categories": (TABLE, {}, "column 'sex'.*give categories"),
    "an unknown category": (TABLE, {"categories": {"sex": ["M"]}}, "has 'F', which is none of 'M'"),
    "no such feature": (TABLE, {"features": ["weight"]}, "no column 'weight'; it has hospital, age"),
    "a broken class": (TABLE | {"ill": [0.5, 0, 0, 0, 0, 0]}, {"features": ["age"]}, r"has 0\.5, no whole number"),
    "an empty cell": (TABLE | {"age": [1, None, 2, 3, 4, 5]}, {"features": ["age"]}, "lacks a value in 1 of"),
    "nothing to learn from": ({"hospital": ["a"], "ill": [1]}, {}, "no column for the inputs"),
    "no rows": ({name: [] for name in TABLE}, {"features": ["age"]}, "no rows"),
}


@pytest.mark.parametrize("name", ["csv", "parquet"])
@pytest.mark.parametrize("case", WRONG)
def test_nothing_is_guessed(name: str, case: str, tmp_path: Path) -> None:
    table, given, match = WRONG[case]
    file = FORMATS[name](tmp_path / "file", table)
    with pytest.raises(InputError, match=match) as caught:
        list(read_clients(name, file, "hospital", Columns("ill", **given), test_fraction=0).values())
    assert "file" in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_cell_may_be_filled(name: str, tmp_path: Path) -> None:
    file = FORMATS[name](tmp_path / "t", TABLE | {"age": [1, None, 2, 3, None, 5]})
    split = read(name, file, Columns("ill", features=["age"], missing=-1.0), test_fraction=0)
    assert split.train.x.ravel().tolist() == [1, -1, 2, 3, -1, 5]


@few
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["a", 'b"c', "d,e", "f\ng", "ü"]), st.floats(-1e6, 1e6, width=32), st.integers(-9, 9)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_every_row_that_is_written_is_read_by_its_owner(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float, int]]
) -> None:
    table: dict[str, list[Any]] = {name: [row[k] for row in rows] for k, name in enumerate(("who", "x", "y"))}
    file = write_csv(tmp_path_factory.getbasetemp() / "rows.csv", table)
    owners = csv_table.read_clients(file, "who", "y", test_fraction=0)
    assert list(owners) == sorted({row[0] for row in rows})
    for owner, split in owners.items():
        mine = [(np.float32(x), y) for who, x, y in rows if who == owner]
        assert list(zip(split.train.x[:, 0], split.train.y, strict=True)) == mine


BROKEN: dict[str, tuple[bytes, str]] = {
    "another width": (b"who,x,y\na,1,2\nb,1\n", "line 3, has 2 values; expected 3"),
    "not UTF-8": (b"who,x,y\n\xff,1,2\n", "is it a table"),
    "an open quote": (b'who,x,y\n"a,1,2\n', "is it a table"),
    "an endless line": (b"who,x,y\n" + b"a" * (1 << 21), "more than 1,048,576 bytes"),
    "an endless field": (b'who,x,y\n"' + b"a\n" * (1 << 17) + b'",1,2\n', "field larger than field limit"),
    "empty": (b"", "has no rows"),
    "a row without an owner": (b"who,x,y\n,1,2\n", "every row needs its owner"),
    "a column twice": (b"who,x,y,x\na,1,2,3\n", "two columns 'x'"),
    "a gzip that is cut off": (gzip.compress(b"who,x,y\na,1,2\n" * 99)[:-9], "is the file complete"),
    "a number that is none": (b"who,x,y\na,nan,2\n", "not finite"),
    "a class beyond all": (b"who,x,y\na,1,1e300\n", "no whole number"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_hostile_csv_is_refused_by_name(case: str, tmp_path: Path) -> None:
    content, match = BROKEN[case]
    file = tmp_path / "t.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        list(csv_table.read_clients(file, "who", "y").values())
    assert "t.csv" in str(caught.value)


def test_a_csv_that_changed_meanwhile_is_noticed(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "t.csv", TABLE)
    owners = csv_table.read_clients(file, "hospital", Columns("ill", categories=SEX))
    write_csv(file, {name: cells[::-1] for name, cells in TABLE.items()})
    with pytest.raises(InputError, match="has changed since"):
        list(owners.values())


def test_a_parquet_file_that_is_cut_off_or_none_is_refused_by_name(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "whole", TABLE).read_bytes()
    file = tmp_path / "t.parquet"
    for content in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2], b"\x80\x04" + whole[2:-4] + b"nope"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"t\.parquet"):
            parquet.read(file, Columns("ill", features=["age"]))
    with pytest.raises(InputError, match="there is no"):
        parquet.read(tmp_path / "none", "ill")


def test_nested_columns_are_refused(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "t", {"x": [[1, 2], [3]], "y": [0, 1]})
    with pytest.raises(InputError, match=r"column 'x' is list.*numbers and text"):
        parquet.read(file, "y")


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"hansa\[parquet\]"):
        parquet.read(tmp_path / "t", "y")


def test_the_breast_cancer_tables_are_read(shared_data: Path) -> None:
    folder = shared_data / "fate_vertical"
    guest = csv_table.read(folder / "breast_homo_guest.csv", Columns("y", features=[f"x{k}" for k in range(30)]))
    assert guest.train.x.shape == (182, 30)
    assert guest.test.x.shape == (45, 30)
    assert set(guest.train.y.tolist()) == {0, 1}


def test_the_census_is_a_federation_by_employer(shared_data: Path) -> None:
    owners = csv_table.read_clients(
        shared_data / "adult" / "adult_complete_cases.csv.gz",
        "type_employer",
        Columns(
            "income",
            features=["age", "hr_per_week", "sex"],
            categories={"sex": ["Female", "Male"]},
            classes=["<=50K", ">50K"],
        ),
    )
    assert len(owners) == 7
    government = owners["Federal-gov"]
    assert government.train.x.shape[1] == 4
    assert len(government.train.y) + len(government.test.y) == 943


@pytest.mark.parametrize("given", [{"features": "age"}, {"classes": "MF"}, {"categories": {"sex": "MF"}}])
def test_one_text_in_the_place_of_several_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"it must be a list, for example \['"):
        Columns("ill", **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"features": ["age", "ill"]}, "the target 'ill' is among the features"),
        ({"features": ["age", "age"]}, "which has one of them twice"),
        ({"classes": ["no", "no"]}, "which has one of them twice"),
        ({"categories": {"sex": ["M", "M"]}}, "which has one of them twice"),
        ({"missing": {"age": 0.0}}, "missing is .* it must be a finite number"),
        ({"missing": np.nan}, "missing is nan; it must be a finite number"),
    ],
)
def test_columns_that_would_teach_something_else_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Columns("ill", **given)


def test_numbers_that_float32_cannot_hold_are_refused_and_not_infinite(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("dose,ill\n1e38,0\n4e38,1\n")
    with pytest.raises(InputError, match=r"column 'dose' has 4e\+38, which float32 cannot hold"):
        csv_table.read(table, "ill")
    table.write_text("dose,ill\n1,0\n2,-1e39\n")
    with pytest.raises(InputError, match=r"column 'ill' has -1e\+39"):
        csv_table.read(table, Columns("ill", regression=True))


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pa.table({"age": pa.array([], pa.float64()), "ill": pa.array([], pa.int64())}), tmp_path / "none.parquet"
    )
    with pytest.raises(InputError, match=r"none\.parquet has no rows"):
        parquet.read(tmp_path / "none.parquet", "ill")
