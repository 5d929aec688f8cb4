"""A whole federation in one process: real servers, real gRPC over TCP, real worker processes."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hansa.app import load_app
from hansa.messages import ClientInfo, RunSpec
from hansa.network.client.agent import Agent
from hansa.network.combiner.node import CombinerNode
from hansa.network.controller.controller import Controller
from hansa.network.controller.server import ControllerServer
from hansa.network.controller.tree import ProjectTree
from hansa.packages import pack
from hansa.run import resolve, suit
from hansa.settings import Settings
from hansa.store.ports import Query
from hansa.store.records import (
    ContributionRecord,
    EventRecord,
    MetricRecord,
    RoundRecord,
    SessionRecord,
    SessionState,
)
from hansa.wire import codec
from hansa.wire.frames import Role

PROJECT = "default"


@dataclass
class Federation:
    """The controller, and what was started below it."""

    server: ControllerServer
    folder: Path
    nodes: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    @property
    def controller(self) -> Controller:
        return self.server.controller

    @property
    def tree(self) -> ProjectTree:
        return self.controller.tree(PROJECT)

    async def combiner(self, name: str, parent: str = "", labels: Mapping[str, str] | None = None) -> None:
        """Start a combiner and wait until it is in the directory."""
        token, _ = await self.controller.issue_token(PROJECT, name, Role.COMBINER)
        node = CombinerNode(
            name,
            join=self.server.address,
            token=token,
            work=self.folder / name,
            parent=parent,
            labels=labels,
            silence=5,
        )
        await self._joined(name, node.run(), "combiner.connected")

    async def client(
        self,
        name: str,
        index: int = 0,
        total: int = 1,
        *,
        app: Path | None = None,
        preferred: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Start a client and wait until it is in the directory."""
        token, _ = await self.controller.issue_token(PROJECT, name, Role.CLIENT)
        agent = Agent(
            ClientInfo(name, index, total),
            join=self.server.address,
            token=token,
            work=self.folder / name,
            app=app,
            preferred=preferred,
            labels=labels,
        )
        await self._joined(name, agent.run(), "client.connected")

    async def clients(self, total: int, app: Path | None = None) -> None:
        """The clients client-0 … of a simulation of the same size."""
        await asyncio.gather(*(self.client(f"client-{i}", i, total, app=app) for i in range(total)))

    async def leave(self, name: str) -> None:
        """Stop a node, as Ctrl-C does."""
        task = self.nodes.pop(name)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def create(self, app: Path, spec: RunSpec, *, package: bool = True) -> SessionRecord:
        """A session of this app, not started."""
        loaded = load_app(app)
        spec = suit(spec, loaded)
        model = await self.controller.add_model(PROJECT, b"".join(codec.encode(resolve(spec).initial_model(loaded))))
        digest = (await self.controller.add_package(PROJECT, pack(app), "app")).id if package else None
        return await self.controller.create_session(PROJECT, spec, seed_model=model.id, package=digest)

    async def start(self, app: Path, spec: RunSpec, *, package: bool = True) -> SessionRecord:
        """A session of this app, started."""
        session = await self.create(app, spec, package=package)
        return await self.controller.start_session(PROJECT, session.id)

    async def run(self, app: Path, spec: RunSpec, *, package: bool = True) -> SessionRecord:
        """A session of this app, from its start to its end."""
        return await self.end(await self.start(app, spec, package=package))

    async def end(self, session: SessionRecord) -> SessionRecord:
        """Wait until a session has ended."""
        async for happened in self.controller.journal.follow(PROJECT, 0, session.id):
            if isinstance(happened, EventRecord) and happened.kind in _ENDS:
                break
        return await self.session(session)

    async def session(self, session: SessionRecord) -> SessionRecord:
        return await self.controller.store.get(SessionRecord, PROJECT, session.id)

    async def until_event(self, session: SessionRecord, kind: str) -> None:
        """Wait for a stored or live event of a session."""
        async for happened in self.controller.journal.follow(PROJECT, 0, session.id):
            if happened.kind == kind:
                return

    async def gone(self, name: str) -> None:
        """Wait until the controller knows that a node has left."""
        await self._told("node.left", name, 0)

    async def _joined(self, name: str, running: Coroutine[Any, Any, None], kind: str) -> None:
        newest = await self.controller.store.list(EventRecord, Query(PROJECT, sort="-id", limit=1))
        after = newest.items[0].id if newest.items else 0
        node = self.nodes[name] = asyncio.create_task(running)
        told = asyncio.create_task(self._told(kind, name, after))
        await asyncio.wait([node, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if node.done():
            await node

    async def _told(self, kind: str, name: str, after: int) -> None:
        async for happened in self.controller.journal.follow(PROJECT, after):
            if happened.kind == kind and happened.data.get("name") == name:
                return

    async def rounds(self, session: SessionRecord) -> tuple[RoundRecord, ...]:
        page = await self.controller.store.list(
            RoundRecord, Query(PROJECT, where={"session": session.id}, sort="number")
        )
        return page.items

    async def contributions(self, session: SessionRecord) -> tuple[ContributionRecord, ...]:
        query = Query(PROJECT, where={"session": session.id}, sort="client")
        return (await self.controller.store.list(ContributionRecord, query)).items

    async def metrics(self, session: SessionRecord, **where: str | int) -> tuple[MetricRecord, ...]:
        query = Query(PROJECT, where={"session": session.id, **where})
        return (await self.controller.store.list(MetricRecord, query)).items

    async def events(self, session: SessionRecord, kind: str) -> tuple[EventRecord, ...]:
        query = Query(PROJECT, where={"session": session.id, "kind": kind})
        return (await self.controller.store.list(EventRecord, query)).items


_ENDS = {f"session.{state}" for state in (SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED)}


@asynccontextmanager
async def federation(folder: Path, combiners: Iterable[str] = ()) -> AsyncIterator[Federation]:
    """A controller on free ports, with these combiners below the root; everything is stopped at the end."""
    settings = Settings(data=folder / "controller", grpc_port=0, silence=5.0)
    server = await ControllerServer.open(settings)
    made = Federation(server, folder)
    try:
        for name in combiners:
            await made.combiner(name)
        yield made
    finally:
        for name in list(made.nodes):
            await made.leave(name)
        await server.aclose()
