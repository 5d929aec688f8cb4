"""Which network a database, a folder of keys and an object store are of, so that no start mixes those of two.

An installation has an id, made up by the first start that finds none: a row of the database, a file beside the keys,
and an object that says it. Where they disagree, or the database is new and the objects are not, a start is refused and
nothing is changed. What an earlier version has made says nothing of it, and is taken as it is.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Final

import structlog
from blake3 import blake3

from hansa.errors import ConflictError, InputError, NotFoundError, StorageUnavailableError
from hansa.network.controller.signing_keys import SigningKeys, public_keys
from hansa.store.disk import explained, write_whole
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import INSTALLATION, InstallationRecord, ProjectRecord
from hansa.wire import tokens

__all__ = ["Belongings", "holds_any", "mark_of", "own_id"]

_log = structlog.get_logger(__name__)

_FILE: Final = "installation"
_ON_PURPOSE: Final = "If they are to be one network from now on, start once with --adopt"


def own_id(keys: Path) -> str:
    """The installation that a folder of keys is of; empty: it does not say it."""
    with explained("read", keys / _FILE), suppress(FileNotFoundError):
        return (keys / _FILE).read_text().strip()
    return ""


def mark_of(installation: str) -> bytes:
    """The object that says whose the objects are."""
    return f"The objects of the hansa installation {installation}.\n".encode()


async def holds_any(objects: ObjectStore) -> bool:
    """Whether there is an object at all."""
    async for _ in objects.list():
        return True
    return False


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a controller finds when it starts."""

    store: MetadataStore
    objects: ObjectStore
    keys: Path
    names: tuple[str, str]
    """Where the database and the objects are, for people."""
    adopt: bool = False
    """Whether what disagrees is one installation from now on."""

    async def check(self) -> bool | None:
        """Whether the objects say that they are of this installation; None: they are away.

        Raise `ConflictError` for what is not of one installation, `StorageError` for a bucket that is not there or not
        ours. Nothing is changed.
        """
        row, new = await self._known()
        try:
            return await self._check_objects(row, new=new)
        except StorageUnavailableError as error:
            _log.warning("the object store is away; sessions wait for it", why=str(error))
            return None

    async def claim(self, keys: SigningKeys, *, said: bool | None) -> None:
        """Have all three say the same. For who leads: another one may have done it since this one looked.

        said: what `check` has returned.
        """
        (before, _), key = await self._known(), tokens.public_keys_in_hex(keys.public)[0]
        row = before or InstallationRecord(own_id(self.keys) or token_hex(16), INSTALLATION, key, time.time())
        if own_id(self.keys) != row.id:
            with explained("write", self.keys / _FILE):
                write_whole(self.keys / _FILE, f"{row.id}\n".encode())
        mark = row.objects
        if said is False or (said and mark is None):
            mark = await self.objects.put([mark_of(row.id)])
        if (now := replace(row, key=key, objects=mark)) != before:
            await self.store.put(now)

    async def _known(self) -> tuple[InstallationRecord | None, bool]:
        """(the database's row, whether the database is empty); raises what `check` does of the keys."""
        row = next(iter((await self.store.list(InstallationRecord, Query(INSTALLATION, limit=1))).items), None)
        new = row is None and not (await self.store.list(ProjectRecord, Query("", limit=1))).items
        if not new and not self.adopt:
            self._check_keys(row)
        return row, new

    def _check_keys(self, row: InstallationRecord | None) -> None:
        database, own = self.names[0], own_id(self.keys)
        there = f"Put the folder `keys` there that goes with it: of a back-up, or of another controller. {_ON_PURPOSE}"
        try:
            known = public_keys(self.keys)
        except InputError as error:
            raise ConflictError(
                f"{database} is of a network that has run already, and {self.keys} does not have its keys: its nodes "
                f"and tokens would be refused. {there}: nodes and people then need new tokens"
            ) from error
        if row is not None and own != row.id and (own or row.key not in known):
            raise ConflictError(
                f"{self.keys} has the keys of another installation ({own or known[0]}) than {database} ({row.id}). "
                f"{there}"
            )

    async def _check_objects(self, row: InstallationRecord | None, *, new: bool) -> bool:
        database, place = self.names
        ours = row.id if row is not None else own_id(self.keys)
        said = bool(ours) and await self._say(ours)
        some = said or await holds_any(self.objects)
        if new and some and not self.adopt:
            whose = "the network whose keys are here" if said else "a network that has run"
            raise ConflictError(
                f"{database} is empty, but {place} has the objects of {whose}: its database is lost, or elsewhere. "
                "Correct HANSA_STORE or the data folder, or restore a back-up to another folder (`hansa backup "
                "restore`). If nobody needs those objects, begin a new network beside them: start once with --adopt, "
                "and `hansa prune` removes them later"
            )
        if row is not None and row.objects is not None and not said and not self.adopt:
            raise ConflictError(
                f"{place} has {'objects, but not those' if some else 'no objects, and none'} of {database} "
                f"(installation {row.id}): correct HANSA_OBJECTS or the data folder, or restore a back-up to another "
                f"folder (`hansa backup restore`). {_ON_PURPOSE}"
            )
        return said

    async def _say(self, installation: str) -> bool:
        """Whether the objects are of this installation."""
        try:
            await self.objects.size(blake3(mark_of(installation)).hexdigest())
        except NotFoundError:
            return False
        return True
