"""A network is lost, and comes back from a back-up that was made while it ran."""

import asyncio
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from federation import PROJECT, Federation
from servers import PostgresServer, S3Server

from hansa.errors import ConflictError, CorruptionError, InputError
from hansa.evidence.stored import verify_session
from hansa.messages import RoundRules, RunSpec
from hansa.network.controller import backup as module
from hansa.network.controller.backup import create, restore
from hansa.network.controller.server import ControllerServer
from hansa.network.controller.stores import HALF_RESTORED, stores_of
from hansa.settings import GivenSettings
from hansa.simulation import simulate
from hansa.store.backups import Backups
from hansa.store.files import DirectoryObjects
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import ModelRecord, SessionRecord, SessionState

RULES = RoundRules(min_clients=2, quorum=2, deadline=100, lease=60)


@pytest.fixture(params=["sqlite and a directory", pytest.param("PostgreSQL and S3", marks=pytest.mark.slow)])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], dict[str, str]]:
    """Where rows and bytes are to be: empty places."""
    if request.param == "sqlite and a directory":
        return dict
    server: PostgresServer = request.getfixturevalue("postgres")
    service: S3Server = request.getfixturevalue("s3")
    return lambda: {
        "store": server.url(server.create_database()),
        "objects": service.url(bucket := service.create_bucket(), tmp_path / bucket),
    }


async def test_a_session_goes_on_elsewhere_after_the_last_round_of_a_back_up_that_was_made_while_it_ran(
    places: Callable[[], dict[str, str]], app: Path, tmp_path: Path
) -> None:
    here, there, safe = tmp_path / "here", tmp_path / "there", tmp_path / "safe"
    gate, lost, found = tmp_path / "gate", places(), places()
    spec = RunSpec(rounds=5, rules=RULES, config={"gate": str(gate)})
    async with Federation.open(here, **lost) as made:
        await made.clients(2)
        started = await made.start(app, spec)
        await made.until_round(started, 2)
        done = await create(GivenSettings(data=here / "controller", **lost), safe, keep=2)
        assert done.copied == done.objects > 0
        gate.touch()
        await made.until_round(started, 4)
        again = await create(GivenSettings(data=here / "controller", **lost), safe, keep=2)
        assert again.copied == again.objects - done.objects > 0

    settings = GivenSettings(data=there / "controller", **found)
    assert (await restore(settings, safe, done.name))[0] == done.name

    for client in ("client-0", "client-1"):
        shutil.copytree(here / client, there / client)  # nodes keep their keys
    async with Federation.open(there, **found) as made:
        await made.clients(2)
        session = await made.end(await made.controller.store.get(SessionRecord, PROJECT, started.id))
        rounds = await made.rounds(session)
        assert [(record.number, record.accepted) for record in rounds] == [(n, 2) for n in range(1, 6)]
        assert session.state is SessionState.FINISHED, session.cause
        checked = await verify_session(made.controller.store, made.controller.objects, PROJECT, session.id)
        assert (checked.rounds, checked.pruned, checked.sealed) == (5, 0, True)
    assert session.model == (await asyncio.to_thread(simulate, app, clients=2, spec=spec)).model_hash
    assert Backups(safe).check().damages == ()


@pytest.fixture
async def network(tmp_path: Path) -> "Network":
    return await Network.made(tmp_path)


class Network:
    """The folder of a server that has run, with one session's rows as a policy may prune them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = GivenSettings(data=folder / "data", grpc_port=0)
        self.safe = folder / "safe"

    @classmethod
    async def made(cls, folder: Path) -> "Network":
        self = cls(folder)
        await (await ControllerServer.open(self.settings)).aclose()
        async with self.opened() as (store, objects):
            for number in range(3):
                digest = await objects.put([b"model %d" % number])
                await store.put(ModelRecord(digest, "default", "", number, None, 7, 1.0))
        return self

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[MetadataStore, ObjectStore]]:
        store, objects = stores_of(self.settings)
        await store.open()
        yield store, objects
        await store.close()

    async def starts(self, *, adopt: bool = False, **changes: object) -> None:
        await (await ControllerServer.open(self.settings.model_copy(update=changes), adopt=adopt)).aclose()


async def test_secrets_are_the_owners_alone_in_a_back_up_and_after_it(network: Network) -> None:
    made = await create(network.settings, network.safe, keep=1)
    folder, again = network.safe / made.name, network.folder / "again"
    secrets = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    names = {"tokens.key", "authority.key", "authority.crt", "installation"}
    assert secrets == dict.fromkeys({"manifest.json", "database", *names}, 0o600)
    await restore(network.settings.model_copy(update={"data": again}), network.safe)
    assert {path.name for path in (again / "keys").iterdir()} == names
    assert [stat.S_IMODE(path.stat().st_mode) for path in (again, again / "keys")] == [0o700, 0o700]
    assert stat.S_IMODE((again / "hansa.db").stat().st_mode) == 0o600
    await network.starts(data=again)


async def test_what_is_pruned_while_objects_are_copied_is_not_missed(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = await pruning(network, monkeypatch, times=1)

    made = await create(network.settings, network.safe, keep=1)

    assert made.lost == ()
    manifest = Backups(network.safe).manifest(made.name)
    assert len(pruned) == 1
    assert not set(pruned) & set(manifest.objects)
    assert len(manifest.objects) == Backups(network.safe).check().objects == 4  # two, the new one, and whose they are


async def test_sessions_that_prune_faster_than_can_be_copied_are_told(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRIES", 3)
    await pruning(network, monkeypatch, times=99)
    with pytest.raises(ConflictError, match=r"prune their models faster.*'last 20'"):
        await create(network.settings, network.safe, keep=1)


async def pruning(network: Network, monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[str]:
    """Have a model pruned, as a controller does it, and another one made, before one is copied."""
    store, gone = stores_of(network.settings)[0], list[str]()

    class Pruned(DirectoryObjects):
        async def fetch(self, digest: str) -> Path:
            if len(gone) < times:
                await store.open()
                if (await store.list(ModelRecord, Query("default", {"id": digest}))).items:
                    new = await self.put([b"another %d" % len(gone)])
                    await store.put(ModelRecord(new, "default", "", 1, None, 9, 1.0))
                    await store.delete_upload(ModelRecord, "default", digest)
                    await self.delete(digest)
                    gone.append(digest)
                await store.close()
            return await super().fetch(digest)

    objects = Pruned(network.settings.data / "objects")
    monkeypatch.setattr(module, "stores_of", lambda settings: (stores_of(settings)[0], objects))
    return gone


async def test_an_object_that_the_server_has_lost_is_told_and_the_rest_is_backed_up_on_demand(network: Network) -> None:
    async with network.opened() as (_, objects):
        lost, damaged = [await objects.put([b"model %d" % number]) for number in (0, 1)]
        await objects.delete(lost)
        path = await objects.fetch(damaged)
        path.chmod(0o600)
        path.write_bytes(b"MODEL 1")

    with pytest.raises(CorruptionError, match=rf"2 of the objects .*{min(lost, damaged)}: nothing was backed up"):
        await create(network.settings, network.safe, keep=1)

    made = await create(network.settings, network.safe, keep=1, without_lost=True)
    assert set(made.lost) == {lost, damaged}
    assert made.objects == 2
    _, manifest = await restore(again(network), network.safe)
    assert manifest.lost == made.lost


async def test_objects_of_a_bucket_come_back_to_an_empty_one(s3: S3Server, tmp_path: Path) -> None:
    urls = [s3.url(bucket := s3.create_bucket(), tmp_path / bucket) for _ in "ab"]
    settings = [GivenSettings(data=tmp_path / name, grpc_port=0, objects=urls[name == "b"]) for name in "ab"]
    server = await ControllerServer.open(settings[0])
    package = (await server.controller.artifacts.add_archive("default", b"code", "code")).id
    await server.aclose()
    made = await create(settings[0], tmp_path / "safe", keep=1)
    _, manifest = await restore(settings[1], tmp_path / "safe")
    assert manifest.objects[package] == 4
    server = await ControllerServer.open(settings[1])
    assert {found.digest async for found in server.controller.objects.list()} == set(manifest.objects)
    assert made.copied == 2
    await server.aclose()


async def test_nothing_is_overwritten(network: Network) -> None:
    await create(network.settings, network.safe, keep=1)
    with pytest.raises(ConflictError, match=r"there is a database .*hansa\.db already"):
        await restore(network.settings, network.safe)
    (network.settings.data / "hansa.db").unlink()
    with pytest.raises(ConflictError, match=r"data is not empty: move it away"):
        await restore(network.settings, network.safe)
    elsewhere = again(network, objects=str(network.folder / "theirs"))
    await DirectoryObjects(network.folder / "theirs").put([b"another network's"])
    with pytest.raises(ConflictError, match="HANSA_OBJECTS has objects of another network"):
        await restore(elsewhere, network.safe)
    await restore(again(network, objects=str(network.settings.data / "objects")), network.safe)  # its own are welcome


async def test_half_a_restore_never_starts_and_says_what_it_is(network: Network) -> None:
    made = await create(network.settings, network.safe, keep=1)
    backups = Backups(network.safe)
    path = backups.objects.path(max(backups.manifest(made.name).objects))
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole.upper())

    with pytest.raises(CorruptionError, match=rf"{path.name} is damaged, and .*again half a restore"):
        await restore(again(network), network.safe)

    assert (network.folder / "again" / HALF_RESTORED).read_text() == f"{made.name} of {network.safe}\n"
    with pytest.raises(ConflictError, match=r"again is half a restore, which was broken off: remove the folder"):
        await network.starts(data=network.folder / "again")
    path.write_bytes(whole)
    with pytest.raises(ConflictError, match=r"again is half a restore"):
        await restore(again(network), network.safe)
    path.unlink()
    shutil.rmtree(network.folder / "again")
    with pytest.raises(CorruptionError, match=rf"cannot be restored: .*{path.name} is missing"):
        await restore(again(network), network.safe)
    assert not (network.folder / "again").exists()


async def test_a_place_that_cannot_be_one_is_refused(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is in the server's own folder"):
        await create(network.settings, network.settings.data / "safe", keep=1)
    with pytest.raises(InputError, match="there is no key in"):
        await create(GivenSettings(data=tmp_path / "nowhere"), network.safe, keep=1)
    await create(network.settings, network.safe, keep=1)
    elsewhere = again(network, store="postgresql://keeper@127.0.0.1:1/hansa")
    with pytest.raises(InputError, match=r"of a sqlite database, and .* HANSA_STORE would be a postgresql"):
        await restore(elsewhere, network.safe)


def again(network: Network, **changes: str) -> GivenSettings:
    """Another place for it."""
    return GivenSettings(data=network.folder / "again", grpc_port=0, **changes)
