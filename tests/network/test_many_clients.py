"""A thousand clients at one combiner over TCP: the network of the benchmark, whose processes begin with few files."""

import asyncio
import importlib.util
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "many_clients.py"
_CLIENTS = 1000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

spec = importlib.util.spec_from_file_location("many_clients", _SCRIPT)
assert spec is not None
assert spec.loader is not None
many_clients = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = many_clients  # its child processes look their functions up in it
spec.loader.exec_module(many_clients)


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The soft limit of open files that most systems begin with; child processes have it too, and find the script."""
    monkeypatch.syspath_prepend(str(_SCRIPT.parent))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2 * _CLIENTS:
        pytest.skip(f"this system allows no more than {before[1]} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_a_round_of_a_thousand_clients_at_one_combiner_counts_every_one() -> None:
    result = asyncio.run(many_clients.measure(_CLIENTS, rounds=2))
    assert result.cause == "all 2 rounds are committed"
    assert [record.accepted for record in result.rounds] == [_CLIENTS, _CLIENTS]
    assert [record.weight for record in result.rounds] == [10 * _CLIENTS] * 2
    assert result.combiner < 300, "megabytes; it was 75"
