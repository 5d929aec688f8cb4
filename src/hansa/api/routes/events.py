"""Events: what happened, as a list, and what happens, as server-sent events that can be taken up after a break."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request
from fastapi import Query as QueryParameter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hansa.api.documents import to_document
from hansa.api.guard import Gate, Limits, Routes, caller
from hansa.api.headers import token_of
from hansa.api.permissions import Permission
from hansa.api.routes.lists import Cursors, add_list
from hansa.api.shapes.sessions import EventShape
from hansa.errors import AuthenticationError, NotFoundError, PermissionDeniedError, ThrottledError
from hansa.network.controller.controller import Controller
from hansa.network.controller.journal import Live
from hansa.store.records import EventRecord, SessionRecord
from hansa.wire.tokens import Identity

__all__ = ["EventRoutes"]

_PULSE: Final = 15.0
"""Seconds after which a silent stream says that it is alive, and looks whether its token still holds."""
_LARGEST: Final = 2**63 - 1
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Stored events with their ids; live ones as `event: live`, without an id; `event: pulse`",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
After = Annotated[
    int | None,
    QueryParameter(ge=0, le=_LARGEST, description="An event's id: everything after it; absent: only what is new."),
]
Resumed = Annotated[
    int | None, Header(ge=0, le=_LARGEST, description="The last id that was received; it wins over `after`.")
]
Session = Annotated[str, QueryParameter(description="Only this session's events, and the network's own.")]


class EventRoutes:
    """The journal over HTTP."""

    def __init__(
        self, controller: Controller, cursors: Cursors, gate: Gate, limits: Limits, closing: asyncio.Event
    ) -> None:
        """gate: says whether a reader may still; closing: set when the server ends, and every stream with it."""
        self._gate = gate
        self._controller = controller
        self._cursors = cursors
        self._limits = limits
        self._closing = closing
        self._open: Counter[str] = Counter()

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        about = "What happened in the project, oldest first."
        store = self._controller.store
        add_list(
            routes, "/events", EventRecord, EventShape, about, needs=Permission.READ, store=store, cursors=self._cursors
        )
        routes.add(Permission.READ, "/events/stream", self.stream_events, responses=_STREAM, response_class=Response)

    async def stream_events(  # noqa: PLR0917 - the framework fills them in by name
        self,
        project: str,
        request: Request,
        me: Annotated[Identity, Depends(caller)],
        after: After = None,
        session: Session = "",
        last_event_id: Resumed = None,
    ) -> Response:
        """What happens, as server-sent events; a browser's EventSource takes it up by itself after a break.

        Stored events come in order, without a gap, each with its id. Live items (`event: live`: progress, log lines)
        have none and are not kept. A list's `cursor` is the `after` that follows it. Where nothing happens a pulse
        (`event: pulse`) comes every 15 seconds: a reader that hears none for longer has lost the connection.
        """
        self._admit(me.token_id)
        try:
            if session:
                await self._controller.store.get(SessionRecord, project, session)
            start = last_event_id if last_event_id is not None else after
            if start is None:
                start = await self._cursors.newest(project)
            source = self._controller.journal.follow(project, start, session)
            return _EventStream(self, project, token_of(request.scope), me.token_id, source)
        except BaseException:  # a request that was cancelled, too: its place is given back
            self.release(me.token_id)
            raise

    def _admit(self, token_id: str) -> None:
        """A place for a stream, from now on: of many that are asked for at once none is too many."""
        if self._open.total() >= self._limits.streams or self._open[token_id] >= self._limits.streams_of_one:
            raise ThrottledError("too many event streams are open: close one, or share one between tabs")
        self._open[token_id] += 1

    def release(self, token_id: str) -> None:
        """A stream is over."""
        self._open[token_id] -= 1
        if not self._open[token_id]:
            del self._open[token_id]

    async def run(self, stream: "_EventStream", receive: Receive, send: Send) -> None:
        """Send a stream until its reader has gone or may read no longer, or the server ends."""
        change = asyncio.create_task(self._controller.people.changed())
        ends = [asyncio.create_task(self._closing.wait()), asyncio.create_task(_gone(receive))]
        pending = asyncio.ensure_future(anext(stream.source))
        try:
            await _send(send, "retry: 1000\n\n")
            while True:
                await asyncio.wait([pending, change, *ends], timeout=_PULSE, return_when=asyncio.FIRST_COMPLETED)
                if change.done():
                    change = asyncio.create_task(self._controller.people.changed())
                if any(end.done() for end in ends) or not await self._may_read(stream):
                    break
                if pending.done():
                    await _send(send, _frame(pending.result()))
                    pending = asyncio.ensure_future(anext(stream.source))
                else:
                    await _send(send, "event: pulse\ndata: {}\n\n")
        finally:
            for task in (pending, change, *ends):
                task.cancel()
            await asyncio.gather(pending, change, *ends, return_exceptions=True)
            await stream.source.aclose()

    async def _may_read(self, stream: "_EventStream") -> bool:
        with suppress(AuthenticationError, NotFoundError, PermissionDeniedError):
            await self._gate.check(self._gate.identify(stream.token), Permission.READ, stream.project)
            return True
        return False


class _EventStream(Response):
    """A response that is the stream itself, and knows when its reader has gone."""

    def __init__(
        self, routes: EventRoutes, project: str, token: str, token_id: str, source: AsyncIterator[Any]
    ) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self.project = project
        self.token = token
        self.token_id = token_id
        self.source: Any = source
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._routes.run(self, receive, send)
        finally:
            self._routes.release(self.token_id)
        await send({"type": "http.response.body", "body": b""})


def _frame(happened: EventRecord | Live) -> str:
    data = json.dumps(to_document(happened), ensure_ascii=True, separators=(",", ":"))
    head = f"id: {happened.id}\n" if isinstance(happened, EventRecord) else "event: live\n"
    return f"{head}data: {data}\n\n"


async def _send(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
