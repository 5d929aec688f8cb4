from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Hansa


@pytest.fixture
def hansa(tmp_path: Path) -> Iterator[Hansa]:
    """Starts `hansa` commands as processes that touch nothing outside `tmp_path`; none outlives the test."""
    made = Hansa(tmp_path)
    yield made
    made.end()
