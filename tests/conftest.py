"""What tests of more than one room use."""

import gc
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # tests/federation.py is a module of the tests

import cradle  # found from here on
from servers import PostgresServer, S3Server, postgres_server, s3_server

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes depends on what else the machine does.
settings.register_profile("hansa", deadline=None)
settings.load_profile("hansa")


LONGEST = (
    "faults",
    "ui",
    "e2e",
    "dst",
    "network",
    "api",
    "store",
    "laws",
    "simulation",
    "house",
    "compat",
    "attacks",
    "training",
)
"""Rooms whose files take longest: they begin first, so that the last minutes are of short files, on all cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; else as collected. Of tests of the same name, a worker would run the first alone."""
    named = Counter(item.nodeid for item in items)
    if len(named) < len(items):
        twice = [f"{name} ({count})" for name, count in named.items() if count > 1]
        raise pytest.UsageError(f"there is more than one test of these names: {', '.join(twice)}")
    last = len(LONGEST)
    rank = {room: position for position, room in enumerate(LONGEST)}
    root = Path(__file__).parent
    items.sort(key=lambda item: rank.get(item.path.relative_to(root).parts[0], last))


def pytest_collection_finish() -> None:
    """Thousands of tests stay to the end: looking through them for garbage takes seconds, in which nothing goes on."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """A command that a test ran in this process has its log lines go to a stream that is closed by now.

    And where an app was loaded from is where every import of later tests would look first.
    """
    path = list(sys.path)
    yield
    sys.path[:] = path
    structlog.reset_defaults()


@pytest.fixture(scope="session", autouse=True)
def _quick_workers() -> Iterator[None]:
    """Workers of simulations begin where another process has imported hansa already."""
    with cradle.simulations():
        yield


@pytest.fixture(scope="session")
def quick_clients() -> Iterator[None]:
    """Workers of clients do, too."""
    with cradle.workers():
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, which no test leaves stopped."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 service."""
    with s3_server() as server:
        yield server
