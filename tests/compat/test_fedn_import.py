"""FEDn's model trail, as it was exported, in a project."""

import json
from pathlib import Path

import numpy as np
import pytest
from fedn_fleet import npz
from processes import Hansa

from hansa.compat.fedn.trail import load_model, read_trail
from hansa.errors import InputError

ROWS = [
    {"_id": {"$oid": "1"}, "model_id": "c", "model": "c", "parent_model": "b", "session_id": "s", "name": "last"},
    {"_id": {"$oid": "2"}, "model_id": "a", "model": "a", "parent_model": None, "session_id": None},
    {"_id": {"$oid": "3"}, "model_id": "b", "model": "b", "parent_model": "a", "session_id": "s"},
]


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Path]:
    """(dump, folder): three models, of which the one in the middle has lost its file."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a").write_bytes(npz([np.zeros(2, np.float32)]))
    (folder / "c.npz").write_bytes(npz([np.ones(2, np.float32)]))
    dump = tmp_path / "models.json"
    dump.write_text("\n".join(map(json.dumps, ROWS)))
    return dump, folder


def test_a_trail_is_read_from_its_seed_on_and_passes_over_what_is_lost(exported: tuple[Path, Path]) -> None:
    dump, folder = exported
    models, without = read_trail(dump, folder)
    assert [(model.id, model.name, model.parent) for model in models] == [("a", "a", ""), ("c", "last", "a")]
    assert list(without) == ["b"]
    assert load_model(models[1], "numpyhelper")["0"].tolist() == [1, 1]


@pytest.mark.parametrize("text", [json.dumps(ROWS), json.dumps({"count": 3, "result": ROWS})])
def test_an_array_and_an_answer_of_the_rest_api_say_the_same(exported: tuple[Path, Path], text: str) -> None:
    dump, folder = exported
    before = read_trail(dump, folder)
    dump.write_text(text)
    assert read_trail(dump, folder) == before


@pytest.mark.parametrize(
    ("text", "flaw"), [("[]", "no model"), ("{", "line 1"), ("[1]", "no list"), ("\n", "no model")]
)
def test_what_is_no_dump_is_refused(exported: tuple[Path, Path], text: str, flaw: str) -> None:
    dump, folder = exported
    dump.write_text(text)
    with pytest.raises(InputError, match=flaw):
        read_trail(dump, folder)


def test_models_that_are_each_others_parents_end_nothing(exported: tuple[Path, Path]) -> None:
    dump, folder = exported
    dump.write_text(json.dumps([{"model_id": "a", "parent_model": "c"}, {"model_id": "c", "parent_model": "a"}]))
    models, _ = read_trail(dump, folder)
    assert {model.id for model in models} == {"a", "c"}


def test_the_command_keeps_names_and_lineage_and_may_be_run_twice(exported: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    hansa = Hansa(tmp_path / "network")
    dump, folder = exported
    try:
        hansa.up("--data", tmp_path / "data")
        first = hansa.json("import", "fedn", folder, "--dump", dump)
        assert hansa.json("import", "fedn", folder, "--dump", dump) == first
        shown = hansa.json("model", "show", first["models"]["c"])
        lineage = hansa.call("model", "lineage", first["models"]["c"])
    finally:
        hansa.end()
    assert first["without_file"] == ["b"]
    assert (shown["name"], shown["parent"], shown["round"]) == ("last", first["models"]["a"], 0)
    assert first["models"]["a"][:12] in lineage.output
