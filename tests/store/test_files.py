"""What the directory of objects promises beyond the port: corruption, crashes, full and forbidden disks."""

import asyncio
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from hansa.errors import CorruptionError, InputError, NotFoundError, StorageError, StorageUnavailableError
from hansa.store.disk import alone_in
from hansa.store.files import DirectoryObjects

BODY = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
def store(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "objects")


def files(store: DirectoryObjects) -> list[str]:
    """Every file below the root, the unfinished ones too."""
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def path_of(store: DirectoryObjects, digest: str) -> Path:
    return store.root / digest[:2] / digest[2:4] / digest


async def read(store: DirectoryObjects, digest: str, offset: int = 0) -> bytes:
    return b"".join([part async for part in store.read(digest, offset, 1 << 16)])


def flip_a_bit(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 1_500_000)


def empty(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 0)


async def test_an_object_lies_two_levels_deep_under_its_digest_and_nothing_else_is_left(store: DirectoryObjects):
    digest = await store.put([BODY])

    assert files(store) == [f"{digest[:2]}/{digest[2:4]}/{digest}"]
    assert path_of(store, digest).stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty])
async def test_a_damaged_object_is_refused_when_it_is_fetched_or_read(
    store: DirectoryObjects, damage: Callable[[Path], None]
):
    digest = await store.put([BODY])
    await store.fetch(digest)
    damage(path_of(store, digest))

    for reader in (store, DirectoryObjects(store.root)):
        for attempt in (reader.fetch(digest), read(reader, digest), reader.fetch(digest)):
            with pytest.raises(CorruptionError, match=digest):
                await attempt


async def test_the_last_chunk_of_a_damaged_object_is_withheld(store: DirectoryObjects):
    digest = await store.put([BODY])
    flip_a_bit(path_of(store, digest))
    reading = store.read(digest, chunk=1 << 20)

    assert len(await anext(reading)) == 1 << 20  # the first of two: the flipped bit is in it
    with pytest.raises(CorruptionError):
        await anext(reading)


async def test_storing_a_damaged_object_again_repairs_it(store: DirectoryObjects):
    digest = await store.put([BODY])
    flip_a_bit(path_of(store, digest))

    assert await store.put([BODY]) == digest

    assert await read(store, digest) == BODY


async def test_storing_a_whole_object_again_leaves_the_file_alone(store: DirectoryObjects):
    digest = await store.put([BODY])
    before = path_of(store, digest).stat()

    await store.put([BODY])

    after = path_of(store, digest).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_a_fetched_file_can_be_read_after_the_object_was_deleted(store: DirectoryObjects):
    digest = await store.put([BODY])

    with (await store.fetch(digest)).open("rb") as file:
        await store.delete(digest)
        assert file.read() == BODY


async def test_the_event_loop_goes_on_while_an_object_is_written(store: DirectoryObjects):
    turned = threading.Event()

    def parts() -> Iterator[bytes]:
        assert turned.wait(30), "the loop stood still while a part was awaited"
        yield b"x"

    writing = asyncio.create_task(store.put(parts()))
    await asyncio.sleep(0)
    turned.set()

    assert await writing == blake3(b"x").hexdigest()


async def test_what_a_crash_left_is_removed_before_the_next_write(store: DirectoryObjects):
    await store.put([b"first"])
    (store.root / "incoming" / "0123").write_bytes(b"half")
    again = DirectoryObjects(store.root)

    await again.put([b"second"])

    assert [path for path in files(store) if path.startswith("incoming")] == []
    assert len(files(store)) == 2


async def test_what_another_store_is_writing_is_not_taken_for_a_leftover(store: DirectoryObjects):
    half_way, cleaned = threading.Event(), threading.Event()

    def parts() -> Iterator[bytes]:
        yield b"half"
        half_way.set()
        assert cleaned.wait(30)
        yield b"whole"

    writing = asyncio.create_task(store.put(parts()))
    assert await asyncio.to_thread(half_way.wait, 30)
    DirectoryObjects(store.root).prepare()
    cleaned.set()

    assert await read(store, await writing) == b"halfwhole"


PROGRAM = """
import asyncio, os, resource, sys
from hansa.errors import StorageError
from hansa.store.files import DirectoryObjects

def parts():
    for i in range(64):
        yield bytes([i]) * (1 << 20)
        print(i, flush=True)

mode, root = sys.argv[1:]
if mode == "limited":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))
if mode == "stranger" and os.geteuid() == 0:
    asyncio.run(asyncio.to_thread(int))  # while modules can still be loaded
    os.seteuid(65534)
if mode == "memory":
    asyncio.run(DirectoryObjects(root).put([b"warm up"]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    asyncio.run(DirectoryObjects(root).put(parts()))
except StorageError as error:
    sys.exit(str(error))
if mode == "memory":
    print("grew", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def start(mode: str, root: Path, *under: str) -> subprocess.Popen[str]:
    command = [*under, sys.executable, "-c", PROGRAM, mode, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_writer_that_is_killed_leaves_no_object_and_its_leftover_is_removed(store: DirectoryObjects):
    with start("plain", store.root) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "20\n":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert [path for path in files(store) if not path.startswith("incoming")] == []
    assert len(files(store)) == 1

    store.prepare()

    assert files(store) == []


def test_a_file_that_grows_beyond_the_limit_of_the_system_is_explained_and_removed(store: DirectoryObjects):
    with start("limited", store.root) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "larger than the system allows" in errors
    assert files(store) == []


def test_an_object_is_written_in_bounded_memory(store: DirectoryObjects):
    with start("memory", store.root) as process:
        output, _ = process.communicate(timeout=60)

    grown = int(output.split()[-1])  # KiB, of 64 MiB written
    assert grown < 12 * 1024


@pytest.mark.skipif(
    not Path("/proc/self/mounts").exists() or os.geteuid() != 0, reason="mounts a small disk: root only"
)
async def test_a_full_disk_is_explained_and_what_was_stored_stays(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False)  # noqa: ASYNC221, S607  # before the test
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        store = DirectoryObjects(disk / "objects")
        kept = await store.put([BODY])
        with pytest.raises(StorageUnavailableError, match="the disk is full: free some space"):
            await store.put([BODY, b"more", BODY])
        assert await read(store, kept) == BODY
        assert len(files(store)) == 1
        await store.put([b"small"])
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: ASYNC221, S607  # nothing else runs
        with pytest.raises(StorageError, match="the disk is read-only") as caught:
            await store.put([b"more"])
        assert not isinstance(caught.value, StorageUnavailableError)
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: ASYNC221, S607  # after the test


def test_a_directory_that_may_not_be_written_is_explained(tmp_path: Path):
    tmp_path.chmod(0o500)

    with start("stranger", tmp_path / "objects") as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "permission denied: give this user the right to write there" in errors


async def test_a_root_below_a_file_is_explained(tmp_path: Path):
    (tmp_path / "file").write_text("")
    store = DirectoryObjects(tmp_path / "file" / "objects")

    with pytest.raises(StorageError, match="is a file, not a directory"):
        await store.put([b"x"])
    with pytest.raises(NotFoundError):
        await store.size("0" * 64)


async def test_a_directory_in_the_place_of_an_object_is_explained(store: DirectoryObjects):
    digest = await store.put([b"x"])
    path_of(store, digest).unlink()
    path_of(store, digest).mkdir()

    with pytest.raises(StorageError, match="directory"):
        await store.fetch(digest)


async def test_a_directory_cannot_be_stored_as_a_file(store: DirectoryObjects, tmp_path: Path):
    with pytest.raises(InputError, match="directory"):
        await store.put_file(tmp_path)
    assert files(store) == []


def test_a_disk_that_cannot_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError, match=f"cannot lock {tmp_path}: No locks available"), alone_in(tmp_path, "busy"):
        pass
