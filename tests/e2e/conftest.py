from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import TINY, written
from processes import Hansa, Server


@pytest.fixture
def hansa(tmp_path: Path) -> Iterator[Hansa]:
    """Starts `hansa` commands as processes that touch nothing outside `tmp_path`; none outlives the test."""
    made = Hansa(tmp_path)
    yield made
    made.end()


@pytest.fixture
def server(hansa: Hansa) -> Server:
    """`hansa up` on free ports, with its credentials in the test's folder."""
    return hansa.up()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return written(tmp_path, TINY)
