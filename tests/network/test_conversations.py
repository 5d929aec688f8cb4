"""Programs over the relay of the controller: the results of one process, whoever begins anew, and whatever was lost."""

import asyncio
import io
import shutil
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import hansa
from hansa.arrays import Arrays
from hansa.distributed import (
    Records,
    complete,
    gossip,
    hubs,
    message,
    ring,
    run,
    secure_fedavg,
    split_learning,
    splitfed,
    star,
    vertical,
    wheel,
)
from hansa.errors import (
    ConflictError,
    ConnectionFailedError,
    NotFoundError,
    PermissionDeniedError,
    RunFailedError,
    WireError,
)
from hansa.messages import ClientInfo, Kind, RunSpec
from hansa.network.client.correspondence import Correspondence
from hansa.network.client.outbox import letter_file
from hansa.network.controller import conversation
from hansa.network.controller.conversation import Conversation, Room
from hansa.network.controller.letters import GONE, Letters
from hansa.network.controller.quotas import Quota, Quotas
from hansa.programs.crew import Crew
from hansa.programs.encoding import decode, encode
from hansa.programs.ending import End
from hansa.protocols.secure_fedavg import Step
from hansa.protocols.topology import AnyTopology
from hansa.protocols.worker import Program, Worker
from hansa.store.opening import open_store
from hansa.training.numpy import NumpyTrainer, softmax_regression
from hansa.training.numpy_parts import logistic_parts, mlp_parts
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import Awaited, Blob, Letter, OpenRound, RoundKey
from hansa.wire.limits import MAX_LETTER

KEY = RoundKey("session", 1, Kind.PROGRAM)


@message("said.number")
@dataclass(frozen=True)
class Number:
    value: float
    padding: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass
class Table:
    """What parties sit at: a conversation that may be closed and opened again, as by a controller that is restarted."""

    folder: Path
    size: int
    quotas: Quotas
    failures: list[RunFailedError] = field(default_factory=list)
    away: set[int] = field(default_factory=set)
    """Parties that stay away, which everybody is told who can go on without them."""
    conversation: Conversation = field(init=False)
    _kept: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another letter of a party is kept."""

    async def open(self) -> None:
        self.conversation = Conversation(
            KEY,
            [f"p{number}" for number in range(self.size)],
            Letters(self.folder / "letters"),
            Room(self.quotas, "default"),
            lambda _number, _end, _new: None,
            self.failures.append,
        )
        await self.conversation.open()

    async def send(self, letter: Letter, parts: Iterable[memoryview]) -> None:
        """The way of every party; see `Post`."""
        try:
            await self._asked(self.conversation.send(f"p{letter.sender}", letter, pieces(b"".join(parts))))
        finally:
            self._kept.set()

    async def until(self, is_so: Callable[[Letters], bool]) -> None:
        """Wait until it is so of the letters that are kept, and the parties have been told of them."""
        while not is_so(self.conversation.letters):
            self._kept.clear()
            await self._kept.wait()

    async def receive(self, awaited: Awaited) -> AsyncGenerator[memoryview, None]:
        got = self.conversation.receive(f"p{awaited.receiver}", awaited)
        while (piece := await self._asked(anext(got, b""))) != b"":
            yield memoryview(piece)

    async def _asked(self, call: Any) -> Any:
        try:
            return await call
        except NotFoundError as error:  # as of a server that is gone
            raise ConnectionFailedError(str(error)) from error


@asynccontextmanager
async def table(folder: Path, size: int) -> AsyncIterator[Table]:
    store = open_store(f"sqlite:///{folder / 'hansa.db'}")
    await store.open()
    made = Table(folder, size, Quotas(store))
    try:
        await made.open()
        yield made
        await made.conversation.aclose()
    finally:
        await store.close()


async def pieces(data: memoryview | bytes, size: int = 1 << 16) -> AsyncIterator[tuple[int, memoryview]]:
    for offset in range(0, len(data), size):
        yield offset, memoryview(data)[offset : offset + size]


def letter(sender: int, receiver: int, number: int, data: bytes) -> Letter:
    return Letter(KEY, sender, receiver, number, Blob(blake3(data).hexdigest(), len(data)))


async def attend(
    at: Table, number: int, program: Program, topology: AnyTopology, dies: set[int], *, stays_away: int | None = None
) -> bytes:
    """Be a party to the end; returns its encoded result. dies: awaited letters, counted, at which it begins anew.

    stays_away: the awaited letter before which it is gone, until it is taken out of `at.away`.
    """
    objects = at.folder / f"objects-{number}"
    objects.mkdir(exist_ok=True)
    opened = OpenRound(KEY, RunSpec(parties=tuple(at.conversation.parties)), Blob("0" * 64, 0), (f"p{number}",))
    awaited = 0
    while True:
        correspondence = Correspondence(at, opened, objects)
        sent: list[Letter] = []
        counts: Counter[int] = Counter()
        read: Counter[int] = Counter()

        def post(sender: int, receiver: int, frame: bytes) -> None:
            made = letter(sender, receiver, counts[receiver], frame)  # noqa: B023 - called before the next run
            counts[receiver] += 1  # noqa: B023 - the same
            if len(frame) <= INLINE_LIMIT:
                made = replace(made, blob=replace(made.blob, inline=frame))
            else:
                letter_file(objects, made).write_bytes(frame)
            sent.append(made)  # noqa: B023 - the same

        crew = Crew((number,), program, topology, 0, post, secret=lambda: bytes([number]) * 32)
        try:
            while not (ended := crew.advance()) or sent:
                while sent:
                    assert correspondence.may(sent[0])
                    await correspondence.take(sent.pop(0))
                if ended:
                    break
                waits = crew.waits(number)
                assert waits is not None
                awaited += 1
                if awaited == stays_away:
                    await _gone(at, number, sum(counts.values()))
                if awaited in dies | {stays_away}:
                    raise ConflictError("it was killed")  # noqa: TRY301 - as the relay would
                asked = Awaited(KEY, waits.sender, number, read[waits.sender], dispensable=waits.dispensable)
                got = await correspondence.bring(asked)
                read[waits.sender] += 1
                data = got.blob.inline or letter_file(objects, got).read_bytes()
                crew.deliver(waits.sender, number, data)
            await correspondence.end({})
            return crew.ended[number].result
        except ConflictError:
            pass
        finally:
            crew.close()
            await correspondence.aclose()


async def _gone(at: Table, number: int, sent: int) -> None:
    """Until it is back; all that it has sent is kept before."""
    await at.until(lambda letters: letters.sent(number) >= sent)
    at.away.add(number)
    while number in at.away:
        if not at.conversation.needed(at.away):
            await at.conversation.go_without(at.away)
        await asyncio.sleep(0)


def program_of_sums(large: int = 0) -> Program:
    async def program(worker: Worker) -> Number:
        total = float(worker.number)
        for _ in range(4):
            worker.broadcast(Number(total, np.full(large, total)))
            total += sum(said.value for said in (await worker.gather(Number)).values()) / 7
        return Number(total)

    return program


PARTS = mlp_parts((6, 8, 3), 1, learning_rate=0.1)
X = np.random.default_rng(0).normal(size=(3, 12, 6)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, (3, 12))


def share(client: ClientInfo) -> tuple[Any, Any]:
    return X[client.index], Y[client.index]


def records(party: ClientInfo) -> Records:
    known = np.random.default_rng(party.index).permutation(12)[:10]
    x = X[0][known][:, 2 * party.index : 2 * party.index + 2]
    return Records(known, x, Y[0][known] % 2 if party.index == 0 else None)


PROGRAMS: dict[str, tuple[Program, AnyTopology]] = {
    "sums": (program_of_sums(), complete(3)),
    "large sums": (program_of_sums(20_000), complete(3)),
    "gossip": (gossip(lambda i: {"w": X[i % 3]}, steps=3), ring(4)),
    "split": (split_learning(PARTS, share, rounds=2, batch_size=6), wheel(4)),
    "splitfed": (splitfed(PARTS, share, rounds=1, batch_size=6), hubs(2, 5)),
    "vertical": (
        vertical(
            logistic_parts([2, 2, 2], learning_rate=0.3),
            records,
            salt=b"agreed among the parties",
            epochs=2,
            batch_size=4,
        ),
        star(3),
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
async def test_parties_that_begin_anew_come_to_the_bits_of_one_process(name: str, tmp_path: Path) -> None:
    program, topology = PROGRAMS[name]
    rng = np.random.default_rng(len(name))
    deaths = [set(rng.integers(1, 12, 2).tolist()) for _ in range(topology.size)]
    async with table(tmp_path, topology.size) as at:
        results = await asyncio.gather(*(attend(at, n, program, topology, deaths[n]) for n in range(topology.size)))
        assert not at.failures
        assert len(at.conversation.ended) == topology.size
    assert results == [encode(each) for each in run(program, topology, over="process").results]


@pytest.mark.parametrize("damage", ["nothing", "a torn letter", "a changed letter", "everything"])
async def test_a_relay_that_is_restarted_and_has_lost_letters_is_told_them_again(damage: str, tmp_path: Path) -> None:
    program, topology = PROGRAMS["large sums"]
    async with table(tmp_path, 3) as at:
        parties = (attend(at, 0, program, topology, set()), attend(at, 1, program, topology, {5}),
                   attend(at, 2, program, topology, set(), stays_away=5))  # fmt: skip
        tasks = [asyncio.create_task(party) for party in parties]
        await at.until(lambda letters: letters.sent(0) >= 4)  # not all: the third party keeps the others from their end
        while not at.away:  # noqa: ASYNC110 - it has said what it says before that
            await asyncio.sleep(0)
        await at.conversation.aclose()
        _damage(tmp_path / "letters", damage)
        await at.open()
        at.away.clear()
        results = await asyncio.gather(*tasks)
        assert not at.failures
    assert results == [encode(each) for each in run(program, topology, over="process").results]


@pytest.mark.parametrize("damage", ["a torn letter", "a changed letter"])
async def test_a_letter_that_the_disk_changes_under_way_is_sent_again_by_who_runs_again(
    damage: str, tmp_path: Path
) -> None:
    program, topology = PROGRAMS["large sums"]
    async with table(tmp_path, 3) as at:
        first = asyncio.create_task(attend(at, 0, program, topology, set()))
        await at.until(lambda letters: letters.count((0, 1)) >= 1)
        _damage(tmp_path / "letters", damage)
        with pytest.raises(ConnectionFailedError, match=r"party 0 \(p0\) is to send it again"):
            [piece async for piece in at.conversation.receive("p1", Awaited(KEY, 0, 1, 0))]
        assert at.conversation.letters.count((0, 1)) == 0
        results = await asyncio.gather(first, *(attend(at, n, program, topology, set()) for n in (1, 2)))
        assert not at.failures
    assert results == [encode(each) for each in run(program, topology, over="process").results]


async def test_who_runs_again_is_not_blamed_for_what_the_disk_has_changed_of_a_letters_digest(tmp_path: Path) -> None:
    data = b"hello"
    async with table(tmp_path, 2) as at:
        await at.conversation.send("p0", letter(0, 1, 0, data), pieces(data))
        file = tmp_path / "letters" / "0-1.letters"
        file.write_bytes(bytes(40) + file.read_bytes()[40:])  # its head
        assert await at.conversation.send("p0", letter(0, 1, 0, data), pieces(data)) == 1
        assert await anext(at.conversation.receive("p1", Awaited(KEY, 0, 1, 0))) == data
        assert not at.failures


async def test_nobody_writes_before_what_was_said_is_read(tmp_path: Path) -> None:
    """A relay that is back would write its first letter over those that it has."""
    data = b"hello"
    async with table(tmp_path, 2) as at:
        await at.conversation.send("p0", letter(0, 1, 0, data), pieces(data))
        await at.conversation.aclose()
        opening = asyncio.create_task(at.open())
        await asyncio.sleep(0)
        with pytest.raises(ConnectionFailedError, match="what its parties have said is being read"):
            await at.conversation.send("p0", letter(0, 1, 0, data), pieces(data))
        await opening
        assert await at.conversation.send("p0", letter(0, 1, 0, data), pieces(data)) == 1


async def test_a_letter_that_the_disk_has_changed_after_its_sender_ended_is_named(tmp_path: Path) -> None:
    data = b"hello" * 1000
    async with table(tmp_path, 2) as at:
        await at.conversation.send("p0", letter(0, 1, 0, data), pieces(data))
        end = encode(End(np.zeros(2, np.int64), Arrays()))
        await at.conversation.send("p0", letter(0, 0, 0, end), pieces(end))
        (tmp_path / "letters" / "0-1.letters").write_bytes(b"")
        with pytest.raises(ConnectionFailedError):
            await anext(at.conversation.receive("p1", Awaited(KEY, 0, 1, 0)))
    assert "is not the one that was kept, and party 0 (p0), which wrote it, has ended" in str(at.failures[0])


LEARNER = hansa.App(NumpyTrainer(softmax_regression(6, 3), learning_rate=0.1, batch_size=6))
LEARNER.data(lambda client: (X[client.index % 3], Y[client.index % 3]))
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([client]) * 32) for client in range(4)]
SIGNING: dict[str, Any] = {
    "signers": [f"ed25519:{key.public_key().public_bytes_raw().hex()}" for key in KEYS],
    "signing_key": lambda client: (
        KEYS[client.index].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    ),
}
STEPS: dict[str, dict[int, Step]] = {
    "secagg": {1: "keys", 2: "shares", 3: "upload", 4: "recovery"},
    "lightsecagg": {1: "keys", 2: "shares", 4: "upload", 6: "recovery"},
}
"""Scheme → the letter before which a client goes in round 1 → its step that it does not do; lightsecagg is signed."""


@pytest.mark.parametrize(("scheme", "letter_before"), [(s, n) for s, steps in STEPS.items() for n in steps])
async def test_secure_averaging_goes_on_without_who_stays_away_as_without_who_has_said_so(
    scheme: Any, letter_before: int, tmp_path: Path
) -> None:
    """In any step; the server is run again twice meanwhile, and the relay restarted, and nothing is other."""
    given = SIGNING if scheme == "lightsecagg" else {}
    program = secure_fedavg(LEARNER, rounds=3, scheme=scheme, **given)
    leaves: dict[int, Step] = {1: STEPS[scheme][letter_before], 2: "keys", 3: "keys"}
    absent = secure_fedavg(LEARNER, rounds=3, scheme=scheme, absent=lambda c, r: leaves[r] if c == 1 else None, **given)
    async with table(tmp_path, 5) as at:
        dies = {0: {7, 19}}
        tasks = [
            asyncio.create_task(
                attend(at, n, program, star(5), dies.get(n, set()), stays_away=letter_before if n == 2 else None)
            )
            for n in range(5)
        ]
        await at.until(lambda letters: letters.count((0, 1)) >= 6)
        await at.conversation.aclose()
        await at.open()
        results = await asyncio.gather(*(tasks[n] for n in (0, 1, 3, 4)))
        expected = [encode(each) for each in run(absent, star(5), over="process").results]
        assert results == [expected[n] for n in (0, 1, 3, 4)]
        assert len(at.conversation.ended) == 4
        at.away.clear()  # it is back, when all is over, and learns how it has ended
        late = decode(await tasks[2])
        assert not at.failures
    assert late.model == decode(expected[1]).model


async def test_who_was_away_takes_part_again_once_it_is_back(tmp_path: Path) -> None:
    program = secure_fedavg(LEARNER, rounds=6)
    async with table(tmp_path, 5) as at:
        tasks = [
            asyncio.create_task(attend(at, n, program, star(5), set(), stays_away=3 if n == 2 else None))
            for n in range(5)
        ]
        await at.until(lambda letters: letters.count((0, 1)) >= 10)
        at.away.clear()
        results = [decode(each) for each in await asyncio.gather(*tasks)]
        assert not at.failures
    assert all(each.model == results[0].arrays for each in results[1:])
    assert len(results[2].losses) < len(results[1].losses) == 6


async def test_a_party_that_another_waits_for_whatever_happens_is_needed(tmp_path: Path) -> None:
    async with table(tmp_path, 3) as at:
        calls = [
            asyncio.create_task(anext(at.conversation.receive(f"p{n}", Awaited(KEY, 0, n, 0, dispensable=n == 1)), b""))
            for n in (1, 2)
        ]
        while len(at.conversation.waits) < 2:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0)
        assert at.conversation.needed((0, 1)) == [0]  # by party 2
        await at.conversation.go_without((0, 1))
        assert [at.conversation.letters.count((0, n)) for n in (1, 2)] == [1, 0]  # party 2 could not read it
        at.conversation.waits.pop(2)
        assert at.conversation.needed((0, 1)) == []  # party 2 may say yet what it can go on without
        assert at.conversation.needed((1, 2)) == []
        assert at.conversation.needed((0, 1, 2)) == [1, 2]  # nobody is left to say so of these
        for call in calls:
            call.cancel()


def test_who_has_ended_is_not_waited_for_again(tmp_path: Path) -> None:
    """What it said in a place that was given up is not there, and nobody runs it again: it would not come."""
    letters = Letters(tmp_path)
    letters.open()
    letters.go_without((1, 0), 0)
    letters.said_late((1, 0), 0)
    letters.append((1, 1), 3, blake3(b"end").hexdigest(), io.BytesIO(b"end"))
    letters.wait_again()
    assert letters.is_gone((1, 0), 0)


def test_a_place_that_is_waited_for_again_stays_so_when_a_power_cut_brings_an_older_file_back(tmp_path: Path) -> None:
    """Its sender would be blamed for a letter that is another than the one there."""
    letters = Letters(tmp_path)
    letters.open()
    letters.append((1, 0), 5, blake3(b"hello").hexdigest(), io.BytesIO(b"hello"))
    letters.go_without((1, 0), 0)
    before = (tmp_path / "1-0.letters").read_bytes()
    letters.wait_again()
    (tmp_path / "1-0.letters").write_bytes(before)
    letters.open()
    assert (letters.count((1, 0)), letters.size) == (1, 45)


async def test_a_letter_that_comes_while_it_is_given_up_is_late_and_its_sender_was_heard_meanwhile(
    tmp_path: Path,
) -> None:
    gate, data = asyncio.Event(), b"hello"

    async def slowly() -> AsyncIterator[tuple[int, memoryview]]:
        await gate.wait()
        async for piece in pieces(data):
            yield piece

    async with table(tmp_path, 2) as at:
        said = at.conversation
        sending = asyncio.create_task(said.send("p0", letter(0, 1, 0, data), slowly()))
        listening = asyncio.create_task(anext(said.receive("p1", Awaited(KEY, 0, 1, 0, dispensable=True))))
        while not said.waits:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0)
        await said.go_without({0})
        said.heard[0] -= 1000
        gate.set()
        assert await sending == 1
        assert await listening == GONE
        assert said.silence(0, asyncio.get_running_loop().time()) < 1000
        assert not at.failures


async def test_who_has_letters_on_their_way_goes_on_without_another_once_they_are_kept(tmp_path: Path) -> None:
    """Else it would not be known whether it has said more since, and a resumed session would not wait again."""
    data = b"hello"
    async with table(tmp_path, 3) as at:
        said = at.conversation
        awaited = Awaited(KEY, 0, 1, 0, sent=1, dispensable=True)
        listening = asyncio.create_task(anext(said.receive("p1", awaited)))
        while not said.waits:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0)
        said.changed.clear()
        await said.go_without({0})
        assert not said.letters.is_gone((0, 1), 0)
        assert await said.send("p1", letter(1, 2, 0, data), pieces(data)) == 1
        assert said.changed.is_set()
        await said.go_without({0})
        assert await listening == GONE
        said.letters.wait_again()
        assert not said.letters.is_gone((0, 1), 0)


async def test_a_letter_that_is_not_waited_for_any_more_is_so_after_a_restart_and_nobody_says_so_of_itself(
    tmp_path: Path,
) -> None:
    data = b"hello"
    async with table(tmp_path, 2) as at:
        listening = asyncio.create_task(anext(at.conversation.receive("p1", Awaited(KEY, 0, 1, 0, dispensable=True))))
        while not at.conversation.waits:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0)
        await at.conversation.go_without({0})
        assert await listening == GONE
        (tmp_path / "letters" / "0-1.letters").unlink()  # a power cut: only the note is synced
        await at.conversation.aclose()
        await at.open()
        assert at.conversation.needed({0}) == []
        assert await anext(at.conversation.receive("p1", Awaited(KEY, 0, 1, 0))) == GONE
        assert at.conversation.letters.sent(0) == 0  # it has said nothing yet
        assert await at.conversation.send("p0", letter(0, 1, 0, data), pieces(data)) == 1
        assert await at.conversation.send("p0", letter(0, 1, 1, data), pieces(data)) == 2
        assert at.conversation.letters.sent(0) == 2
        assert await anext(at.conversation.receive("p1", Awaited(KEY, 0, 1, 1))) == data
        with pytest.raises(WireError, match="that is for the server to say"):
            await at.conversation.send("p0", letter(0, 1, 2, GONE), pieces(GONE))


def _damage(folder: Path, how: str) -> None:
    (first, *_) = sorted(folder.glob("0-*.letters"))
    data = bytearray(first.read_bytes())
    match how:
        case "a torn letter":
            first.write_bytes(data[:-5])
        case "a changed letter":
            data[-5] ^= 1
            first.write_bytes(data)
        case "everything":
            shutil.rmtree(folder)
        case _:
            pass


class SlowWriting:
    """Letters of the relay are written by a thread that stands still before it is done."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        self._copy = shutil.copyfileobj
        patch.setattr(shutil, "copyfileobj", self)

    def __call__(self, *given: Any) -> None:
        self._copy(*given)
        self.begun.set()
        self.gate.wait()

    async def cancel(self, sending: asyncio.Task[int]) -> bool:
        """The sender is gone in the midst of it; returns whether its call waits for what it has begun."""
        await asyncio.to_thread(self.begun.wait)
        sending.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        waits = not sending.done()
        self.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await sending
        return waits


async def test_a_letter_whose_sender_is_gone_meanwhile_is_kept_once_and_handed_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is cancelled while a thread writes, and the sender, back again, sends the letter anew."""
    monkeypatch.setattr(conversation, "_PATIENCE", 1e6)  # who is not woken waits for ever
    slow, data = SlowWriting(monkeypatch), b"hello" * 1000
    async with table(tmp_path, 2) as at:
        listening = asyncio.create_task(anext(at.conversation.receive("p1", Awaited(KEY, 0, 1, 0))))
        waits = await slow.cancel(asyncio.create_task(at.conversation.send("p0", letter(0, 1, 0, data), pieces(data))))
        assert waits, "the next letter would be written into the same file"
        async with asyncio.timeout(20):
            assert await listening == data
        assert await at.conversation.send("p0", letter(0, 1, 0, data), pieces(data)) == 1
        kept = at.conversation.letters
        assert (kept.count((0, 1)), b"".join(kept.read((0, 1), 0))) == (1, data)


async def test_a_last_word_whose_party_is_gone_meanwhile_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says it again in a way that is heard: the relay has it already."""
    slow, data = SlowWriting(monkeypatch), encode(End(np.zeros(2, np.int64), Arrays()))
    async with table(tmp_path, 2) as at:
        await slow.cancel(asyncio.create_task(at.conversation.send("p0", letter(0, 0, 0, data), pieces(data))))
        assert set(at.conversation.ended) == {0}


def test_letters_are_counted_while_others_are_written(tmp_path: Path) -> None:
    """A thread writes the first letters of ever more pairs, and whoever counts meanwhile is not disturbed."""
    letters = Letters(tmp_path / "letters")
    letters.open()
    pairs, turn = 300, sys.getswitchinterval()
    text = b"hello"

    def write() -> None:
        for other in range(1, pairs + 1):
            letters.append((0, other), len(text), blake3(text).hexdigest(), io.BytesIO(text))

    sys.setswitchinterval(1e-6)
    try:
        writer = threading.Thread(target=write)
        writer.start()
        counts = []
        while writer.is_alive():
            counts.append(letters.sent(0))
        writer.join()
    finally:
        sys.setswitchinterval(turn)
    assert counts == sorted(counts)
    assert letters.sent(0) == pairs


async def failure(at: Table, program: Program, topology: AnyTopology) -> str:
    tasks = [asyncio.create_task(attend(at, n, program, topology, set())) for n in range(topology.size)]
    while not at.failures:  # noqa: ASYNC110 - the same
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return str(at.failures[0])


async def test_parties_that_all_wait_are_found_and_named(tmp_path: Path) -> None:
    async def program(worker: Worker) -> None:
        worker.send((worker.number + 1) % 3, Number(1.0))
        await worker.gather(Number)

    async with table(tmp_path, 3) as at:
        said = await failure(at, program, complete(3))
    assert said.startswith("a deadlock, in which all parties wait and nothing is on its way: party 0 (p0) waits for")


async def test_a_party_that_waits_for_one_that_has_ended_is_named(tmp_path: Path) -> None:
    async def program(worker: Worker) -> None:
        if worker.number == 1:
            await worker.receive(0, Number)

    async with table(tmp_path, 3) as at:
        said = await failure(at, program, complete(3))
    assert said == "party 1 (p1) waits for letter 0 of party 0 (p0), which has ended; send it what it waits for"


async def test_a_letter_that_is_not_read_is_an_error_that_names_both(tmp_path: Path) -> None:
    async def program(worker: Worker) -> None:
        if worker.number == 0:
            worker.send(1, Number(1.0))

    async with table(tmp_path, 2) as at:
        said = await failure(at, program, complete(2))
    assert said.startswith("party 1 (p1) ended without reading what party 0 (p0) sent it, said.number first")


async def test_a_program_that_computes_something_else_when_it_is_run_again_ends(tmp_path: Path) -> None:
    async with table(tmp_path, 2) as at:
        said = encode(Number(1.0))
        assert await at.conversation.send("p0", letter(0, 1, 0, said), pieces(said)) == 1
        assert await at.conversation.send("p0", letter(0, 1, 0, said), pieces(b"")) == 1  # not even looked at
        other = encode(Number(2.0))
        with pytest.raises(WireError, match="run again and sent party 1"):
            await at.conversation.send("p0", letter(0, 1, 0, other), pieces(other))
    assert "must compute the same whenever it is run" in str(at.failures[0])


REFUSED: list[tuple[str, Letter, bytes, type[Exception], str]] = [
    ("stranger", letter(0, 1, 0, b"abc"), b"abc", PermissionDeniedError, "stranger is not party 0"),
    ("p1", letter(0, 1, 0, b"abc"), b"abc", PermissionDeniedError, "p1 is not party 0"),
    ("p0", letter(0, 7, 0, b"abc"), b"abc", WireError, "has 2 parties"),
    ("p0", letter(0, 1, 1, b"abc"), b"abc", ConflictError, "from the beginning"),
    ("p0", letter(0, 1, 0, b"abc"), b"abcd", WireError, "a letter of 3 bytes"),
    ("p0", letter(0, 1, 0, b"abc"), b"ab", WireError, "2 have come"),
    ("p0", letter(0, 1, 0, b"abc"), b"abd", WireError, "or they are others"),
    ("p0", Letter(KEY, 0, 1, 0, Blob("0" * 64, MAX_LETTER + 1)), b"abc", WireError, "it may have 1 to"),
    ("p0", letter(0, 0, 0, b"abc"), b"abc", WireError, "no class is registered"),
    ("p0", letter(0, 0, 0, encode(Number(1.0))), encode(Number(1.0)), WireError, "says something else"),
]


async def test_what_is_no_letter_of_its_sender_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    async with table(tmp_path, 2) as at:
        for party, sent, data, error, match in REFUSED:
            with pytest.raises(error, match=match):
                await at.conversation.send(party, sent, pieces(data))
        assert at.conversation.letters.pairs() == ()
        assert at.conversation.ended == {}


async def test_nobody_hears_what_is_for_another(tmp_path: Path) -> None:
    async with table(tmp_path, 3) as at:
        await at.conversation.send("p0", letter(0, 1, 0, b"abc"), pieces(b"abc"))
        for party in ("p2", "stranger"):
            with pytest.raises(PermissionDeniedError, match="is not party 1"):
                await anext(at.conversation.receive(party, Awaited(KEY, 0, 1, 0)))
        assert await anext(at.conversation.receive("p1", Awaited(KEY, 0, 1, 0))) == b"abc"


async def test_letters_take_room_of_their_projects_quota_and_wait_for_it(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'hansa.db'}")
    await store.open()
    at = Table(tmp_path, 2, Quotas(store, Quota(storage=1000)))
    await at.open()
    with pytest.raises(ConnectionFailedError, match="quota of storage"):
        await at.conversation.send("p0", letter(0, 1, 0, b"abc"), pieces(b"abc"))
    assert "quota of storage" in at.conversation.away
    await store.close()
