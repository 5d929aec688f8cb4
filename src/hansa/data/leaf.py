"""LEAF's JSON files: {"users": […], "num_samples": […], "user_data": {user: {"x": […], "y": […]}}}.

Caldas et al. 2018, "LEAF: A Benchmark for Federated Settings", arXiv:1812.01097.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hansa.arrays import Array
from hansa.data.examples import Examples, Split
from hansa.data.federated import FederatedData, Names
from hansa.errors import InputError

__all__ = ["read", "read_clients", "read_file"]


def read(directory: str | Path) -> dict[str, Split]:
    """User → examples, for the users of `directory`/train/*.json, sorted; test examples from `directory`/test/*.json.

    A user without test examples has empty ones. Raises `InputError` for a user that is in two files of one kind.
    """
    train, test = (_read_folder(Path(directory) / kind) for kind in ("train", "test"))
    if unknown := sorted(set(test) - set(train)):
        raise InputError(f"{directory} has test examples of {unknown[:3]}, which have no train examples")
    return {user: Split(train[user], test.get(user, _none_like(train[user]))) for user in sorted(train)}


def read_clients(directory: str | Path) -> FederatedData:
    """The users of `directory`, each read when it is asked for.

    JSON has no index: every file is read once to know its users, and again, as a whole, for a user of it; the one that
    was read last stays in memory. Raises as `read` does, for the users' names here and for their examples later.
    """
    folder = Path(directory)
    files = {kind: _files(folder / kind) for kind in ("train", "test")}
    homes = {kind: _homes(listed) for kind, listed in files.items()}
    if unknown := sorted(set(homes["test"]) - set(homes["train"])):
        raise InputError(f"{directory} has test examples of {unknown[:3]}, which have no train examples")
    last: dict[str, tuple[Path, dict[str, Examples]]] = {}

    def examples(kind: str, user: str) -> Examples | None:
        place = homes[kind].get(user)
        if place is None:
            return None
        file = files[kind][place]
        found = last.get(kind)
        if found is None or found[0] != file:
            found = last[kind] = (file, read_file(file))
        if user not in found[1]:
            raise InputError(f"{file} has no user {user!r} any more; was it replaced?")
        return found[1][user]

    def read_user(user: str) -> Split:
        train, test = examples("train", user), examples("test", user)
        if train is None:
            raise InputError(f"{directory} has no user {user!r}")
        return Split(train, _none_like(train) if test is None else test)

    return FederatedData(Names(homes["train"]), read_user)


def read_file(path: str | Path) -> dict[str, Examples]:
    """User → examples of one file. Numbers become float32 (x) and int64 (y) where they fit, text stays text.

    Raises `InputError` that names the file and the user.
    """
    file = Path(path)
    try:
        document = json.loads(file.read_bytes())
        users, counts, data = document["users"], document["num_samples"], document["user_data"]
        users = [str(user) for user in users]
        parsed = {user: _examples(data[user], f"{user} of {file}") for user in users}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a LEAF file: {type(error).__name__} {error}") from error
    for user, count in zip(users, counts, strict=False):
        if len(parsed[user].y) != count:
            raise InputError(f"{user} of {file} has {len(parsed[user].y)} samples, but num_samples says {count}")
    if len(counts) != len(users) or len(parsed) != len(users):
        raise InputError(f"{file} names {len(users)} users, {len(parsed)} of them distinct, and {len(counts)} counts")
    return parsed


def _read_folder(folder: Path) -> dict[str, Examples]:
    found: dict[str, Examples] = {}
    for file in _files(folder):
        parsed = read_file(file)
        _check_new(found, parsed, file)
        found.update(parsed)
    return found


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"there is no {folder}/*.json; give the directory that holds LEAF's train and test folders")
    return files


def _homes(files: list[Path]) -> dict[str, int]:
    """User → the number of its file."""
    homes: dict[str, int] = {}
    for place, file in enumerate(files):
        try:
            users = [str(user) for user in json.loads(file.read_bytes())["users"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is not a LEAF file: {type(error).__name__} {error}") from error
        _check_new(homes, dict.fromkeys(users), file)
        homes.update(dict.fromkeys(users, place))
    return homes


def _check_new(known: Mapping[str, object], users: Mapping[str, object], file: Path) -> None:
    if twice := sorted(known.keys() & users.keys()):
        raise InputError(f"{twice[0]} is in {file} and in another file of {file.parent}; a user belongs in one")


def _examples(data: dict[str, Any], whose: str) -> Examples:
    try:
        x, y = np.asarray(data["x"]), np.asarray(data["y"])
    except ValueError as error:
        raise InputError(f"{whose} has inputs or targets of several lengths: fill them up to one ({error})") from error
    if len(x) != len(y):
        raise InputError(f"{whose} has {len(x)} inputs and {len(y)} targets; they must be as many")
    for what, array in (("inputs", x), ("targets", y)):
        _check_values(array, data["x" if what == "inputs" else "y"], f"{whose} has {what}")
    if x.dtype.kind in "iuf":
        x = x.astype(np.float32)
    if y.dtype.kind in "iuf" and np.array_equal(y, np.trunc(y)):
        y = y.astype(np.int64)
    return Examples(x, y)


def _check_values(array: Array, given: object, what: str) -> None:
    """Numbers that are finite, or text; not both, which would all become text, and no null."""
    if array.dtype.kind == "O":
        raise InputError(f"{what} that are null, or whole numbers of more than 64 bits")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        raise InputError(f"{what} that are not finite: fill what is missing, or leave it out")
    if array.dtype.kind == "U" and not _is_text(given):
        raise InputError(f"{what} of which some are text and some are numbers")


def _is_text(given: object) -> bool:
    return all(map(_is_text, given)) if isinstance(given, list) else isinstance(given, str)


def _none_like(examples: Examples) -> Examples:
    return examples.take(np.empty(0, np.int64))
