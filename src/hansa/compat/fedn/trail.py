"""The model trail of a FEDn network, read from its dump and its model files, so that it can go on here."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hansa.arrays import Arrays
from hansa.compat.fedn.formats import helper_of, read_model
from hansa.errors import InputError

__all__ = ["OldModel", "load_model", "read_trail"]

_LIMIT: Final = 64
"""Times its size that a file may unpack to."""
_LEAST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class OldModel:
    """A model as FEDn has kept it."""

    id: str
    name: str
    parent: str
    """The id of the nearest model before it whose file is there; empty: there is none."""
    file: Path


def read_trail(dump: Path, folder: Path) -> tuple[Sequence[OldModel], Sequence[str]]:
    """(models, each after its parent; the ids of those that have no file). Raises `InputError`.

    dump: FEDn's models as JSON, an array or an object on each line (`mongoexport --collection control.model`,
    `bsondump`, or an answer of its REST API); folder: a file for each, called by its id, perhaps with .npz or .bin.
    """
    rows = {_text(row, "model_id", "model"): row for row in _rows(dump)}
    rows.pop("", None)
    if not rows:
        raise InputError(f"{dump} holds no model: export the collection control.model, or GET /api/v1/models/")
    files = {each.name.removesuffix(".npz").removesuffix(".bin"): each for each in folder.iterdir() if each.is_file()}
    ordered: dict[str, OldModel] = {}
    for model in rows:
        for each in reversed(list(_unread(rows, model, ordered))):
            if each in files:
                row = rows[each]
                ordered[each] = OldModel(each, _text(row, "name") or each, _parent(rows, each, files), files[each])
    return tuple(ordered.values()), sorted(rows.keys() - ordered.keys())


def load_model(model: OldModel, helper: str) -> Arrays:
    """Its tensors, called by their places. Raises `InputError` that names the file."""
    most = _LIMIT * model.file.stat().st_size + _LEAST
    try:
        with model.file.open("rb") as file:
            return read_model(file, helper_of(helper), most)
    except InputError as error:
        raise InputError(f"{model.file}: {error}") from error


def _unread(rows: Mapping[str, Mapping[str, Any]], model: str, known: Mapping[str, OldModel]) -> Iterator[str]:
    """A model and those before it that were not read yet, the nearest first."""
    seen: set[str] = set()
    while model in rows and model not in known and model not in seen:
        seen.add(model)
        yield model
        model = _text(rows[model], "parent_model")


def _parent(rows: Mapping[str, Mapping[str, Any]], model: str, files: Mapping[str, Path]) -> str:
    """The nearest one before it that has a file."""
    seen = {model}
    parent = _text(rows[model], "parent_model")
    while parent in rows and parent not in files and parent not in seen:
        seen.add(parent)
        parent = _text(rows[parent], "parent_model")
    return parent if parent in rows and parent in files and parent not in seen else ""


def _rows(dump: Path) -> list[Mapping[str, Any]]:
    try:
        text = dump.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{dump} cannot be read as text ({error}); turn a .bson into JSON with bsondump") from error
    try:
        told = json.loads(text)
    except ValueError:
        told = [_object(dump, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    except RecursionError as error:
        raise InputError(f"{dump} is nested too deep to be a dump of models") from error
    if isinstance(told, dict):
        told = told.get("result", [told])
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        raise InputError(f"{dump} is no list of models")
    return told


def _object(dump: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number} of {dump} is no JSON object: {error}") from error


def _text(row: Mapping[str, Any], *names: str) -> str:
    return next((value for name in names if isinstance(value := row.get(name), str) and value), "")
