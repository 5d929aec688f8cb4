"""A whole network in this process: real servers, real gRPC over TCP on loopback, real worker processes.

`hansa parity` and the tests run a session on one; `hansa demo` starts the same nodes as processes of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import SecretStr

from hansa.app import load_app
from hansa.arrays import Arrays
from hansa.errors import RunFailedError
from hansa.messages import ClientInfo, RunSpec
from hansa.network.client.agent import Agent
from hansa.network.client.policy import ANYTHING, SitePolicy
from hansa.network.client.site import Site
from hansa.network.combiner.node import CombinerNode
from hansa.network.controller.controller import Controller
from hansa.network.controller.server import ControllerServer
from hansa.network.controller.tree import ProjectTree
from hansa.packages.package import build
from hansa.run import resolve, suit
from hansa.settings import Settings
from hansa.store.ports import Query
from hansa.store.records import EventRecord, SessionRecord, SessionState
from hansa.wire import codec
from hansa.wire.frames import Role
from hansa.wire.tls import Trust

__all__ = ["PROJECT", "LocalNetwork"]

PROJECT = "default"

_ENDS = frozenset(f"session.{state}" for state in (SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED))


@dataclass
class LocalNetwork:
    """The controller, and what was started below it."""

    server: ControllerServer
    folder: Path
    silence: float = 15.0
    """Seconds without a heartbeat after which a node counts as lost."""
    trusted: Trust | None = None
    """How nodes know a controller whose certificate is not the network's."""
    nodes: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        combiners: Iterable[str] = (),
        *,
        silence: float = 15.0,
        advertise: str = "",
        store: str = "",
        objects: str = "",
        tls: Literal["on", "off"] = "on",
        central_data: Path | None = None,
        trace: bool = False,
    ) -> AsyncIterator[Self]:
        """A controller on a free port, with these combiners below the root; everything is stopped at the end.

        advertise: host:port at which nodes reach it, where that is not its own port. store, objects: URLs, as in
        `Settings`; central_data: see there. The environment plays no part, but for trace: see `ControllerServer`.
        """
        here = Settings(
            data=folder / "controller",
            store=SecretStr(store),
            objects=SecretStr(objects),
            host="127.0.0.1",
            grpc_port=0,
            project=PROJECT,
            advertise=advertise,
            balancer="least-loaded",
            silence=silence,
            tls=tls,
            tls_cert=None,
            tls_key=None,
            tls_client_ca=None,
            tls_names="",
            confinement="off",
            central_data=central_data,
        )
        server = await ControllerServer.open(here, trace=trace)
        network = cls(server, folder, silence)
        try:
            for name in combiners:
                await network.combiner(name)
            yield network
        finally:
            for name in list(network.nodes):
                await network.leave(name)
            await server.aclose()

    @property
    def controller(self) -> Controller:
        """The control plane."""
        return self.server.controller

    @property
    def tree(self) -> ProjectTree:
        """The project's network, as the controller sees it."""
        return self.controller.tree(PROJECT)

    @property
    def trust(self) -> Trust:
        """How nodes know the controller."""
        return self.trusted or self.server.secure.trust

    # ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────

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
            silence=self.silence,
            trust=self.trust,
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
        policy: SitePolicy = ANYTHING,
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
            trust=self.trust,
            site=Site(self.folder / name, policy),
        )
        await self._joined(name, agent.run(), "client.connected")

    async def clients(self, total: int, app: Path | None = None, *, below: Sequence[str] = ("",)) -> None:
        """The clients client-0 … of a simulation of the same size, in turn below each of these combiners."""
        await asyncio.gather(
            *(self.client(f"client-{i}", i, total, app=app, preferred=below[i % len(below)]) for i in range(total))
        )

    async def leave(self, name: str) -> None:
        """Stop a node, as Ctrl-C does."""
        task = self.nodes.pop(name)
        task.cancel()
        await asyncio.wait([task])  # not the task itself: whoever is cancelled meanwhile hears of it
        if not task.cancelled():
            task.result()

    async def gone(self, name: str) -> None:
        """Wait until the controller knows that a node has left."""
        await self._told("node.left", name, 0)

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, app: Path, spec: RunSpec, *, package: bool = True) -> SessionRecord:
        """A session of this app, not started."""
        loaded = load_app(app)
        digest = (await self.controller.artifacts.add_package(PROJECT, build(app))).id if package else None
        if spec.parties:
            return await self.controller.sessions.create(PROJECT, spec, seed_model=None, package=digest)
        spec = suit(spec, loaded)
        initial = b"".join(codec.encode(resolve(spec).initial_model(loaded)))
        model = await self.controller.artifacts.add_model(PROJECT, initial)
        return await self.controller.sessions.create(PROJECT, spec, seed_model=model.id, package=digest)

    async def start(self, app: Path, spec: RunSpec, *, package: bool = True) -> SessionRecord:
        """A session of this app, started."""
        session = await self.create(app, spec, package=package)
        return await self.controller.sessions.start(PROJECT, session.id)

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
        """The session as it is now."""
        return await self.controller.store.get(SessionRecord, PROJECT, session.id)

    async def until_round(self, session: SessionRecord, number: int) -> None:
        """Wait until a round of a session is committed; raises `RunFailedError` when the session ends without it."""
        await self._until(session, "round.committed", {"round": number})

    async def until_event(self, session: SessionRecord, kind: str) -> None:
        """Wait for a stored or live event of a session; raises `RunFailedError` when the session ends without it."""
        await self._until(session, kind, {})

    async def model(self, session: SessionRecord) -> Arrays:
        """The newest model of a session, or its seed."""
        digest = session.model or session.seed_model or ""
        return codec.decode(b"".join([chunk async for chunk in self.controller.objects.read(digest)]))

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _until(self, session: SessionRecord, kind: str, data: Mapping[str, object]) -> None:
        async for happened in self.controller.journal.follow(PROJECT, 0, session.id):
            if happened.kind == kind and data.items() <= happened.data.items():
                return
            if happened.kind in _ENDS and isinstance(happened, EventRecord):
                now = await self.session(session)
                if f"session.{now.state}" == happened.kind:  # else somebody has resumed it
                    raise RunFailedError(f"session {session.id} is {now.state} without {kind}: {now.cause}")

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
