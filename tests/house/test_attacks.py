"""The page that says which attack is tried by which test: no name on it is of a test that is gone."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/explanation/attacks.md").read_text("utf-8"))


def test_the_page_names_tests():
    assert len(NAMED) > 30


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_test_that_the_page_names_is_there(file: str, test: str):
    source = (ROOT / file).read_text("utf-8")
    assert re.search(rf"def {test}\(" if test else r"def test_", source), f"{file} has no {test or 'test'}"
