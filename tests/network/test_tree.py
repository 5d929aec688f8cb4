"""Combiners and clients that are killed, stopped and cut off: the round goes on, and the bits stay."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import cradle
import pytest
from federation import PROJECT, Federation
from rig import KEY, LARGE, Node, Rig, filled, parts_of, rig, stopped

import hansa
from hansa.algorithm import Cohort
from hansa.errors import Reason
from hansa.messages import EvaluationRules, Kind, RoundRules, RunSpec
from hansa.network.combiner.node import CombinerNode
from hansa.run import plugin
from hansa.store.ports import Query
from hansa.store.records import ClientRecord, SessionState
from hansa.wire.frames import (
    Admission,
    Closed,
    Evaluated,
    LogLine,
    OpenRound,
    Presence,
    Role,
    RoundKey,
    Settled,
    TaskFailed,
    Verdict,
)

NODE = """
import asyncio, json, sys
from pathlib import Path
from hansa.messages import ClientInfo
from hansa.network.client.agent import Agent
from hansa.network.combiner.node import CombinerNode
from hansa.wire.tls import Trust

given = json.loads(sys.argv[1])
trust = Trust(fingerprint=given["ca"])
common = {"join": given["join"], "token": given["token"], "work": Path(given["work"]), "trust": trust}

async def main():
    if given["role"] == "combiner":
        await CombinerNode(given["name"], silence=1.0, **common).run()
    else:
        client = ClientInfo(given["name"], given["index"], given["total"])
        await Agent(client, preferred=given["preferred"], **common).run()

asyncio.run(main())
"""

NO_EVALUATION = EvaluationRules(every=0)


@asynccontextmanager
async def process(
    made: Federation, name: str, role: Role, *, index: int = 0, total: int = 1, preferred: str = ""
) -> AsyncIterator[cradle.Popen]:
    """A node that is a process of its own; it has joined."""
    token, _ = await made.controller.issue_token(PROJECT, name, role)
    given = {
        "name": name, "role": role.value, "join": made.server.address, "ca": made.trust.fingerprint,
        "token": token, "index": index, "total": total,
        "work": str(made.folder / f"work of {name}"), "preferred": preferred,
    }  # fmt: skip
    node = cradle.Popen([sys.executable, "-c", NODE, json.dumps(given)])
    try:
        await until_connected(made, name)
        yield node
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                node.send_signal(number)
        node.wait()


# ── processes and signals ────────────────────────────────────────────────────────────────────────────────────────


async def test_clients_of_a_killed_combiner_are_reassigned_and_the_bits_stay(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=6, rules=RoundRules(min_clients=3, quorum=3, deadline=100, lease=90))
    async with Federation.open(tmp_path, ["stays"], silence=1.0) as made:
        async with process(made, "dies", Role.COMBINER) as node:
            await asyncio.gather(
                *(made.client(f"client-{i}", i, 3, preferred="dies" if i < 2 else "stays") for i in range(3))
            )
            session = await made.start(app, spec)
            await made.until_event(session, "round.committed")
            node.kill()
            session = await made.end(session)
        servers = {present.combiner for present in made.tree.directory.clients.values()}
    assert session.state is SessionState.FINISHED, session.cause
    assert servers == {"stays"}
    assert session.model == hansa.simulate(app, spec, clients=3).model_hash


async def test_a_combiner_that_was_killed_comes_back_clean_and_takes_part(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=2, rules=RoundRules(min_clients=2, quorum=2, deadline=100, lease=90))
    async with Federation.open(tmp_path, silence=1.0) as made:
        async with process(made, "north", Role.COMBINER) as node:
            for index in range(2):
                await made.client(f"client-{index}", index, 2, preferred="north")
            first = await made.start(app, spec)
            await made.until_event(first, "round.committed")
            node.kill()
            await made.gone("north")
        async with process(made, "north", Role.COMBINER):
            first = await made.end(first)
            await made.client("client-2", 2, 3, preferred="north")
            second = await made.run(app, spec)
            assert made.tree.directory.clients["client-2"].combiner == "north"
    assert [session.state for session in (first, second)] == [SessionState.FINISHED] * 2
    assert first.model == hansa.simulate(app, spec, clients=2).model_hash


async def test_a_stopped_client_is_replaced_after_its_lease_and_recovers_when_it_goes_on(
    app: Path, tmp_path: Path
) -> None:
    rules = RoundRules(selection="count", count=2, min_clients=3, quorum=2, deadline=100, lease=3)
    spec = RunSpec(rounds=1, rules=rules, evaluation=NO_EVALUATION)
    names = [f"client-{i}" for i in range(3)]
    victim = hansa.run.resolve(spec).cohort(names, 1).invited[0]
    spec = replace(spec, config={"bad": victim, "how": "hang"})  # it is not done before it is stopped
    async with Federation.open(tmp_path, silence=1.0) as made, process(made, victim, Role.CLIENT, total=3) as node:
        for index, name in enumerate(names):
            if name != victim:
                await made.client(name, index, 3)
        session = await made.start(app, spec)
        await made.until_event(session, "round.opened")
        node.send_signal(signal.SIGSTOP)
        session = await made.end(session)
        rows = {row.client: row.outcome for row in await made.contributions(session)}
        assert session.state is SessionState.FINISHED, session.cause
        assert rows == {name: "missing" if name == victim else "accepted" for name in names}
        assert victim not in made.tree.directory.clients
        back = asyncio.create_task(until_connected(made, victim))
        node.send_signal(signal.SIGCONT)
        await back
        everyone = RunSpec(rounds=1, rules=RoundRules(min_clients=3, quorum=3, deadline=100))
        assert (await made.run(app, everyone)).state is SessionState.FINISHED


async def until_connected(made: Federation, name: str) -> None:
    directory = made.tree.directory
    async with asyncio.timeout(30):
        async for _ in made.controller.journal.follow(PROJECT, 0):
            if name in directory.clients or name in directory.combiners:
                return


async def test_a_controller_that_comes_back_finds_nobody_connected_until_they_come(tmp_path: Path) -> None:
    async with Federation.open(tmp_path, silence=1.0) as made, process(made, "ward", Role.CLIENT):
        pass
    async with Federation.open(tmp_path, silence=1.0) as made:
        page = await made.controller.store.list(ClientRecord, Query(PROJECT))
        assert [(row.name, row.connected) for row in page.items] == [("ward", False)]


# ── sums that are lost, refused or empty ─────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def below(made: Rig, names: Sequence[str], work: Path) -> AsyncIterator[dict[str, CombinerNode]]:
    """Real combiners in a row, each the child of the one before it, the first of the rig's hub."""
    nodes: dict[str, CombinerNode] = {}
    tasks: list[asyncio.Task[None]] = []
    address = made.address
    try:
        for name in names:
            node = CombinerNode(
                name, join=made.join, token=made.join_token(name, Role.COMBINER), work=work / name, silence=5.0
            )
            nodes[name] = node
            made.places[name] = address
            tasks.append(asyncio.create_task(node.run()))
            found: tuple[str, ...] = ()
            while not found:
                combiners = (await made.told(Presence)).combiners
                found = tuple(present.labels["address"] for present in combiners if present.client == name)
            address = found[0]
        made.proxied = address
        yield nodes
    finally:
        for task in reversed(tasks):
            await stopped(task)


async def test_a_seal_of_combiners_that_have_nothing_is_answered_at_once(tmp_path: Path) -> None:
    async with rig() as made, below(made, ["a", "b"], tmp_path), made.node("ward") as ward:
        await until_below(made, "ward")
        made.open("ward")
        await ward.told(OpenRound)
        assert await made.sealed() is None


async def until_below(made: Rig, name: str) -> None:
    while not any(present.client == name for present in (await made.told(Presence)).joined):
        pass


@pytest.mark.parametrize("size", ["inline", "in chunks"])
async def test_a_client_summed_at_two_places_costs_the_others_of_that_sum_one_more_offer(
    size: str, tmp_path: Path
) -> None:
    """X is folded below b and at the hub itself. The sum of a is refused; of it Y offers again, three tiers down."""
    inline = size == "inline"
    model = filled(0.0) if inline else LARGE

    async def take_part(node: Node) -> None:
        made.open(node.name, model=model)
        await node.told(OpenRound)
        node.offer(filled(0.5, model), inline=inline)
        if not inline:
            admission = await node.told(Admission)
            await node.link.upload(admission.upload, parts_of(filled(0.5, model)), 0)
        assert (await node.told(Verdict)).accepted

    async with rig() as made, below(made, ["a", "b"], tmp_path), made.node("x") as x, made.node("y") as y:
        await until_below(made, "x")
        await until_below(made, "y")
        await take_part(x)
        await take_part(y)
        made.places["x"] = made.address
        async with made.node("x") as moved:
            await take_part(moved)
            first = await made.sealed()
            assert first is not None
            assert list(first.contributions) == ["x"]
            assert "was rejected, its clients offer again" in (await made.told(LogLine)).line
            await take_part(y)
            second = await made.sealed()
            assert second is not None
            assert list(second.contributions) == ["y"]


async def test_a_verdict_on_a_sum_that_is_no_more_leaves_the_phase_that_has_been_opened_anew(tmp_path: Path) -> None:
    """An upload broke, so the sum was offered twice; both are refused, the second after the round was reopened."""
    async with rig() as made, below(made, ["a"], tmp_path), made.node("x") as x:
        await until_below(made, "x")
        made.open("x")
        await x.told(OpenRound)
        x.offer(filled(0.5))
        assert (await x.told(Verdict)).accepted
        late = Verdict(KEY, "a", accepted=False, reason=Reason.LATE, detail="none is awaited", digest="a1" * 32)
        made.hub.children.streams["a"].send(late)
        partial = await made.sealed()
    assert partial is not None
    assert list(partial.contributions) == ["x"]


async def test_a_combiner_that_loses_its_parent_forgets_its_sums_and_so_do_those_below_it(tmp_path: Path) -> None:
    async with rig() as made, below(made, ["a", "b"], tmp_path), made.node("x") as x:
        await until_below(made, "x")
        made.open("x")
        await x.told(OpenRound)
        x.offer(filled(0.5))
        assert (await x.told(Verdict)).accepted
        made.hub.dismiss("a test")
        presence = await made.told(Presence)
        while not any(present.client == "x" for present in presence.joined):
            presence = await made.told(Presence)
        made.open("x")
        assert (await x.told(OpenRound)).key == KEY
        x.offer(filled(0.25))  # it may be another one: nothing is held of the first
        assert (await x.told(Verdict)).accepted
        partial = await made.sealed()
    assert partial is not None
    assert partial.weight == 1


async def test_children_of_a_combiner_whose_parent_stays_away_look_for_another_server(tmp_path: Path) -> None:
    async with rig() as other, made_then_gone(other, tmp_path):
        await until_below(other, "x")


@asynccontextmanager
async def made_then_gone(other: Rig, work: Path) -> AsyncIterator[None]:
    """A client below a combiner of one network, whose root goes; the directory then names the other."""
    token = other.join_token("a", Role.COMBINER)
    async with rig() as made:
        made.key = other.key
        made.hub.children.lease = 1.0
        node = CombinerNode("a", join=made.join, token=token, work=work / "a", silence=1.0)
        running = asyncio.create_task(node.run())
        made.proxied = next(iter((await made.told(Presence)).combiners)).labels["address"]
        node_x = made.node("x")
        async with node_x as x:
            await until_below(made, "x")
            x.link._entrance._address = other.address
            made.hub.dismiss("a test")
            node._entrance._address = "127.0.0.1:1"
            yield
        await stopped(running)


# ── sessions that cannot go on ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ZeroDivisionError("in a plug-in"), "ZeroDivisionError: in a plug-in"),
        (Cohort(("client-0", "client-0")), "invited a client twice"),
        (Cohort(("nobody",)), "who are not connected"),
    ],
)
async def test_a_policy_that_is_wrong_ends_its_session_with_the_cause_and_closes_the_round(
    answer: Exception | Cohort, said: str, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(rules: RoundRules) -> object:
        assert rules.quorum == 1

        def choose(*_given: object) -> Cohort:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return choose

    async with Federation.open(tmp_path, silence=5.0) as made:
        await made.clients(1)
        session = await made.create(app, RunSpec(rounds=1))
        monkeypatch.setattr(
            hansa.run, "plugin", lambda group, name: wrong if "policies" in group else plugin(group, name)
        )
        await made.controller.sessions.start(PROJECT, session.id)
        session = await made.end(session)
        assert session.state is SessionState.FAILED
        assert said in session.cause
        assert made.tree.hub._phases.open == {}


async def test_failures_of_strangers_and_of_other_rounds_are_not_recorded(app: Path, tmp_path: Path) -> None:
    async with Federation.open(tmp_path, silence=5.0) as made:
        rules = RoundRules(selection="count", count=1, min_clients=2, deadline=60)
        spec = RunSpec(rounds=1, rules=rules, config={"bad": "client-0", "how": "hang"}, evaluation=NO_EVALUATION)
        await made.clients(2)
        session = await made.create(app, spec)
        invited = hansa.run.resolve(spec).cohort(["client-0", "client-1"], 1).invited[0]
        stranger = next(name for name in ("client-0", "client-1") if name != invited)
        await made.controller.sessions.start(PROJECT, session.id)
        for number in (1, 2, 77):
            key = RoundKey(session.id, number, Kind.TRAIN)
            made.tree.send(TaskFailed(key, stranger, "I am not even invited"))
            made.tree.send(Settled(key, stranger, accepted=False, reason=Reason.LATE))
            made.tree.send(Evaluated(RoundKey(session.id, number, Kind.EVALUATE), stranger, 1, {"x": 1.0}))
        made.tree.hub.receive_from_parent(Closed(RoundKey("nothing", 1, Kind.TRAIN)))
        await made.controller.sessions.stop(PROJECT, session.id, "a test")
        assert [event.message for event in await made.events(session, "task.failed")] == []
