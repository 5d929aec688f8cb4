"""The page of faults of FEDn's server: every one has its row, and every row tests that are there."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "explanation" / "fedn-faults.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| ([CF]\d+) \|.*\|(.*)\|$", PAGE, re.MULTILINE))


def test_every_fault_has_its_row() -> None:
    assert list(ROWS) == [f"C{number}" for number in range(1, 16)] + [f"F{number}" for number in range(1, 20)]


def test_every_row_names_tests_that_are_there() -> None:
    missing = []
    for fault, tests in ROWS.items():
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        for file, name in named:
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            kinds = ast.FunctionDef | ast.AsyncFunctionDef
            if name not in {node.name for node in ast.walk(tree) if isinstance(node, kinds)}:
                missing.append(f"{fault}: {file}::{name}")
        if not named:
            missing.append(f"{fault}: no test")
    assert missing == []
