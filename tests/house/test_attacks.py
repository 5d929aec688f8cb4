"""The page of attacks: every test that it names is there, and of files of nothing but attacks it names every test."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "explanation" / "attacks.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| attack |")]


def claims_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")}


def test_every_row_names_a_test() -> None:
    assert len(ROWS) > 30
    assert [row for row in ROWS if not re.search(r"`[\w/]+\.py::test_\w+`", row)] == []


def test_every_test_that_is_named_is_there() -> None:
    assert [f"{file}::{name}" for file, name in NAMED if name not in claims_of(TESTS / file)] == []


def test_of_a_file_of_attacks_every_test_is_named() -> None:
    files = {file for file, _ in NAMED if file.startswith("attacks/") or file.endswith("test_attacks.py")}
    found = {(file, name) for file in files for name in claims_of(TESTS / file)}
    assert len(files) >= 4
    assert sorted(found - set(NAMED)) == []
