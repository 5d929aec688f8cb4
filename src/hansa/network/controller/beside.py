"""A party beside the server: the app's program in a worker process here, for example the top of split learning."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path

import structlog

from hansa.errors import ConflictError, InputError
from hansa.network.client.correspondence import Correspondence
from hansa.network.client.outbox import update_file
from hansa.network.client.results import result_in
from hansa.network.client.workshop import Workshop
from hansa.network.controller.central import CentralEvaluation
from hansa.network.controller.conversation import Conversation
from hansa.network.controller.journal import Journal, event
from hansa.store.records import ModelRecord, SessionRecord
from hansa.wire.chunks import CHUNK
from hansa.wire.frames import CENTRAL, Awaited, Evaluated, FromNode, Letter, OpenRound, TaskFailed

__all__ = ["BesideServer", "Keep"]

Keep = Callable[[str, memoryview, str], Awaitable[ModelRecord]]
"""(project, safetensors file, name) → its record; raises `WireError` for another file, and where there is no room."""

_log = structlog.get_logger(__name__)


class BesideServer:
    """Runs the party `central` of sessions; what it leaves is a model of their project."""

    def __init__(self, central: CentralEvaluation, keep: Keep, journal: Journal) -> None:
        """central: has the packages, and says how they are confined; keep: adds a model to a project."""
        self._central = central
        self._keep_model = keep
        self._journal = journal

    async def __call__(self, session: SessionRecord, opened: OpenRound, conversation: Conversation) -> None:
        """Run it to its end. Raises `HansaError`."""
        if session.package is None:
            raise InputError(f"the party {CENTRAL} needs the session's package: start it without --no-package")
        place = await asyncio.to_thread(self._central.folder, session.id)
        try:
            while True:
                try:
                    return await self._run(session, session.package, opened, conversation, place)
                except ConflictError as error:
                    _log.warning("begins anew", client=CENTRAL, session=session.id, why=str(error))
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    async def _run(
        self, session: SessionRecord, package: str, opened: OpenRound, conversation: Conversation, place: Path
    ) -> None:
        code = await self._central.code(package)
        objects = place / "objects"
        correspondence = Correspondence(_Here(conversation), opened, objects)
        workshop = Workshop(code, self._central.here, objects, self._print, self._central.confinement)
        try:
            try:
                done = await workshop.work(opened, _tell, correspondence)
            finally:
                await workshop.aclose()
            await self._keep(session, update_file(objects, opened.key))
            await correspondence.end(done.metrics if isinstance(done, Evaluated) else {})
        finally:
            await correspondence.aclose()

    async def _keep(self, session: SessionRecord, left: Path) -> None:
        """Its result as a model that people download by its digest, or start another session from."""
        found = await asyncio.to_thread(result_in, left)
        if found is not None:
            model = await self._keep_model(session.project, found[1], f"{session.name}-{session.id}")
            said = f"what {CENTRAL} has left is the model {model.id}"
            await self._journal.record(event(session.project, session.id, "party.model", said, model=model.id))

    def _print(self, line: str) -> None:
        _log.info("the app printed", client=CENTRAL, line=line)


def _tell(frame: FromNode) -> None:
    """Of what it goes on without."""
    if isinstance(frame, TaskFailed):
        _log.warning(
            "the app failed", client=CENTRAL, session=frame.key.run, error=frame.message, traceback=frame.traceback
        )


class _Here:
    """The way to a conversation in this process; see `Post`."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    async def send(self, letter: Letter, parts: Iterable[memoryview]) -> None:
        await self._conversation.send(CENTRAL, letter, _placed(parts))

    async def receive(self, awaited: Awaited) -> AsyncGenerator[memoryview, None]:
        async with aclosing(self._conversation.receive(CENTRAL, awaited)) as pieces:
            async for piece in pieces:
                yield memoryview(piece)


async def _placed(parts: Iterable[memoryview]) -> AsyncIterator[tuple[int, memoryview]]:
    """Each piece with its place in the whole."""
    offset = 0
    for part in parts:
        for begin in range(0, len(part), CHUNK):
            piece = part[begin : begin + CHUNK]
            yield offset, piece
            offset += len(piece)
