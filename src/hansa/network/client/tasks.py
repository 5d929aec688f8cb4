"""How a client does a task: fetch what it takes, have it done as far as the site lets it, and keep the result."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import structlog

from hansa.errors import ConflictError, UserCodeError
from hansa.messages import ClientInfo
from hansa.network.client.benches import Benches, Workplace
from hansa.network.client.code import Code
from hansa.network.client.correspondence import Correspondence, Relay
from hansa.network.client.library import Library
from hansa.network.client.memory import forget_diary
from hansa.network.client.models import Models
from hansa.network.client.outbox import Outbox, update_file
from hansa.network.client.results import keep_result, results_of
from hansa.network.client.site import Outgoing, Site
from hansa.network.client.telling import Telling
from hansa.network.entrance import Entrance
from hansa.network.files import pieces
from hansa.wire import packing
from hansa.wire.frames import Answer, Evaluated, Offer, OpenRound

__all__ = ["OpenWorkshop", "TaskRunner"]

OpenWorkshop: TypeAlias = Callable[[Code, ClientInfo, Path, Callable[[str], None]], Workplace]
"""(code, client, folder of objects, told each printed line) → where its tasks are done."""

_log = structlog.get_logger(__name__)

_NOTICEABLE = 0.2
"""Seconds after which a task is worth a report that it has begun: most small ones are over by then."""


class TaskRunner:
    """Does the tasks of one client."""

    def __init__(
        self,
        client: ClientInfo,
        work: Path,
        *,
        own: Code | None,
        objects: Path,
        site: Site,
        library: Library,
        models: Models,
        outbox: Outbox,
        entrance: Entrance,
        open_workshop: OpenWorkshop,
    ) -> None:
        """work: the client's folder; own: the owner's code, None to run what sessions bring; objects: for updates."""
        self._client = client
        self._work = work
        self._own = own
        self._objects = objects
        self._site = site
        self._library = library
        self._models = models
        self._outbox = outbox
        self._entrance = entrance
        self._open = open_workshop
        self._benches = Benches(lambda code, on_line: open_workshop(code, client, objects, on_line))

    async def prepare(self, code: Code) -> None:
        """Have a process that has loaded it."""
        await self._benches.start(code)

    async def aclose(self) -> None:
        """End every worker process."""
        await self._benches.aclose()

    # ── a round's ────────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(self, opened: OpenRound, telling: Telling) -> Answer:
        """What is handed in. Raises `HansaError`, and `PermissionDeniedError` for what the site does not let."""
        before = await self._outbox.settled(opened.key)
        if before is not None:  # by a task that ended while this one began
            return before
        code = await self._approved(opened, telling)
        lease = opened.spec.rules.lease
        await telling.patiently(lambda: self._models.find(opened.model, telling.progress, lease))
        async with self._benches.at(code, telling.printed, telling.meanwhile("queue")) as workplace:
            done = await self._worked(opened, telling, workplace)
        if isinstance(done, Offer) and self._site.measures(opened.spec):
            await asyncio.to_thread(self._measured, opened, done)
        answer = await self._outbound(opened, telling, done)
        if not isinstance(answer, Offer):
            return answer
        offer = replace(answer, base=opened.model.digest)
        await telling.patiently(lambda: self._outbox.keep(offer))
        return offer

    async def _worked(self, opened: OpenRound, telling: Telling, workplace: Workplace) -> Answer:
        started = asyncio.get_running_loop().call_later(_NOTICEABLE, telling.started)
        try:
            return await workplace.work(opened, telling.pass_on)
        finally:
            telling.code_has_ended = True
            started.cancel()
            await telling.settle()

    def _measured(self, opened: OpenRound, offer: Offer) -> None:
        """Raise `PermissionDeniedError` for an update that is longer than the site lets leave.

        What is measured is a copy that its code cannot change, and the server takes no bytes of another digest.
        """
        model, update = opened.model, offer.blob
        content = update.inline or b"".join(pieces(update_file(self._objects, offer.key), update.size))
        if packing.digest([content]) != update.digest:
            raise UserCodeError("the app's process has changed its update after it was written: it was ended")
        self._site.check_norm(content, model.inline or b"".join(pieces(self._objects / model.digest, model.size)))

    # ── a program's ──────────────────────────────────────────────────────────────────────────────────────────────

    async def attend(self, opened: OpenRound, telling: Telling) -> None:
        """Be a party, from the beginning: what was said before is there, and nobody waits for it."""
        code, relay = await self._approved(opened, telling), Relay(self._entrance)
        try:
            while True:
                try:
                    return await self._converse(opened, telling, code, relay)
                except ConflictError as error:
                    _log.warning("begins anew", client=self._client.name, session=opened.key.run, why=str(error))
        finally:
            await relay.aclose()

    async def _converse(self, opened: OpenRound, telling: Telling, code: Code, relay: Relay) -> None:
        """One run of the program. A worker process of its own: a program waits for others, and nobody waits for it."""
        key, outgoing, place = opened.key, Outgoing(self._site, opened), results_of(self._work, opened.key.run)
        leaving = lambda size: telling.patiently(lambda: outgoing.leave(size))  # noqa: E731 - as long as its name
        correspondence = Correspondence(relay, opened, self._objects, leaving)
        workplace = self._open(code, self._client, self._objects, telling.printed)
        result = update_file(self._objects, key)
        try:
            try:
                done = await workplace.work(opened, telling.pass_on, correspondence)
            finally:
                await workplace.aclose()
            await telling.patiently(partial(asyncio.to_thread, keep_result, result, place))
            answer = await self._outbound(opened, telling, done)
            await correspondence.end(answer.metrics if isinstance(answer, Evaluated) else {})
            await asyncio.to_thread(forget_diary, self._objects.with_name("memory"), key.run)
        finally:
            await correspondence.aclose()
            result.unlink(missing_ok=True)
            await telling.settle()

    # ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _approved(self, opened: OpenRound, telling: Telling) -> Code:
        """The code of a task, which may run here."""
        self._site.check_run(opened)
        async with telling.meanwhile("prepare"):
            code = await telling.patiently(lambda: self._code_of(opened))
        async with telling.meanwhile("approval"):
            await telling.patiently(lambda: self._site.check_code(opened, code, telling.approval))
        return code

    async def _code_of(self, opened: OpenRound) -> Code:
        """The owner's own app, or the session's package."""
        if self._own is not None:
            return self._own
        if opened.package is None:
            raise UserCodeError(
                f"{self._client.name} was started without an app, and the session brings none: start the client with "
                "`hansa client start app.py`, or the session with a package"
            )
        return await self._library.find(opened.package)

    async def _outbound(self, opened: OpenRound, telling: Telling, done: Answer) -> Answer:
        """What may leave of an answer, once it is written down."""
        answer, kept_back = self._site.outbound(done)
        telling.kept_back(kept_back)
        await telling.patiently(lambda: asyncio.to_thread(self._site.leaves, opened, answer))
        return answer
