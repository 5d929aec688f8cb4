"""A server's data to a back-up, while it runs, and from there to an empty place.

The database comes first, the objects after it. A round's objects are durable before its row, so a state of the database
names nothing that was never there; objects first, and the rounds that are committed meanwhile would lack theirs. What
can be gone is what was pruned between the two: its row was marked before its bytes went, so a newer state does not name
it. So the database is copied again until every object that it names is in the back-up; only what is new since the last
time is copied then. What two states name and the store had neither time is lost: nobody has pruned it.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

import hansa
from hansa.errors import ConflictError, CorruptionError, InputError, NotFoundError
from hansa.network.controller.installation import holds_any, mark_of, own_id
from hansa.network.controller.signing_keys import public_keys
from hansa.network.controller.stores import HALF_RESTORED, keys_of, names_of_stores, stores_of
from hansa.settings import Settings
from hansa.store.backups import DATABASE, KEYS, Backups, Manifest, part_of
from hansa.store.disk import explained, make_directory, sync_directory, whole_copy, write_whole
from hansa.store.ports import MetadataStore, ObjectStore, Portable

__all__ = ["Made", "create", "restore"]

_TRIES: Final = 10
"""States of the database that are copied before sessions are said to prune too fast."""
_SHOWN: Final = 3
"""Damages that are told."""


@dataclass(frozen=True, slots=True)
class Made:
    """A back-up that was made."""

    name: str
    objects: int
    bytes: int
    """Of all that belongs to it."""
    copied: int
    """Objects that no earlier back-up had."""
    copied_bytes: int
    lost: tuple[str, ...]
    """Objects that the database names and the server does not have."""
    removed: tuple[str, ...]
    """Earlier back-ups that are gone."""


async def create(settings: Settings, root: Path, *, keep: int, without_lost: bool = False) -> Made:
    """Back up what a server keeps by these settings, whether or not it runs; keep: the newest back-ups that stay.

    Raises `CorruptionError` where the server has lost an object that its database names, unless `without_lost`.
    """
    store, objects = stores_of(settings)
    portable, keys = _portable(store), keys_of(settings)
    await asyncio.to_thread(public_keys, keys)  # raises `InputError` where no server ever started
    _check_elsewhere(root, settings.data)
    backups = Backups(root)
    with backups.making() as folder:
        known = await asyncio.to_thread(backups.known)
        before = dict(known)
        named, lost = await _consistent(portable, folder / DATABASE, objects, backups, known)
        if lost and not without_lost:
            raise CorruptionError(
                f"{len(lost)} of the objects that the database names are lost or damaged in "
                f"{names_of_stores(settings)[1]}, the first is {min(lost)}: nothing was backed up. Check "
                "HANSA_OBJECTS, or copy them from an earlier back-up; with --without-lost the rest is backed up"
            )
        await asyncio.to_thread(_copy_keys, keys, folder / KEYS)
        files = {str(path.relative_to(folder)): part_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        objects_of = {digest: known[digest] for digest in sorted(named)}
        manifest = Manifest(time.time(), hansa.__version__, portable.engine, files, objects_of, tuple(sorted(lost)))
        name = await asyncio.to_thread(backups.settle, folder, manifest)
        removed = await backups.keep(keep)
    new = known.keys() - before.keys()
    copied = sum(known[digest] for digest in new)
    return Made(name, len(objects_of), manifest.size, len(new), copied, manifest.lost, tuple(removed))


async def restore(settings: Settings, root: Path, name: str | None = None) -> tuple[str, Manifest]:
    """Put a back-up, by default the newest, where these settings say that a server keeps its data; all must be empty.

    What is broken off is marked, and no server starts on it. Raises `ConflictError` where something is there already,
    `CorruptionError` where something of the back-up is not.
    """
    backups = Backups(root)
    name = name or (await asyncio.to_thread(backups.names))[-1]
    manifest = await asyncio.to_thread(backups.manifest, name)
    await asyncio.to_thread(_check_whole, backups, name, manifest)
    store, objects = stores_of(settings)
    portable, source, data = _portable(store), root / name, settings.data
    if portable.engine != manifest.engine:
        raise InputError(
            f"{name} is of a {manifest.engine} database, and {names_of_stores(settings)[0]} would be a "
            f"{portable.engine} one: set HANSA_STORE to an empty one of the same kind"
        )
    await portable.check_vacant()
    await _check_empty(settings, objects, own_id(source / KEYS))
    with explained("restore to", data):
        make_directory(data.parent)
        data.mkdir(mode=0o700, exist_ok=True)
        write_whole(data / HALF_RESTORED, f"{name} of {root}\n".encode())
    for digest in manifest.objects:
        if await objects.put_file(path := backups.objects.path(digest)) != digest:
            raise CorruptionError(f"{path} is damaged, and {data} half a restore: `hansa backup verify` tells more")
    await asyncio.to_thread(_copy_keys, source / KEYS, keys_of(settings))
    await portable.load(source / DATABASE)
    with explained("restore to", data):
        (data / HALF_RESTORED).unlink()
        sync_directory(data)
    return name, manifest


async def _consistent(
    store: Portable, file: Path, objects: ObjectStore, backups: Backups, known: dict[str, int]
) -> tuple[frozenset[str], frozenset[str]]:
    """Have a state of the database in the file, and in the back-up all that it names: (those, what is lost of them).

    known: digest → bytes of what is there already; what is copied is added.
    """
    before = frozenset[str]()
    for _ in range(_TRIES):
        named = await store.dump(file)
        gone = await _copy_objects(named - known.keys(), objects, backups, known)
        if gone <= before:
            return named - gone, gone
        before = gone
    raise ConflictError(
        "sessions prune their models faster than these can be copied: have them keep more rounds meanwhile (`hansa "
        "session keep SESSION 'last 20'`), or make the back-up elsewhere, or while the server is stopped"
    )


async def _copy_objects(
    digests: frozenset[str], objects: ObjectStore, backups: Backups, known: dict[str, int]
) -> frozenset[str]:
    """Copy them; returns those that are not there, or are damaged."""
    gone = set()
    for digest in sorted(digests):
        try:
            copied = await backups.objects.put_file(await objects.fetch(digest))
        except (NotFoundError, CorruptionError, InputError):  # the last: it went after it was found
            gone.add(digest)
        else:
            known[copied] = await backups.objects.size(copied)
    return frozenset(gone)


def _check_elsewhere(root: Path, data: Path) -> None:
    if root.resolve().is_relative_to(data.resolve()):
        raise InputError(f"{root} is in the server's own folder, and would be lost with it: name another place")


def _copy_keys(source: Path, target: Path) -> None:
    with explained("copy the keys to", target):
        target.mkdir(mode=0o700)
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix != ".part":
                whole_copy(path, target / path.name)


def _check_whole(backups: Backups, name: str, manifest: Manifest) -> None:
    """Before anything is written: are all files there, and is what is not an object what it was?"""
    found = backups.missing(name, manifest)
    if found:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise CorruptionError(f"{name} cannot be restored: {'; '.join(found[:_SHOWN])}{more}; take another back-up")


async def _check_empty(settings: Settings, objects: ObjectStore, installation: str) -> None:
    """Nothing is overwritten; a bucket may have objects of the same installation."""
    with explained("look into", settings.data):
        if settings.data.exists() and any(settings.data.iterdir()):
            raise ConflictError(f"{settings.data} is not empty: move it away, or name another folder with --data")
    if await holds_any(objects):
        try:
            await objects.size(blake3(mark_of(installation)).hexdigest())
        except NotFoundError as error:
            raise ConflictError(
                f"{names_of_stores(settings)[1]} has objects of another network: name an empty place for these"
            ) from error


def _portable(store: MetadataStore) -> Portable:
    if not isinstance(store, Portable):
        raise InputError(
            f"the store {type(store).__name__} cannot be copied by hansa: back it up with its own tools, then the "
            "objects and the folder `keys`"
        )
    return store
