"""What goes wrong is said by name, and the round goes on."""

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest
from federation import PROJECT, Federation, federation

import hansa
from hansa.arrays import Arrays
from hansa.errors import AuthenticationError, PermissionDeniedError
from hansa.messages import ClientInfo, Contribution, EvaluationRules, Kind, RoundRules, RunSpec
from hansa.network.client.agent import Agent
from hansa.network.client.signing import signed_offer
from hansa.network.entrance import Entrance
from hansa.network.identity import NodeIdentity
from hansa.network.link import Link
from hansa.run import resolve
from hansa.store.records import SessionRecord, SessionState
from hansa.wire import codec, tokens
from hansa.wire.frames import Blob, FromNode, Hello, Offer, OpenRound, Role, ToNode, Verdict, Welcome
from hansa.wire.transport import GRPC

NO_EVALUATION = EvaluationRules(every=0)
THREE_OF_FOUR = RoundRules(selection="count", count=3, min_clients=4, quorum=3, deadline=60, lease=20)


def cohort(rules: RoundRules) -> tuple[str, ...]:
    """Who of client-0 … client-3 is invited to the first round."""
    return resolve(RunSpec(rounds=1, rules=rules)).cohort([f"client-{i}" for i in range(4)], 1).invited


async def outcomes(made: Federation, session: SessionRecord) -> dict[str, tuple[str, str]]:
    return {row.client: (row.outcome, row.reason) for row in await made.contributions(session)}


async def begun(made: Federation, app: Path, spec: RunSpec) -> SessionRecord:
    """A session in which an update counts; that is told as it happens, and to who listens before it begins."""
    session = await made.create(app, spec)
    counts = asyncio.create_task(made.until_event(session, "client.accepted"))
    await made.controller.sessions.start(PROJECT, session.id)
    await counts
    return session


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "RuntimeError: no such patient"),
        ("exit", "the app ended its process (exit status 3)"),
        ("sys.exit", "the app called sys.exit(4) instead of returning a result"),
    ],
)
async def test_a_client_whose_code_fails_is_named_and_replaced(how: str, said: str, app: Path, tmp_path: Path) -> None:
    invited = cohort(THREE_OF_FOUR)
    spec = RunSpec(rounds=1, rules=THREE_OF_FOUR, config={"bad": invited[0], "how": how})
    async with federation(tmp_path, ["only"]) as made:
        await made.clients(4)
        session = await made.run(app, spec)
        rows = await outcomes(made, session)
        events = await made.events(session, "task.failed")
    assert session.state is SessionState.FINISHED, session.cause
    assert rows[invited[0]] == ("failed", said)
    assert [row for row, _ in rows.values()].count("accepted") == 3
    assert said in events[0].message
    assert ("in misbehave" in str(events[0].data["traceback"])) == (how == "raise")


async def test_code_that_hangs_past_its_lease_is_ended_and_replaced(app: Path, tmp_path: Path) -> None:
    rules = RoundRules(selection="count", count=3, min_clients=4, quorum=3, deadline=60, lease=2)
    invited = cohort(rules)
    async with federation(tmp_path) as made:
        await made.clients(4)
        warm = await made.run(app, RunSpec(rounds=1, rules=THREE_OF_FOUR))
        assert warm.state is SessionState.FINISHED, warm.cause
        spec = RunSpec(rounds=1, rules=rules, config={"bad": invited[0], "how": "hang"})
        session = await made.run(app, spec)
        rows = await outcomes(made, session)
    assert session.state is SessionState.FINISHED, session.cause
    assert rows[invited[0]][0] in {"failed", "missing"}
    assert [row for row, _ in rows.values()].count("accepted") == 3


async def test_a_session_that_misses_its_quorum_says_who_and_why_with_the_traceback(app: Path, tmp_path: Path) -> None:
    rules = RoundRules(min_clients=2, quorum=2, deadline=60, replace_failed=False)
    spec = RunSpec(rounds=1, rules=rules, config={"bad": "client-1", "how": "raise"})
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await made.run(app, spec)
    assert session.state is SessionState.FAILED
    assert "client-1" in session.cause
    assert "RuntimeError: no such patient" in session.cause
    assert "in misbehave" in session.cause


async def test_what_user_code_prints_reaches_the_session(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=1, config={"bad": "client-0", "how": "print"})
    async with federation(tmp_path) as made:
        await made.clients(1)
        session = await made.create(app, spec)
        lines: list[str] = []

        async def listen() -> None:
            async for happened in made.controller.journal.follow(PROJECT, 0, session.id):
                if happened.kind == "log":
                    lines.append(str(happened.data["line"]))
                    return

        listening = asyncio.create_task(listen())
        await made.controller.sessions.start(PROJECT, session.id)
        await made.end(session)
        await asyncio.wait_for(listening, 10)
    assert lines == ["hello from the ward"]


async def test_clients_of_a_lost_combiner_go_to_another_and_the_bits_stay(large_app: Path, tmp_path: Path) -> None:
    rules = RoundRules(min_clients=4, quorum=4, deadline=100, lease=90)
    spec = RunSpec(rounds=6, rules=rules)
    async with federation(tmp_path, ["a", "b"]) as made:
        await made.clients(4)
        session = await begun(made, large_app, spec)
        await made.leave("a")
        session = await made.end(session)
        servers = {present.combiner for present in made.tree.directory.clients.values()}
    assert session.state is SessionState.FINISHED, session.cause
    assert servers == {"b"}
    assert session.model == hansa.simulate(large_app, spec, clients=4).model_hash


async def test_a_round_closes_by_its_deadline_and_names_the_client_that_died(app: Path, tmp_path: Path) -> None:
    rules = RoundRules(min_clients=3, quorum=2, deadline=8, lease=60)
    spec = RunSpec(rounds=1, rules=rules, config={"bad": "client-2", "how": "hang"})
    async with federation(tmp_path) as made:
        await made.clients(3)
        session = await begun(made, app, spec)
        await made.leave("client-2")
        session = await made.end(session)
        rows = await outcomes(made, session)
    assert session.state is SessionState.FINISHED, session.cause
    assert rows["client-2"] == ("missing", "nothing arrived before the round closed")


async def test_a_client_that_died_and_came_back_takes_its_place_again(app: Path, healthy: Path, tmp_path: Path) -> None:
    rules = RoundRules(min_clients=3, quorum=3, deadline=100, lease=90)
    spec = RunSpec(rounds=1, rules=rules, config={"bad": "client-2", "how": "hang"})
    async with federation(tmp_path) as made:
        await made.clients(3)
        session = await begun(made, app, spec)
        await made.leave("client-2")
        await made.client("client-2", 2, 3, app=healthy)
        session = await made.end(session)
        rows = await outcomes(made, session)
    assert session.state is SessionState.FINISHED, session.cause
    assert rows["client-2"][0] == "accepted"


# ── hostile and broken updates ───────────────────────────────────────────────────────────────────────────────────


class Scripted:
    """A client of the test's own: it answers a task with what it is told to."""

    def __init__(self, name: str, arrays: Arrays, num_examples: int) -> None:
        self.name, self.arrays, self.num_examples = name, arrays, num_examples
        self.verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.link: Link | None = None
        self.identity: NodeIdentity | None = None

    def attached(self, welcome: Welcome) -> None:
        pass

    def detached(self, why: str) -> None:
        pass

    def receive(self, frame: ToNode) -> None:
        if isinstance(frame, OpenRound) and frame.key.kind is Kind.TRAIN:
            self.send(self.offer(frame))
        if isinstance(frame, Verdict) and not self.verdict.done():
            self.verdict.set_result(frame)

    def offer(self, opened: OpenRound) -> Offer:
        """Signed, whatever it holds."""
        assert self.identity is not None
        data = b"".join(codec.encode(self.arrays))
        blob = Blob(codec.digest(self.arrays), len(data), data)
        part = Contribution(self.name, self.num_examples)
        return signed_offer(Offer(opened.key, self.name, blob, (part,), base=opened.model.digest), self.identity)

    def send(self, frame: FromNode) -> None:
        assert self.link is not None
        self.link.send(frame)

    async def run(self, made: Federation) -> None:
        token, _ = await made.controller.issue_token(PROJECT, self.name, Role.CLIENT)
        entrance = Entrance(made.server.address, token, made.folder / self.name, made.trust, GRPC)
        self.identity = entrance.identity
        hello = Hello(Role.CLIENT, entrance.identity.instance, "0")
        self.link = Link(self, entrance=entrance, hello=hello)
        await self.link.run()


GOOD = Arrays({"w": np.full(50, 0.25, np.float32), "steps": np.ones((), np.int64)})


@pytest.mark.parametrize(
    ("arrays", "num_examples", "reason"),
    [
        (Arrays({**GOOD, "w": np.full(50, np.nan, np.float32)}), 5, "not-finite"),
        (Arrays({**GOOD, "w": np.full(49, 0.1, np.float32)}), 5, "structure"),
        (Arrays({**GOOD, "extra": np.zeros(1, np.float32)}), 5, "structure"),
        (Arrays({**GOOD, "w": np.full(50, 1e30, np.float32)}), 5, "out-of-range"),
        (GOOD, 0, "weight"),
        (GOOD, -1, "weight"),
        (GOOD, 2**63 - 1, "weight"),
    ],
    ids=["nan", "shape", "unknown-name", "huge", "zero", "negative", "too-many"],
)
async def test_a_bad_update_is_rejected_with_a_reason_and_moves_nothing(
    arrays: Arrays, num_examples: int, reason: str, app: Path, tmp_path: Path
) -> None:
    rules = RoundRules(min_clients=3, quorum=2, deadline=60, replace_failed=False)
    spec = RunSpec(rounds=1, rules=rules, evaluation=NO_EVALUATION)
    async with federation(tmp_path, ["only"]) as made:
        await made.clients(2)
        villain = Scripted("villain", arrays, num_examples)
        await made._joined("villain", villain.run(made), "client.connected")
        session = await made.run(app, spec)
        rows = await outcomes(made, session)
        rounds = await made.rounds(session)
        verdict = await villain.verdict
    honest = hansa.simulate(app, spec_of(2), clients=2)
    assert session.state is SessionState.FINISHED, session.cause
    assert rows["villain"][0] == "rejected"
    assert rows["villain"][1].startswith(reason)
    assert verdict.reason is not None
    assert verdict.reason.value == reason
    assert rounds[0].weight == 10 + 11
    assert session.model == honest.model_hash


def spec_of(clients: int) -> RunSpec:
    return RunSpec(rounds=1, rules=RoundRules(min_clients=clients, quorum=clients))


async def test_two_combiners_of_1_and_99_examples_give_the_weighted_mean_exactly(app: Path, tmp_path: Path) -> None:
    rules = RoundRules(min_clients=2, quorum=2, deadline=60)
    spec = RunSpec(rounds=1, rules=rules, evaluation=NO_EVALUATION)
    one = Arrays({"w": np.full(50, 1.0, np.float32), "steps": np.zeros((), np.int64)})
    other = Arrays({"w": np.full(50, 0.0, np.float32), "steps": np.zeros((), np.int64)})
    async with federation(tmp_path, ["a", "b"]) as made:
        light, heavy = Scripted("light", one, 1), Scripted("heavy", other, 99)
        await made._joined("light", light.run(made), "client.connected")
        await made._joined("heavy", heavy.run(made), "client.connected")
        servers = {present.combiner for present in made.tree.directory.clients.values()}
        session = await made.run(app, spec)
        assert session.seed_model is not None
        assert session.model is not None
        before = codec.load(await made.controller.objects.fetch(session.seed_model))
        after = codec.load(await made.controller.objects.fetch(session.model))
    assert servers == {"a", "b"}
    moved = before["w"].astype(np.float64) + np.float64(np.float32(round(2**32 / 100) / 2**32))
    assert np.abs(after["w"] - moved).max() <= np.spacing(np.float32(np.abs(moved).max()))


# ── identity ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_second_process_with_the_same_identity_waits_and_the_first_stays(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.client("ward", app=app)
        (tmp_path / "again").mkdir()
        shutil.copy(made.folder / "ward" / "node-key.pem", tmp_path / "again")
        again = Agent(
            ClientInfo("ward"),
            join=made.server.address,
            token=tokens.issue(tokens.new_key(), "ward", Role.CLIENT, PROJECT)[0],
            work=tmp_path / "again",
            app=app,
            trust=made.trust,
        )
        task = asyncio.create_task(again.run())
        session = await made.run(app, spec_of(1))
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        assert session.state is SessionState.FINISHED, session.cause


async def test_a_token_of_another_network_is_refused_for_good(app: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with federation(tmp_path / "other") as other:
        token, _ = await other.controller.issue_token(PROJECT, "ward", Role.CLIENT)
    async with federation(tmp_path) as made:
        agent = Agent(
            ClientInfo("ward"), join=made.server.address, token=token, work=tmp_path / "ward", app=app, trust=made.trust
        )
        with pytest.raises(AuthenticationError, match="another network"):
            await agent.run()


async def test_a_revoked_token_is_refused(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        token, record = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
        await made.controller.revoke_token(PROJECT, record.id)
        agent = Agent(
            ClientInfo("ward"), join=made.server.address, token=token, work=tmp_path / "ward", app=app, trust=made.trust
        )
        with pytest.raises(AuthenticationError, match="revoked"):
            await agent.run()


async def test_a_persons_token_is_no_node(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.controller.people.create_account("boss", admin=True)
        token, _ = await made.controller.people.issue("boss", called="login")
        agent = Agent(
            ClientInfo("boss"), join=made.server.address, token=token, work=tmp_path / "boss", app=app, trust=made.trust
        )
        with pytest.raises(PermissionDeniedError, match="boss is a person"):
            await agent.run()


async def test_a_node_whose_name_another_key_has_joined_with_is_dismissed(app: Path, tmp_path: Path) -> None:
    """A machine was replaced: the operator has made another join token for it."""
    async with federation(tmp_path) as made:
        await made.client("ward", app=app)
        first = made.nodes.pop("ward")
        shutil.move(made.folder / "ward", made.folder / "old ward")
        await made.client("ward", app=app)
        with pytest.raises(AuthenticationError, match="used already, by another key"):
            await first
        session = await made.run(app, spec_of(1))
        assert session.state is SessionState.FINISHED, session.cause
