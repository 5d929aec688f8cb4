"""A few hundred schedules of the deterministic simulation; `make dst` runs as many as you like."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.pool import Pool

import pytest
from cases import some

from dst.net import Profile
from dst.plants import PLANTS
from dst.schedule import ASYNCHRONOUS, DEADLINE, KINDS, LEASE, Fault, Plan, draw
from dst.sweep import verdict_on
from hansa.messages import EvaluationRules, RoundRules, RunSpec

SCHEDULES = 40
WITHIN = 24
"""Seeds within which each planted bug of the quick ones is found."""
QUICK = (
    "settle-unfolded",
    "forget-at-verdict",
    "tell-before-commit",
    "count-rejected",
    "weight-adrift",
    "resume-too-late",
    "never-paid",
    "remove-all",
)
"""Planted bugs that a few schedules find; `make dst ARGS=--plants` looks for all."""
FOUND = (5346, 26073, 57931, 53468, 177493, 181460, 192791, 302906, 500135, 720945, 740110)
"""Seeds in whose schedules a large sweep has found something: updates of two sessions with the same bytes, of which one
took the other's file; a model that a combiner had asked for too early, and asked for no more; a node that was killed
while its key was stored, which the controller then did not know; a key that was stored while the store went away, which
the controller then took for another's; a model that was removed before its file was read; a message to a node that
reads nothing more, whose sender was cancelled twice; a client that came a moment before the combiners, and was looked
at once in a silence; a session that was stopped as soon as a client was to keep an update, which it had still when the
session was resumed; a client whose own place counted against the server that it was sent to, as it asked again."""

FLOWED = (
    ASYNCHRONOUS + 38,
    ASYNCHRONOUS + 58,
    ASYNCHRONOUS + 10721,
    ASYNCHRONOUS + 10310,
    ASYNCHRONOUS + 10809,
    ASYNCHRONOUS + 14612,
)
"""The same of asynchronous sessions: a sum that waited for a slot, which updates held that waited for the next round;
an evaluation of one round that made a client forget its update of a model before; tasks that had ended when the
controller died, of whose clients, at work on another by then, no row told what had become of the first; two refused
tasks of one client in a round, of which a row told of the second; a refusal that came between two rounds, of a task
that the first had told of."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Processes of their own: what was killed in a simulation is never cleaned up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", "0")  # as `make dst` has it: sets of names are walked in one order
        made = multiprocessing.get_context("spawn").Pool(2)
    with made:
        yield made


def plan(*faults: Fault, clients: int = 4, sessions: int = 1) -> Plan:
    """A network in which nothing but these faults is unusual."""
    rules = RoundRules(min_clients=clients, quorum=clients - 1, deadline=DEADLINE, lease=LEASE)
    specs = tuple(
        RunSpec(name=f"session-{i}", rounds=2, seed=i, rules=rules, evaluation=EvaluationRules(every=0))
        for i in range(sessions)
    )
    return Plan(
        seed=1,
        shape="flat",
        clients=clients,
        specs=specs,
        profile=Profile(),
        thread_delay=0.002,
        step=2e-5,
        inline=64,
        slots=2,
        silence=8.0,
        standby=False,
        preferring=False,
        faults=faults,
        combiners={"west": "", "east": ""},
    )


def test_schedules_from_seeds_violate_no_invariant(pool: Pool) -> None:
    verdicts = pool.map(verdict_on, [(draw(seed), "") for seed in range(SCHEDULES)], chunksize=5)

    assert [(each.seed, each.wrong) for each in verdicts if each.wrong] == []
    struck = {kind for each in verdicts for kind in each.faults}
    assert len(set(KINDS) - struck) <= 3
    assert sum(each.rounds for each in verdicts) > 2 * SCHEDULES


def test_asynchronous_schedules_violate_no_invariant(pool: Pool) -> None:
    seeds = range(ASYNCHRONOUS, ASYNCHRONOUS + SCHEDULES // 5)
    verdicts = pool.map(verdict_on, [(draw(seed), "") for seed in seeds], chunksize=3)

    assert [(each.seed, each.wrong) for each in verdicts if each.wrong] == []
    assert sum(each.rounds for each in verdicts) > 4 * len(seeds)


@pytest.mark.parametrize("seed", FLOWED)
def test_an_asynchronous_schedule_that_once_violated_an_invariant_does_so_no_more(pool: Pool, seed: int) -> None:
    assert pool.apply(verdict_on, ((draw(seed), ""),)).wrong == ()


def test_an_update_that_is_summed_as_if_it_were_new_is_found(pool: Pool) -> None:
    found = pool.imap_unordered(verdict_on, [(draw(ASYNCHRONOUS + seed), "stale-as-new") for seed in range(6)])

    assert any(each.wrong for each in found)


def test_the_same_seed_has_the_same_history_in_any_process(pool: Pool) -> None:
    seeds = [seed for seed in range(SCHEDULES) if len(draw(seed).faults) > 3][:4]
    verdicts = pool.map(verdict_on, [(draw(seed), "") for seed in (*seeds, *reversed(seeds))], chunksize=1)

    histories = [each.history for each in verdicts]
    assert histories[:4] == histories[:3:-1]
    assert len(set(histories)) == 4


@pytest.mark.parametrize("name", some(QUICK, always=("settle-unfolded", "count-rejected", "never-paid")))
def test_a_planted_bug_is_found(pool: Pool, name: str) -> None:
    found = pool.imap_unordered(verdict_on, [(draw(seed), name) for seed in range(WITHIN)])

    assert any(each.wrong for each in found)


@pytest.mark.parametrize("name", PLANTS)
def test_what_a_plant_replaces_is_there(name: str) -> None:
    with PLANTS[name].planted():
        pass


# ── what the simulation has found, each as its smallest schedule ─────────────────────────────────────────────────────


@pytest.mark.parametrize("at", [0.1, 0.4, 0.9, 1.5, 4.0])
def test_a_store_that_is_away_costs_no_client_its_place_and_leaves_no_row_wrong(pool: Pool, at: float) -> None:
    verdict = pool.apply(verdict_on, ((plan(Fault("away", at, "store", 6.0)), ""),))

    assert verdict.wrong == ()
    assert verdict.sessions == {"finished": 1}


def test_two_sessions_share_a_client_that_does_one_task_at_a_time(pool: Pool) -> None:
    verdict = pool.apply(verdict_on, ((plan(Fault("raise", 0.0, "client-0", number=2), sessions=2), ""),))

    assert verdict.wrong == ()
    assert verdict.sessions == {"finished": 2}


@pytest.mark.parametrize("at", [8.4, 8.8, 9.2])
def test_a_client_that_stood_still_for_longer_than_its_lease_has_its_place_again(pool: Pool, at: float) -> None:
    quiet = replace(plan(Fault("pause", at, "client-0", LEASE + 1.0)), silence=15.0)
    needed = replace(quiet.specs[0], rules=replace(quiet.specs[0].rules, quorum=4))
    verdict = pool.apply(verdict_on, ((replace(quiet, specs=(needed,)), ""),))

    assert verdict.wrong == ()
    assert verdict.sessions == {"finished": 1}


@pytest.mark.parametrize("back", [2.0, 30.0])
def test_clients_that_found_the_controller_before_the_combiners_do_not_stay_with_it(pool: Pool, back: float) -> None:
    """All servers are killed at once; the combiners come back when the clients are at the root already."""
    down = [Fault("kill", 3.0, "controller", 0.5), *(Fault("kill", 3.0, name, back) for name in ("west", "east"))]
    longer = plan(*down)
    spec = replace(longer.specs[0], rounds=6, rules=replace(longer.specs[0].rules, quorum=4))
    verdict = pool.apply(verdict_on, ((replace(longer, specs=(spec,)), ""),))

    assert verdict.wrong == ()
    assert verdict.sessions == {"finished": 1}


def test_a_combiner_that_was_away_for_long_has_its_share_of_the_clients_again(pool: Pool) -> None:
    """They go between two rounds, and none of them is missed: each round has all four."""
    longer = plan(Fault("kill", 3.0, "east", 30.0))
    spec = replace(longer.specs[0], rounds=8, rules=replace(longer.specs[0].rules, quorum=4))
    verdict = pool.apply(verdict_on, ((replace(longer, specs=(spec,)), ""),))

    assert verdict.wrong == ()
    assert verdict.sessions == {"finished": 1}


@pytest.mark.parametrize("seed", FOUND)
def test_a_schedule_that_once_violated_an_invariant_does_so_no_more(pool: Pool, seed: int) -> None:
    assert pool.apply(verdict_on, ((draw(seed), ""),)).wrong == ()
