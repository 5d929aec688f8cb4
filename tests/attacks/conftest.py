import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # hostile.py is a module of the tests
sys.path.insert(0, str(Path(__file__).parents[1] / "api"))  # and served.py

from served import Served


@pytest.fixture(scope="session", autouse=True)
def _quick_clients(quick_clients: None) -> None:
    """Of every test here, and of those that come later."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.close()
