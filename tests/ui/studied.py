"""A server with the Studio, and a network with real training below it."""

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from served import Served
from starlette.types import ASGIApp, Receive, Scope, Send

from hansa.api.server import ApiServer
from hansa.messages import RoundRules, RunSpec
from hansa.network.controller.journal import event
from hansa.settings import Settings
from hansa.store.records import ProjectRole, SessionRecord
from hansa.ui import Studio

__all__ = ["APP", "Studied", "Unwell"]

APP = """
import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": rng.normal(size=40).astype(np.float32)}


@app.data
def load(client):
    return np.random.default_rng(client.index).normal(size=40).astype(np.float32), 10 + client.index


@app.train
def train(model, task):
    target, n = task.data
    w = model["w"] + np.float32(0.5) * (target - model["w"])
    return hansa.Update({"w": w}, num_examples=n, metrics={"loss": float(np.mean((target - w) ** 2))})


@app.evaluate
def evaluate(model, task):
    target, n = task.data
    error = float(np.mean((target - model["w"]) ** 2))
    return hansa.Metrics({"accuracy": 1 / (1 + error), "loss": error}, num_examples=n)
"""


_ASKED = tuple(f"/api/v1/{part}" for part in ("projects/", "installed", "users", "server", "system", "audit"))
"""What pages ask for, and not who is signed in."""
_REFUSED = {"error": (500, "The disk is full"), "forbidden": (403, "Not for your role")}


class Unwell:
    """ASGI: in the place of the REST API while that is in a state: `error`, `forbidden`, or `loading`: no answer yet.

    A page's event stream, and where it begins, are answered as ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.state = ""
        self._over = asyncio.Event()

    async def become(self, state: str) -> None:
        """Be in another state, or well again; whoever waits for an answer gets the API's."""
        self.state = state
        self._over.set()
        self._over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        beginning = scope.get("query_string", b"").startswith(b"limit=1&") and path.endswith("/events")
        if not self.state or beginning or path.endswith("/events/stream") or not path.startswith(_ASKED):
            await self._app(scope, receive, send)
        elif self.state == "loading":
            await self._over.wait()
            await self._app(scope, receive, send)
        else:
            status, title = _REFUSED[self.state]
            body = json.dumps({"title": title, "status": status, "detail": f"{title}, says the test."}).encode()
            headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})


class Studied(Served):
    """A server with the Studio in front."""

    unwell: Unwell
    session: SessionRecord
    """One that has ended."""
    other: SessionRecord
    """Another, of fewer rounds."""

    async def opened(self, port: int = 0) -> ApiServer:
        settings = Settings(data=self.folder / "controller", port=port, grpc_port=0, silence=5.0)

        def front(app: ASGIApp) -> ASGIApp:
            self.unwell = Unwell(app)
            return Studio(self.unwell)

        return await ApiServer.open(settings, front)

    @property
    def app(self) -> Path:
        path = self.folder / "wards.py"
        path.write_text(APP)
        return path

    def spec(self, rounds: int = 6, name: str = "wards") -> RunSpec:
        return RunSpec(name=name, rounds=rounds, rules=RoundRules(min_clients=3, quorum=2, deadline=120, lease=60))

    def populate(self) -> None:
        """Two combiners, three clients, and a session that has ended."""
        for name in ("combiner-0", "combiner-1"):
            self.run(self.nodes.combiner(name))
        self.run(self.nodes.clients(3, below=("combiner-0", "combiner-1")))
        self.session = self.run(self.nodes.run(self.app, self.spec()))
        self.other = self.run(self.nodes.run(self.app, self.spec(rounds=4, name="wards-short")))

    def fill(self, place: str) -> str:
        """A path with the ids that it names."""
        session = self.session
        return place.format(session=session.id, other=self.other.id, model=session.model, package=session.package)

    @contextmanager
    def unwell_as(self, state: str) -> Iterator[None]:
        """The REST API in a state of `Unwell`, or as ever where that is empty."""
        self.run(self.unwell.become(state))
        try:
            yield
        finally:
            self.run(self.unwell.become(""))

    def code(self, name: str = "root") -> str:
        """That signs a person in, who is a site administrator by default."""
        if name == "root":
            self.admin()
        return self.run(self.server.controller.logins.make_code(name))[0]

    def follow(self, name: str, running: Coroutine[Any, Any, None]) -> None:
        """Have a node run beside the server until that ends."""

        async def begin() -> None:
            self.nodes.nodes[name] = asyncio.create_task(running)

        self.run(begin())

    def report(self, message: str) -> None:
        """Something has happened."""
        self.run(self.server.controller.journal.record(event("default", "", "note", message)))

    def member(self, name: str, role: str) -> None:
        """A person who has this role in the project."""
        self.person(name)
        self.run(self.server.controller.people.add_member("default", name, ProjectRole(role)))
