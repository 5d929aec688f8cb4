"""What `hansa bench run` has measured is kept row by row."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

HEAD = "row,number,measured,deviation,seeds\n"
NUMBER = "rounds until central.accuracy 0.97"


def test_rows_that_were_not_run_stay_and_what_was_never_reached_is_null(
    tool: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, folder = tool("measured"), tmp_path / "mnist_2nn"
    monkeypatch.setattr(measured, "MEASURED", tmp_path / "measured.json")
    one = {NUMBER: {"measured": 583.0, "deviation": 0.0, "seeds": 1}}
    known = {"other": {"row": {}}, "mnist_2nn": {"IID, B = ∞": one, "a row that is no more": one}}
    (tmp_path / "measured.json").write_text(json.dumps(known))
    folder.mkdir()
    ratio = f"{NUMBER}, times fewer than IID, B = ∞"
    (folder / "table.csv").write_text(
        f'{HEAD}"IID, B = 10",{NUMBER},inf,,3\n"IID, B = 10","{ratio}",,,0\n', encoding="utf-8"
    )
    assert measured.main([str(folder)]) == 0
    kept = json.loads((tmp_path / "measured.json").read_text())
    assert kept == {
        "other": {"row": {}},
        "mnist_2nn": {
            "IID, B = ∞": one,
            "IID, B = 10": {NUMBER: {"measured": None, "deviation": None, "seeds": 3}},
        },
    }
