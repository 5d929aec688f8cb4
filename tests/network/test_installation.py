"""No start mixes the parts of two networks, and none of an earlier version notices."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from hansa.errors import ConflictError
from hansa.network.controller.installation import mark_of, own_id
from hansa.network.controller.server import ControllerServer
from hansa.network.controller.signing_keys import forget_former_keys, public_keys, rotate_keys
from hansa.network.controller.stores import stores_of
from hansa.settings import GivenSettings
from hansa.store.migrations import downgrade
from hansa.store.ports import Query
from hansa.store.records import InstallationRecord


async def start(data: Path, *, adopt: bool = False, **given: object) -> None:
    await (await ControllerServer.open(GivenSettings(data=data, grpc_port=0, **given), adopt=adopt)).aclose()


async def row(data: Path) -> InstallationRecord:
    store, _ = stores_of(GivenSettings(data=data))
    await store.open()
    (found,) = (await store.list(InstallationRecord, Query(""))).items
    await store.close()
    return found


@pytest.fixture
async def ours(tmp_path: Path) -> Path:
    """The data of a network that has run."""
    await start(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
async def theirs(tmp_path: Path) -> Path:
    """Another's."""
    await start(tmp_path / "theirs")
    return tmp_path / "theirs"


async def test_database_keys_and_objects_say_the_same_from_the_first_start_on(ours: Path) -> None:
    first = await row(ours)
    assert first.id == own_id(ours / "keys")
    _, objects = stores_of(GivenSettings(data=ours))
    assert first.objects is not None
    assert (await objects.fetch(first.objects)).read_bytes() == mark_of(first.id)
    assert first.key == public_keys(ours / "keys")[0]

    rotate_keys(ours / "keys")
    forget_former_keys(ours / "keys")
    await start(ours)

    second = await row(ours)
    assert (second.id, second.created_at, second.objects) == (first.id, first.created_at, first.objects)
    assert second.key == public_keys(ours / "keys")[0] != first.key


async def test_an_empty_database_beside_objects_does_not_start_until_that_is_meant(ours: Path) -> None:
    (ours / "hansa.db").unlink()
    with pytest.raises(ConflictError, match=r"hansa\.db is empty, but .*has the objects of the network whose keys are"):
        await start(ours)
    shutil.rmtree(ours / "keys")
    with pytest.raises(ConflictError, match=r"the objects of a network that has run: its database is lost.*--adopt"):
        await start(ours)
    assert not (ours / "keys").exists()

    await start(ours, adopt=True)

    await start(ours)
    assert (await row(ours)).id == own_id(ours / "keys")


async def test_a_database_without_its_keys_or_with_those_of_another_does_not_start(ours: Path, theirs: Path) -> None:
    ids = own_id(ours / "keys"), own_id(theirs / "keys")
    (ours / "keys").rename(ours / "kept")
    with pytest.raises(ConflictError, match=r"ours/keys does not have its keys: its nodes and tokens would be refused"):
        await start(ours)
    assert not (ours / "keys").exists()
    shutil.copytree(theirs / "keys", ours / "keys")
    with pytest.raises(ConflictError, match=rf"of another installation \({ids[1]}\) than .*hansa\.db \({ids[0]}\)"):
        await start(ours)
    (ours / "keys" / "installation").unlink()  # as a version that did not know it has left them
    with pytest.raises(ConflictError, match=r"keys of another installation \(ed25519:"):
        await start(ours)

    shutil.copytree(ours / "kept", ours / "keys", dirs_exist_ok=True)
    (ours / "keys" / "installation").unlink()  # a second controller's copy, from before the first was upgraded
    await start(ours)
    assert own_id(ours / "keys") == ids[0]
    shutil.rmtree(ours / "keys")
    await start(ours, adopt=True)
    assert own_id(ours / "keys") == ids[0]


async def test_another_networks_objects_or_none_do_not_start(ours: Path, theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match=r"HANSA_OBJECTS has objects, but not those of the database .*ours"):
        await start(ours, objects=str(theirs / "objects"))
    with pytest.raises(ConflictError, match=r"HANSA_OBJECTS has no objects, and none of the database .*ours"):
        await start(ours, objects=str(tmp_path / "mistyped"))
    shutil.copytree(ours / "objects", tmp_path / "moved")
    await start(ours, objects=str(tmp_path / "moved"))
    await start(ours, objects=str(theirs / "objects"), adopt=True)
    await start(ours, objects=str(theirs / "objects"))


async def test_what_an_earlier_version_has_made_starts_as_it_did(ours: Path) -> None:
    before = await row(ours)
    engine = create_engine(f"sqlite:///{ours / 'hansa.db'}")
    with engine.begin() as connection:
        downgrade(connection, "0018")
        assert connection.execute(text("SELECT count(*) FROM projects")).scalar_one() == 1
    engine.dispose()
    (ours / "keys" / "installation").unlink()

    await start(ours)
    await start(ours)

    after = await row(ours)
    assert after.id == own_id(ours / "keys") != before.id
    assert after.objects not in {None, before.objects}
