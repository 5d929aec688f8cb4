import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import TINY, json_lines
from typer.testing import Result

from hansa.simulation import simulate

RANDOM = TINY.replace("np.float32(1 + task.client.index)", "np.random.default_rng().random(3, np.float32)")


def test_one_hash_in_simulation_and_on_networks(hansa: Callable[..., Result], tiny: Path) -> None:
    done = hansa("parity", tiny, "--clients", 3, "--rounds", 2, "--json")
    assert done.exit_code == 0, done.output
    *ways, last = json_lines(done.stdout)
    assert [way["way"] for way in ways if way["way"].startswith("network")] == [
        "network: one combiner",
        "network: five combiners in three tiers",
        "network: arrival order shuffled",
        "network: connections reset, clients retry",
    ]
    assert {way["model_hash"] for way in ways} == {simulate(tiny, clients=3, rounds=2).model_hash}
    assert last["same"] is True


def test_what_networks_need_is_asked_for_before_the_first_way(
    hansa: Callable[..., Result], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hansa.store.sqlite", None)
    done = hansa("parity", tiny, "--clients", 2, "--rounds", 1)
    assert done.exit_code == 1
    assert (
        "a network, which --no-network leaves out, needs an optional dependency: pip install 'hansa[server]'"
        in done.stderr
    )
    assert "in this process" not in done.stdout


def test_a_difference_names_the_first_tensor_and_fails(
    hansa: Callable[..., Result], write_app: Callable[[str], Path]
) -> None:
    done = hansa("parity", write_app(RANDOM), "--clients", 2, "--rounds", 1, "--no-network")
    assert done.exit_code == 1
    assert "✘" in done.stdout
    assert "the tensor 'w' is the first that differs" in done.stdout
