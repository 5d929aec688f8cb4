"""Aggregators that keep every update, in simulations: the same bits in every way, and too few updates end the run."""

from pathlib import Path

import pytest

import hansa
from hansa.errors import QuorumNotMetError
from hansa.messages import RoundRules, RunSpec
from hansa.simulation import check_parity, differences


def test_every_way_gives_the_same_bits(app: Path) -> None:
    rules = RoundRules(selection="fraction", fraction=0.6)
    spec = RunSpec(aggregator="multi-krum", aggregator_options={"f": 2}, rounds=2, rules=rules)
    variants = check_parity(app, spec, 15)
    assert len(variants) == 7
    assert differences(variants) == {}


def test_rows_of_a_worker_that_died_are_trained_again(app: Path) -> None:
    config = {"client-3": "exit"}
    models = [
        hansa.simulate(
            app, clients=8, rounds=2, aggregator="median", config=config, engine=engine, workers=workers,
            rules=RoundRules(replace_failed=False), tolerate_failures=True,
        ).model
        for engine, workers in (("processes", 2), ("processes", 3))
    ]  # fmt: skip
    assert models[0] == models[1]
    without = hansa.simulate(
        app, clients=8, rounds=2, aggregator="median", config={"client-3": "raise"}, tolerate_failures=True,
        rules=RoundRules(replace_failed=False),
    )  # fmt: skip
    assert without.model == models[0]


def test_too_few_updates_end_the_run_and_name_what_is_needed(app: Path) -> None:
    said = r"4 updates count in this round, and bulyan needs n ≥ 4f \+ 3 updates, with f = 1: at least 7"
    with pytest.raises(QuorumNotMetError, match=said):
        hansa.simulate(app, clients=4, rounds=1, aggregator="bulyan", aggregator_options={"f": 1})


def test_a_rejected_update_is_not_kept(app: Path) -> None:
    spec = RunSpec(aggregator="geometric-median", rounds=1)
    spoilt = hansa.simulate(app, spec, clients=5, config={"client-2": "nan"})
    assert list(spoilt.rounds[0].rejected) == ["client-2"]
    assert spoilt.rounds[0].accepted == ("client-0", "client-1", "client-3", "client-4")
