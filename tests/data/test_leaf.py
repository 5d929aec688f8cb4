import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa.data import leaf
from hansa.errors import InputError


def _document(**users: tuple[list[Any], list[Any]]) -> dict[str, Any]:
    return {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {user: {"x": x, "y": y} for user, (x, y) in users.items()},
    }


def _write(file: Path, document: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def test_users_of_all_files_are_read_with_their_train_and_test_examples(tmp_path: Path) -> None:
    _write(tmp_path / "train" / "a.json", _document(ann=([[1, 2], [3, 4]], [0, 1]), cy=([[7, 8]], [1])))
    _write(tmp_path / "train" / "b.json", _document(bob=([[5, 6]], [1])))
    _write(tmp_path / "test" / "a.json", _document(ann=([[9, 9]], [0])))
    users = leaf.read(tmp_path)
    assert list(users) == ["ann", "bob", "cy"]
    assert users["ann"].train.x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert users["ann"].test.y.tolist() == [0]
    assert (users["bob"].test.x.shape, users["bob"].test.x.dtype) == ((0, 2), np.dtype(np.float32))


def test_numbers_become_float32_and_int64_and_text_stays_text(tmp_path: Path) -> None:
    file = _write(tmp_path / "f.json", _document(n=([[0.5]], [2.0]), r=([[1]], [0.5]), t=(["to be"], ["!"])))
    users = leaf.read_file(file)
    assert (users["n"].x.dtype, users["n"].y.dtype) == (np.dtype(np.float32), np.dtype(np.int64))
    assert users["r"].y.tolist() == [0.5]
    assert (users["t"].x.tolist(), users["t"].y.tolist()) == (["to be"], ["!"])


BROKEN: dict[str, tuple[object, str]] = {
    "not an object": ([1], "not a LEAF file"),
    "no users": ({"num_samples": [], "user_data": {}}, "KeyError 'users'"),
    "no data of a user": ({"users": ["a"], "num_samples": [1], "user_data": {}}, "KeyError 'a'"),
    "a wrong count": (
        _document(a=([[1]], [1])) | {"num_samples": [2]},
        "a of .* has 1 samples, but num_samples says 2",
    ),
    "a count too many": (
        _document(a=([[1]], [1])) | {"num_samples": [1, 1]},
        "names 1 users, 1 of them distinct, and 2",
    ),
    "a user twice": (_document(a=([[1]], [1])) | {"users": ["a", "a"], "num_samples": [1, 1]}, "1 of them distinct"),
    "x longer than y": (_document(a=([[1], [2]], [1])), "2 inputs and 1 targets"),
    "null among the inputs": (_document(a=([[None]], [1])), "a of .* has inputs that are null"),
    "text among numbers": (_document(a=([["b", 1]], [1])), "inputs of which some are text and some are numbers"),
    "a target beyond 64 bits": (_document(a=([[1]], [2**70])), "targets that are null, or whole numbers of more than"),
    "inputs without an end": (_document(a=([[float("nan")]], [1])), "has inputs that are not finite"),
    "ragged inputs": (_document(a=([[1], [2, 3]], [1, 2])), "inputs or targets of several lengths: fill them up"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_not_consistent_is_refused_by_name(tmp_path: Path, case: str) -> None:
    document, match = BROKEN[case]
    with pytest.raises(InputError, match=match) as caught:
        leaf.read_file(_write(tmp_path / "users.json", document))
    assert "users.json" in str(caught.value)


def test_a_file_that_is_not_json_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    file.write_text("{")
    with pytest.raises(InputError, match=r"users\.json is not a LEAF file"):
        leaf.read_file(file)


def test_a_user_in_two_files_and_one_with_test_examples_only_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "train" / "a.json", _document(ann=([[1]], [0])))
    _write(tmp_path / "test" / "a.json", _document(bob=([[1]], [0])))
    with pytest.raises(InputError, match=r"test examples of \['bob'\]"):
        leaf.read(tmp_path)
    _write(tmp_path / "train" / "b.json", _document(ann=([[1]], [0])))
    with pytest.raises(InputError, match="ann is in"):
        leaf.read(tmp_path)


def test_a_directory_without_files_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*train/\*\.json"):
        leaf.read(tmp_path)


def test_users_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    _write(tmp_path / "train" / "a.json", _document(ann=([[1, 2], [3, 4]], [0, 1]), cy=([[7, 8]], [1])))
    second = _write(tmp_path / "train" / "b.json", _document(bob=([[5, 6]], [1])))
    _write(tmp_path / "test" / "a.json", _document(ann=([[9, 9]], [0])))
    users, whole = leaf.read_clients(tmp_path), leaf.read(tmp_path)
    assert list(users) == list(whole)
    for name, split in users.items():
        assert split.train.x.tolist() == whole[name].train.x.tolist()
        assert split.test.y.tolist() == whole[name].test.y.tolist()
    assert users["ann"].train.y.tolist() == [0, 1]
    second.write_text("{")
    with pytest.raises(InputError, match=r"b\.json is not a LEAF file"):
        users["bob"]
    _write(second, _document(dan=([[5, 6]], [1])))
    with pytest.raises(InputError, match="no user 'bob' any more"):
        users["bob"]
    _write(second, _document(ann=([[5, 6]], [1])))
    with pytest.raises(InputError, match="ann is in"):
        leaf.read_clients(tmp_path)
