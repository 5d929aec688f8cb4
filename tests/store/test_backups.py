"""The folder of back-ups: what is whole, what is not, and what goes."""

import json
import stat
from pathlib import Path

import pytest

from hansa.errors import ConflictError, CorruptionError, NotFoundError, StorageError
from hansa.store.backups import DATABASE, Backups, Manifest, part_of


@pytest.fixture
def backups(tmp_path: Path) -> Backups:
    return Backups(tmp_path / "safe")


async def made(backups: Backups, *objects: bytes, rows: bytes = b"rows") -> str:
    """One with these objects."""
    with backups.making() as folder:
        (folder / DATABASE).write_bytes(rows)
        sizes = {await backups.objects.put([data]): len(data) for data in objects}
        manifest = Manifest(1.5, "0.1", "sqlite", {DATABASE: part_of(folder / DATABASE)}, sizes)
        return backups.settle(folder, manifest)


async def test_later_ones_share_objects_and_only_what_no_kept_one_needs_goes(backups: Backups) -> None:
    first, second = await made(backups, b"a", b"b"), await made(backups, b"b", b"c")
    assert backups.names() == [first, second]
    assert sorted(backups.known().values()) == [1, 1, 1]

    assert await backups.keep(2) == []
    assert await backups.keep(1) == [first]

    assert backups.names() == [second]
    assert {found.digest async for found in backups.objects.list()} == set(backups.manifest(second).objects)
    checked = backups.check()
    assert (checked.backups, checked.objects, checked.bytes, checked.damages) == ((second,), 2, 6, ())


async def test_one_that_was_broken_off_is_none_and_is_removed_by_the_next(backups: Backups) -> None:
    with pytest.raises(NotFoundError, match=r"there is no back-up in .*safe$"):
        backups.names()
    whole = await made(backups, b"a")
    with backups.making() as folder:
        (folder / DATABASE).write_bytes(b"half")
        left = backups.root / "2026-01-01T000000.000Z.part"  # as a power cut leaves it
        left.mkdir()
        assert backups.check().unfinished == (left.name, folder.name)
    assert backups.names() == [whole]

    await made(backups, b"a")

    assert backups.unfinished() == ()
    (backups.root / whole).replace(left)
    (backups.root / backups.names()[0]).replace(backups.root / "2026-01-02T000000.000Z.part")
    with pytest.raises(NotFoundError, match=r"2026-01-01.*, 2026-01-02.* was broken off, or is being made"):
        backups.names()


def test_two_processes_do_not_make_one_at_a_time(backups: Backups) -> None:
    with backups.making(), pytest.raises(ConflictError, match="another process makes a back-up"), backups.making():
        pass


async def test_what_is_lost_cut_off_or_changed_is_named_each_by_its_path(backups: Backups) -> None:
    name = await made(backups, b"model", b"state", b"package", rows=b"many rows")
    paths = [backups.objects.path(digest) for digest in backups.manifest(name).objects]
    for path in paths:
        path.chmod(0o600)
    paths[0].unlink()
    paths[1].write_bytes(b"st")
    paths[2].write_bytes(b"PACKAGE")
    (backups.root / name / DATABASE).write_bytes(b"fewer rows")

    assert backups.check().damages == (
        f"{backups.root / name / DATABASE} is damaged: it has 10 bytes in place of 9",
        f"{paths[0]} is missing",
        f"{paths[1]} is truncated: it has 2 bytes in place of 5",
        f"{paths[2]} is damaged: its bytes have changed",
    )
    assert len(backups.missing(name, backups.manifest(name))) == 3  # what nobody has read yet is not known
    assert backups.known() == {paths[2].name: 7}


async def test_a_manifest_that_is_damaged_or_newer_is_told_and_nothing_that_it_may_need_is_removed(
    backups: Backups,
) -> None:
    first, second = await made(backups, b"a"), await made(backups, b"b")
    path = backups.root / second / "manifest.json"
    text = path.read_text()
    for damaged in (text[: len(text) // 2], text.replace("0.1", "0.2"), "[]", ""):
        path.write_text(damaged)
        with pytest.raises(CorruptionError, match=r"manifest\.json is damaged"):
            backups.manifest(second)
    with pytest.raises(CorruptionError):
        await backups.keep(1)
    assert backups.names() == [first, second]
    assert len(backups.check().damages) == 1
    path.write_text(json.dumps({"format": 2, "hansa": "9.0"}))
    with pytest.raises(StorageError, match=r"newer version of hansa \(9\.0\): upgrade"):
        backups.manifest(second)
    with pytest.raises(NotFoundError, match="there is no back-up yesterday"):
        backups.manifest("yesterday")


async def test_nobody_but_its_owner_reads_it_wherever_it_is(backups: Backups) -> None:
    backups.root.mkdir(mode=0o755)  # a disk that is mounted there
    name = await made(backups, b"a")
    folders = (backups.root / name, backups.objects.root)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
    assert stat.S_IMODE((backups.root / name / "manifest.json").stat().st_mode) == 0o600
