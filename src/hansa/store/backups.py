"""Back-ups of a server as a folder: what there was at some times, and the objects of all of them once.

    root/2026-11-28T204112.345Z/   one back-up, named by when it was made; it is there whole or not at all
        database                   what the metadata store has written of itself
        keys/…                     of the server's folder
        manifest.json              the digests of these files, and the objects that belong to them
    root/objects/ab/cd/…           as in `hansa.store.files`
    root/2026-11-28….part/         one that is being made, or was broken off

A later back-up adds a folder, and the objects that no earlier one has. Whatever a crash leaves, the earlier ones are
whole: objects go only when no manifest names them. The files and the folders are their owner's alone.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from hansa.errors import CorruptionError, HansaError, NotFoundError, StorageError
from hansa.store.disk import alone_in, explained, make_directory, sync_directory, write_whole
from hansa.store.files import DirectoryObjects

__all__ = ["DATABASE", "KEYS", "Backups", "Checked", "Manifest", "Part", "part_of"]

DATABASE: Final = "database"
KEYS: Final = "keys"
_MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_UNFINISHED: Final = ".part"


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a back-up."""

    size: int
    """Bytes."""
    digest: str
    """blake3."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What belongs to one back-up."""

    made_at: float
    """POSIX seconds."""
    hansa: str
    """The version that made it."""
    engine: str
    """Of the database, as `Portable` has it."""
    files: Mapping[str, Part]
    """By their path in the back-up's folder."""
    objects: Mapping[str, int]
    """Digest → bytes."""
    lost: tuple[str, ...] = ()
    """Objects that its database names, and that the server had lost already."""

    @property
    def size(self) -> int:
        """Bytes of all that belongs to it."""
        return sum(part.size for part in self.files.values()) + sum(self.objects.values())


@dataclass(frozen=True, slots=True)
class Checked:
    """What reading every byte has shown."""

    backups: tuple[str, ...]
    objects: int
    bytes: int
    damages: tuple[str, ...]
    """A sentence for each file that is lost or changed."""
    unfinished: tuple[str, ...]
    """Those that were broken off, or are being made: they are none."""


class Backups:
    """Those in the folder `root`. Blocking, but for `objects`: called in threads."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self.objects: Final = DirectoryObjects(root / "objects")
        """Of all of them."""

    def names(self) -> list[str]:
        """The oldest first; raise `NotFoundError` when there is none."""
        with explained("look into", self.root):
            there = {path.parent.name for path in self.root.glob(f"*/{_MANIFEST}")}
        found = sorted(there - set(self.unfinished()))
        if not found:
            begun = ", ".join(self.unfinished())
            raise NotFoundError(
                f"there is no back-up in {self.root}"
                + (f": {begun} was broken off, or is being made; make another" if begun else "")
            )
        return found

    def unfinished(self) -> tuple[str, ...]:
        """Those that were broken off, or are being made."""
        return tuple(sorted(path.name for path in self.root.glob(f"*{_UNFINISHED}")))

    def manifest(self, name: str) -> Manifest:
        """Of a back-up; raise `CorruptionError` when it is damaged, `StorageError` when a newer version has made it."""
        path = self.root / name / _MANIFEST
        try:
            document = json.loads(path.read_bytes())
            if document["format"] > _FORMAT:
                raise StorageError(f"{path} is of a newer version of hansa ({document['hansa']}): upgrade this one")
            if document.pop("digest") != _digest_of(document):
                raise CorruptionError(f"{path} is damaged, it is not what was written: go back to another back-up")
        except FileNotFoundError as error:
            known = ", ".join(self.names())
            raise NotFoundError(f"there is no back-up {name} in {self.root}: there is {known}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptionError(f"{path} is damaged or truncated ({error}): go back to another back-up") from error
        del document["format"]
        files = {path: Part(**part) for path, part in document.pop("files").items()}
        return Manifest(files=files, lost=tuple(document.pop("lost")), **document)

    @contextmanager
    def making(self) -> Iterator[Path]:
        """A folder for the files of another one, which `settle` makes a back-up of; else nothing is left of it.

        Raise `ConflictError` while another process makes one.
        """
        with explained("make a back-up in", self.root), ExitStack() as undo:
            make_directory(self.root.parent)
            for folder in (self.root, self.objects.root):
                folder.mkdir(mode=0o700, exist_ok=True)
            busy = f"another process makes a back-up in {self.root}: wait until it ends"
            undo.enter_context(alone_in(self.root, busy))
            for left in self.unfinished():
                shutil.rmtree(self.root / left)
            folder = self.root / f"{_name(time.time())}{_UNFINISHED}"
            folder.mkdir(mode=0o700)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder

    def settle(self, folder: Path, manifest: Manifest) -> str:
        """Make a back-up of what is in the folder, and return its name."""
        with explained("write", folder):
            document = {"format": _FORMAT, **asdict(manifest)}
            text = json.dumps(document | {"digest": _digest_of(document)}, indent=1)
            write_whole(folder / _MANIFEST, text.encode())
            name = folder.name.removesuffix(_UNFINISHED)
            folder.replace(self.root / name)
            sync_directory(self.root)
        return name

    def known(self) -> dict[str, int]:
        """Digest → bytes of each object that is there as a manifest that can be read says."""
        sizes: dict[str, int] = {}
        for path in self.root.glob(f"*/{_MANIFEST}"):
            with suppress(HansaError):
                sizes |= self.manifest(path.parent.name).objects
        return {digest: size for digest, size in sizes.items() if _size_of(self.objects.path(digest)) == size}

    async def keep(self, number: int) -> list[str]:
        """Remove all but the newest ones, then what belongs to none; returns those that are gone.

        Raise what `manifest` raises: while one of them cannot be read, nobody knows what it needs.
        """
        names = self.names()
        gone, needed = names[:-number], set[str]()
        for name in names[len(gone) :]:
            needed |= self.manifest(name).objects.keys()
        for name in gone:
            with explained("remove", self.root / name):
                left = (self.root / name).replace(self.root / f"{name}{_UNFINISHED}")  # at once it is none any more
                shutil.rmtree(left)
        async for found in self.objects.list():
            if found.digest not in needed:
                await self.objects.delete(found.digest)
        return gone

    def missing(self, name: str, manifest: Manifest) -> list[str]:
        """What is not there of a back-up, or has changed; of objects, which whoever reads them checks, by size."""
        found = [_damage(self.root / name / path, part.size, part.digest) for path, part in manifest.files.items()]
        found += [_damage(self.objects.path(digest), size, None) for digest, size in manifest.objects.items()]
        return [damage for damage in found if damage]

    def check(self) -> Checked:
        """Read every byte of all of them."""
        names, objects, damages, total = self.names(), dict[str, int](), list[str](), 0
        for name in names:
            try:
                manifest = self.manifest(name)
            except StorageError as error:
                damages.append(str(error))
                continue
            objects |= manifest.objects
            for path, part in manifest.files.items():
                damages += filter(None, [_damage(self.root / name / path, part.size, part.digest)])
                total += part.size
        for digest, size in objects.items():
            damages += filter(None, [_damage(self.objects.path(digest), size, digest)])
        return Checked(tuple(names), len(objects), total + sum(objects.values()), tuple(damages), self.unfinished())


def part_of(path: Path) -> Part:
    """What a manifest says of a file."""
    with path.open("rb") as file:
        hasher = blake3()
        while block := file.read(1 << 20):
            hasher.update(block)
        return Part(file.tell(), hasher.hexdigest())


def _damage(path: Path, size: int, digest: str | None) -> str:
    """What is wrong with a file; empty: nothing is. digest: None where it is not read."""
    actual = _size_of(path)
    if actual is None:
        return f"{path} is missing"
    if actual != size:
        return f"{path} is {'truncated' if actual < size else 'damaged'}: it has {actual:,} bytes in place of {size:,}"
    if digest is not None and part_of(path).digest != digest:
        return f"{path} is damaged: its bytes have changed"
    return ""


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _name(at: float) -> str:
    """Of a back-up that is made at this time: names sort as times do."""
    return f"{time.strftime('%Y-%m-%dT%H%M%S', time.gmtime(at))}.{int(at % 1 * 1000):03d}Z"


def _digest_of(document: Mapping[str, Any]) -> str:
    return blake3(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
