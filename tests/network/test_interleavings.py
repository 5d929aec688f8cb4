"""What two callers do at once to one thing, in the order in which it would go wrong: stores that wait where told."""

import asyncio
import errno
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from blake3 import blake3
from dst.store import Database, MemoryStore
from nodes import access_token

from hansa.api.apps import Apps
from hansa.compat.fedn.gateway import Gateway, Weak
from hansa.experiments.sessions import SimulatedSession
from hansa.messages import RoundRules, RunSpec
from hansa.network.client import library
from hansa.network.client.library import Library
from hansa.network.controller.audit import SERVER
from hansa.network.controller.controller import Controller
from hansa.network.controller.conversation import Room
from hansa.network.controller.letters import Letters
from hansa.network.controller.quotas import Quota, QuotaKind, Quotas
from hansa.network.controller.signing_keys import SigningKeys
from hansa.packages.package import build, read
from hansa.simulation import RoundRecord as SimulatedRound
from hansa.store.opening import open_objects
from hansa.store.ports import RoundCommit
from hansa.store.records import ClientRecord, ProjectRecord, Record, RoundRecord, SessionRecord, SessionState
from hansa.wire import tokens
from hansa.wire.frames import ROOT, Blob, Presence, Present
from hansa.wire.tls import WORLD

HEART = "heart"
KEY = tokens.new_key()


class Waiting(MemoryStore):
    """A store that holds back the first write, or read, of rows that are described to it."""

    def __init__(self) -> None:
        super().__init__(Database())
        self.holds: Callable[[Record], bool] = lambda _: False
        self.met, self.go = asyncio.Event(), asyncio.Event()

    async def put(self, *records: Record) -> None:
        await self._held(*records)
        await super().put(*records)

    async def commit_round(self, commit: RoundCommit) -> None:
        await super().commit_round(commit)
        await self._held(commit.round)

    async def get(self, kind: type, project: str, key: str) -> Record:  # type: ignore[override]
        found: Record = await super().get(kind, project, key)
        await self._held(found)
        return found

    async def _held(self, *records: Record) -> None:
        if not self.met.is_set() and any(map(self.holds, records)):
            self.met.set()
            await self.go.wait()


async def all_that_can() -> None:
    """Everybody goes on until they wait for something: nothing here takes time."""
    for _ in range(1000):
        await asyncio.sleep(0)


@pytest.fixture
async def store() -> AsyncIterator[Waiting]:
    made = Waiting()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def controller(store: Waiting, tmp_path: Path) -> AsyncIterator[Controller]:
    made = Controller(
        store, open_objects(str(tmp_path / "objects")), SigningKeys(KEY), address="127.0.0.1:1", spool=tmp_path
    )
    await made.create_project(HEART)
    yield made
    await made.aclose()


async def test_who_comes_while_a_controller_opens_is_not_stored_as_absent(
    store: Waiting, controller: Controller
) -> None:
    identity = tokens.verify(controller.public_key, await access_token(controller, HEART, "ward"))
    await store.put(ClientRecord(f"{HEART}/ward", HEART, "ward", ROOT, connected=True, first_seen=0, last_seen=0))
    store.holds = lambda row: isinstance(row, ClientRecord) and not row.connected
    opening = asyncio.create_task(controller.open())
    await store.met.wait()
    controller.tree(HEART).send(Presence((Present("ward", {}, ROOT, identity.token_id),)))
    await all_that_can()
    store.go.set()
    await opening
    await all_that_can()
    assert (await store.get(ClientRecord, HEART, f"{HEART}/ward")).connected


async def test_a_program_that_ends_while_its_policy_is_changed_has_ended(
    store: Waiting, controller: Controller
) -> None:
    await controller.open()
    spec = RunSpec(parties=("a", "b"), rules=RoundRules(deadline=1000))
    session = await controller.sessions.create(HEART, spec, seed_model=None)
    await controller.sessions.start(HEART, session.id)
    store.holds = lambda row: isinstance(row, SessionRecord) and row.keep is not None
    keeping = asyncio.create_task(controller.sessions.keep(HEART, session.id, "last 3"))
    await store.met.wait()
    stopping = asyncio.create_task(controller.sessions.stop(HEART, session.id, "ann"))
    while (await controller.sessions.why(HEART, session.id))[0] is None and not stopping.done():  # noqa: ASYNC110 - a thread reads what was said before
        await asyncio.sleep(0)
    await all_that_can()
    store.go.set()
    await asyncio.gather(keeping, stopping)
    ended = await store.get(SessionRecord, HEART, session.id)
    assert (ended.state, ended.keep) == (SessionState.STOPPED, "last 3")


async def test_a_quota_that_is_changed_while_it_is_read_is_the_new_one_from_then_on(store: Waiting) -> None:
    quotas = Quotas(store)
    await store.put(ProjectRecord(HEART, HEART, 0.0, max_clients=1))
    store.holds = lambda row: isinstance(row, ProjectRecord)
    reading = asyncio.create_task(quotas.of(HEART))
    await store.met.wait()
    await quotas.change(HEART, {QuotaKind.CLIENTS: 2}, "root")
    store.go.set()
    assert (await reading).clients == 1  # as it was
    assert (await quotas.of(HEART)).clients == 2


async def test_room_for_letters_that_comes_after_the_program_has_ended_is_given_back(store: Waiting) -> None:
    await store.put(ProjectRecord(HEART, HEART, 0.0))
    quotas = Quotas(store, Quota(storage=100 << 20))
    room = Room(quotas, HEART)
    store.holds = lambda row: isinstance(row, ProjectRecord)
    needing = asyncio.create_task(room.need(70 << 20))
    await store.met.wait()
    room.release()
    store.go.set()
    await needing
    await quotas.reserve(HEART, 90 << 20)


async def test_letters_that_are_read_again_count_once(tmp_path: Path) -> None:
    """A relay asks for room after it has read them, and reads them again until there is."""
    letters = Letters(tmp_path)
    letters.open()
    with (tmp_path / "letter").open("w+b") as file:
        file.write(b"hello")
        letters.append((0, 1), 5, blake3(b"hello").hexdigest(), file)
    again = Letters(tmp_path)
    again.open()
    again.open()
    assert again.size == letters.size > 0


async def test_an_environment_is_built_once_where_the_first_round_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on when its round is over: a second one would remove what the first has built so far."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "app.py").write_text("")
    (tmp_path / "source" / "requirements.lock").write_text(f"hansatic==1.0 --hash=sha256:{0:064}\n")
    data = build(tmp_path / "source")
    package, begun, goes_on, built = Blob(read(data).id, len(data)), threading.Event(), threading.Event(), []

    def building(_lock: bytes, folder: Path) -> Path:
        built.append(folder)
        begun.set()
        goes_on.wait()
        return folder

    async def download(_blob: Blob, target: Path) -> Path:
        await asyncio.to_thread(target.write_bytes, data)
        return target

    monkeypatch.setattr(library, "environment_with", building)
    made = Library(tmp_path / "work", download)
    first = asyncio.create_task(made.find(package))
    await asyncio.to_thread(begun.wait)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(made.find(package))
    await all_that_can()
    goes_on.set()
    code = await second
    assert code.environment == tmp_path / "work" / "environments"
    assert code == await made.find(package)
    assert len(built) == 1


async def test_a_simulation_that_is_stopped_while_its_round_is_stored_has_that_round(
    store: Waiting, tmp_path: Path
) -> None:
    await store.put(ProjectRecord(HEART, HEART, 0.0))
    begun = await SimulatedSession.begin(
        store, open_objects(str(tmp_path)), session="s", project=HEART, spec=RunSpec(), clients=1, engine="test", at=0.0
    )
    store.holds = lambda row: isinstance(row, RoundRecord)
    first = asyncio.create_task(begun.round(SimulatedRound(1, "0" * 64), 1.0))
    await store.met.wait()
    first.cancel()
    await all_that_can()
    store.go.set()
    await asyncio.wait([first])
    await begun.end(SessionState.STOPPED, "stopped by ann", 2.0)
    ended = await store.get(SessionRecord, HEART, "s")
    assert (ended.state, ended.round, ended.model) == (SessionState.STOPPED, 1, "0" * 64)


async def test_a_simulation_that_finds_no_room_for_its_folder_has_failed(
    store: Waiting, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    apps = Apps(controller)
    package = await apps.example(HEART, SERVER)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    session = await apps.simulate(HEART, package.id, RunSpec(), 1, SERVER)
    while apps.simulates(HEART, session.id):  # noqa: ASYNC110 - a thread reads the package
        await asyncio.sleep(0)
    ended = await store.get(SessionRecord, HEART, session.id)
    assert (ended.state, "No space left" in ended.cause) == (SessionState.FAILED, True)


async def test_a_client_of_fedn_that_is_added_again_while_it_is_deleted_is_there(
    controller: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(work: Callable[..., object], *given: object, **options: object) -> object:
        return work(*given, **options)

    gateway = Gateway(controller, HEART, tmp_path / "fedn", join="tcp://127.0.0.1:1", trust=WORLD, weak=Weak.JOINING)
    await gateway.add("c1", "ward", "")
    monkeypatch.setattr(asyncio, "to_thread", at_once)
    async with controller.nodes._changing:  # where its node is revoked
        deleting = asyncio.create_task(gateway.forget("c1"))
        await all_that_can()
        adding = asyncio.create_task(gateway.add("c1", "ward", ""))
        await all_that_can()
    await asyncio.gather(deleting, adding)
    assert [member.client_id for member in gateway._remembered()] == ["c1"]
