"""An app's own evaluation beside the server, in a worker process of its own for each package."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from hansa.errors import HansaError, InputError
from hansa.messages import ClientInfo, Metrics
from hansa.network.client.benches import Benches
from hansa.network.client.code import Code
from hansa.network.client.confinement import Confinement
from hansa.network.client.workshop import Workshop
from hansa.network.files import created
from hansa.packages.package import SUFFIX
from hansa.store.disk import write_whole
from hansa.store.ports import ObjectStore
from hansa.store.records import SessionRecord
from hansa.wire.frames import CENTRAL, Blob, Evaluated, OpenRound, RoundKey

__all__ = ["CentralEvaluation"]

_log = structlog.get_logger(__name__)

_LEASE: Final = 600.0
"""Seconds that it may be silent, at least: nobody else could do it."""


_COPIED: Final = 1 << 20
"""Bytes copied at once."""


class CentralEvaluation:
    """Runs what sessions' packages have as their central evaluation."""

    def __init__(self, objects: ObjectStore, confinement: Confinement, data: Path | None = None) -> None:
        """objects: where packages and models are; confinement: of the apps; data: a folder that they may read."""
        self._objects = objects
        self.confinement = confinement
        self.here = ClientInfo(CENTRAL, settings={} if data is None else {"data": str(data)})
        """Who apps are here."""
        self._benches = Benches(self._workshop)
        self._unpacking = asyncio.Lock()
        self._scratch = tempfile.TemporaryDirectory(prefix="hansa-controller-")

    async def evaluate(self, session: SessionRecord, key: RoundKey, blob: Blob) -> Metrics:
        """What the app says of a model; raises `HansaError`."""
        if session.package is None:
            raise InputError("a central evaluation needs the session's package")
        code = await self.code(session.package)
        path = await self._objects.fetch(blob.digest)
        rules = replace(session.spec.rules, lease=max(session.spec.rules.lease, _LEASE))
        opened = OpenRound(key, replace(session.spec, rules=rules), blob, (CENTRAL,))
        seen = self._place(session.package) / "objects" / blob.digest
        async with self._benches.at(code, _print_line) as workshop:
            try:
                await asyncio.to_thread(_copy, path, seen)  # to the stored one user code could write
                answer = await workshop.work(opened, lambda _frame: None)
            finally:
                seen.unlink(missing_ok=True)
        if not isinstance(answer, Evaluated):
            raise HansaError("central_evaluate() of the app gave no metrics")
        return Metrics(answer.metrics, answer.num_examples)

    async def aclose(self) -> None:
        """End the worker processes, and delete their folders."""
        await self._benches.aclose()
        self._scratch.cleanup()

    async def code(self, package: str) -> Code:
        """A package, here."""
        async with self._unpacking:
            place = self._place(package)
            code = Code(place / f"app{SUFFIX}", package)
            if not code.path.exists():
                chunks = [chunk async for chunk in self._objects.read(package)]
                (place / "objects").mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(write_whole, code.path, b"".join(chunks))
            return code

    def folder(self, name: str) -> Path:
        """A new folder of this name, with one of objects in it."""
        place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._scratch.name))
        (place / "objects").mkdir()
        return place

    def _workshop(self, code: Code, on_line: Callable[[str], None]) -> Workshop:
        return Workshop(code, self.here, self._place(code.package) / "objects", on_line, self.confinement)

    def _place(self, package: str) -> Path:
        """The folder in which a package is at work."""
        return Path(self._scratch.name) / package


def _copy(path: Path, seen: Path) -> None:
    with path.open("rb") as source, created(seen) as target:
        shutil.copyfileobj(source, target, _COPIED)


def _print_line(line: str) -> None:
    _log.info("the app printed", client=CENTRAL, line=line)
