"""A server in a thread."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
from nodes import access_token
from servers import free_port

from hansa.api.client import Client
from hansa.api.encryption import client_context
from hansa.api.server import ApiServer
from hansa.errors import ConflictError
from hansa.network.local import LocalNetwork
from hansa.settings import Settings
from hansa.store.records import ProjectRole
from hansa.wire.frames import Role

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds for which an answer is waited: a busy machine takes its time."""


class Served:
    """A whole server in a thread with an event loop of its own, so that the synchronous client can be used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._closing = ExitStack()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.server: ApiServer = self.run(self.opened())
        self.nodes: LocalNetwork = LocalNetwork(self.server.control, folder)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    async def opened(self, port: int = 0) -> ApiServer:
        settings = Settings(data=self.folder / "controller", port=port or free_port(), grpc_port=0, silence=5.0)
        return await ApiServer.open(settings)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def believed(self) -> str:
        """The file of the authority whose certificate the server has."""
        return str(self.folder / "controller" / "keys" / "authority.crt")

    def token(self, role: Role | ProjectRole = ProjectRole.OWNER, project: str = "default", name: str = "ada") -> str:
        """A token for a node, or for a member who has this role in the project from now on."""
        if isinstance(role, Role):
            return self.run(access_token(self.server.controller, project, name, role))
        people = self.server.controller.people
        self.person(name)
        self.run(people.add_member(project, name, role))
        return self.run(people.issue(name, called="test", project=project, bound=role))[0]

    def person(self, name: str, *, admin: bool = False) -> str:
        """A token without bounds for a person, who is a member of nothing yet."""
        people = self.server.controller.people
        with suppress(ConflictError):
            self.run(people.create_account(name, admin=admin))
        return self.run(people.issue(name, called="test"))[0]

    def admin(self) -> str:
        """A token for a site administrator."""
        return self.person("root", admin=True)

    def http(self, token: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        made = httpx.Client(
            base_url=self.url,
            headers=headers,
            trust_env=False,
            timeout=PATIENCE,
            verify=client_context(self.server.trust),
            limits=httpx.Limits(max_keepalive_connections=0),  # a client for each request must not fill the doors
        )
        self._closing.callback(made.close)
        return made

    def client(self, project: str = "default", token: str = "") -> Client:
        return self._closing.enter_context(
            Client(self.url, token or self.token(project=project), project, self.server.trust)
        )

    def restart(self) -> None:
        """End the server, and start another on the same REST port and data."""
        port = int(self.url.rsplit(":", 1)[1])
        self.run(self.server.aclose())
        self.server = self.run(self.opened(port))
        self.nodes.server = self.server.control

    async def end(self) -> None:
        for name in list(self.nodes.nodes):
            await self.nodes.leave(name)
        await self.server.aclose()

    def close(self) -> None:
        self._closing.close()
        self.run(self.end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
