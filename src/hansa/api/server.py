"""The REST server: an application over a controller, and the one process that serves it and the nodes' gRPC port."""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import structlog
from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp

import hansa
from hansa.api import answers
from hansa.api.apps import Apps
from hansa.api.connections import Doors
from hansa.api.guard import ROOT, Gate, Guard, Limits, Routes
from hansa.api.metrics import Metrics
from hansa.api.permissions import Permission
from hansa.api.problems import MEDIA_TYPE
from hansa.api.routes.apps import AppRoutes
from hansa.api.routes.audit import AuditRoutes, InstallationAuditRoutes
from hansa.api.routes.events import EventRoutes
from hansa.api.routes.lists import Cursors
from hansa.api.routes.metrics import MetricsRoute
from hansa.api.routes.models import ModelRoutes, PackageRoutes
from hansa.api.routes.network import NetworkRoutes, ServerRoutes
from hansa.api.routes.openid import OpenIdRoutes
from hansa.api.routes.people import MemberRoutes, UserRoutes
from hansa.api.routes.predictions import PredictionRoutes
from hansa.api.routes.sessions import UNFINISHED, SessionRoutes
from hansa.api.serving import Uvicorn, listen, serve_app
from hansa.api.shapes.answer import ProblemShape
from hansa.network.controller.controller import Controller
from hansa.network.controller.server import ControllerServer
from hansa.settings import Settings, traces_wanted
from hansa.wire.tls import CONTROLLER, WORLD, Trust

__all__ = ["ApiServer", "create_app", "openapi", "serve"]

_log = structlog.get_logger(__name__)

_PROJECT: Final = "/projects/{project}"
_REFUSALS: Final = {
    401: "No token, or one that does not hold",
    403: "The token's role may not do this",
    404: "There is no such thing in this project",
    409: "The state forbids it",
    410: "The model was pruned by a policy",
    413: "The body is too large",
    422: "The request cannot be used",
    429: "It was tried too often",
}
_REFUSED: Final = frozenset(str(status) for status in _REFUSALS)
_PROBLEM: Final = ProblemShape.__name__
_SCHEMA: Final = "#/components/schemas/{model}"
"""Where the OpenAPI document has a shape."""


def create_app(
    controller: Controller, *, limits: Limits | None = None, closing: asyncio.Event | None = None, ca: str = ""
) -> FastAPI:
    """The ASGI application, which starts and stops nothing. closing: set it to end the event streams.

    ca: fingerprint of the authority by which nodes know the server; empty: by one that the world believes.
    """
    bounds = limits or Limits()
    app = _Application(
        title="hansa",
        version=hansa.__version__,
        summary="Federated learning: sessions, models, and the network that trains them.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=_operation,
    )
    cursors = Cursors(controller.store)
    app.state.apps = apps = Apps(controller)
    gate = Gate(controller)
    bearer = HTTPBearer(description="`Authorization: Bearer TOKEN`, a person's token.", auto_error=False)
    # What they answer is added to the document: as a model of every route it would be built some 800 times.
    responses: dict[int | str, dict[str, Any]] = {status: {"description": about} for status, about in _REFUSALS.items()}
    common: dict[str, Any] = {"dependencies": [Depends(bearer)], "responses": responses}
    for tag, prefix, routes in (
        ("server", "", ServerRoutes(controller, cursors, ca, bounds.spool)),
        ("sessions", _PROJECT, SessionRoutes(controller, cursors, bounds, apps)),
        ("apps", _PROJECT, AppRoutes(controller, apps)),
        ("models", _PROJECT, ModelRoutes(controller, cursors, bounds)),
        ("packages", _PROJECT, PackageRoutes(controller, cursors)),
        ("events", _PROJECT, EventRoutes(controller, cursors, gate, bounds, closing or asyncio.Event())),
        ("predictions", _PROJECT, PredictionRoutes(controller, cursors)),
        ("network", _PROJECT, NetworkRoutes(controller, cursors)),
        ("people", _PROJECT, MemberRoutes(controller, cursors)),
        ("people", "", UserRoutes(controller)),
        ("people", "", OpenIdRoutes(controller)),
        ("audit", _PROJECT, AuditRoutes(controller, cursors)),
        ("audit", "", InstallationAuditRoutes(controller)),
    ):
        routes.add(Routes(app.router, ROOT + prefix, tags=[tag], **common))
    own = Routes(app.router, tags=["server"])
    own.add(Permission.STRANGERS, "/healthz", healthz, response_class=PlainTextResponse)
    metrics = Metrics(controller, bounds.spool or Path(tempfile.gettempdir()))
    own.add(
        Permission.MONITOR, "/metrics", MetricsRoute(metrics).metrics, response_class=PlainTextResponse,
        responses={status: common["responses"][status] for status in (401, 403, 429)},
    )  # fmt: skip
    own.add(Permission.USE_SERVER, f"{ROOT}/openapi.json", app.described, include_in_schema=False)
    answers.install(app)
    app.add_middleware(Guard, gate=gate, limits=bounds, routes=app.routes, answered=metrics.answered)
    return app


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI document of the API, without a server. It is everybody's: change a copy."""
    return create_app(cast("Controller", _Nobody())).openapi()


class _Application(FastAPI):
    """Documents the problem that every refusal answers."""

    async def described(self) -> dict[str, Any]:
        return self.openapi()

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is not None:
            return self.openapi_schema
        made = super().openapi()
        for item in made["paths"].values():
            for operation in item.values():
                for status in _REFUSED & operation["responses"].keys():
                    operation["responses"][status]["content"] = {
                        MEDIA_TYPE: {"schema": {"$ref": _SCHEMA.format(model=_PROBLEM)}}
                    }
        schemas = made["components"]["schemas"]
        schemas[_PROBLEM] = ProblemShape.model_json_schema(ref_template=_SCHEMA)
        made["components"]["schemas"] = dict(sorted(schemas.items()))
        return made


class _Nobody:
    """In the place of a controller, where the routes are described and not run."""

    store: Any = None


async def healthz() -> str:
    """Whether the server answers: `ok`. It needs no token."""
    return "ok"


def _operation(route: APIRoute) -> str:
    return route.name


# ── one process ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class ApiServer:
    """The REST API and the nodes' gRPC port, open; `aclose` closes them."""

    url: str
    """Of the REST API."""
    control: ControllerServer
    _server: Uvicorn
    _serving: "asyncio.Task[None]"
    _closing: asyncio.Event
    doors: Doors
    """Who is connected to the REST API."""
    apps: Apps
    """What it simulates."""

    @property
    def controller(self) -> Controller:
        """The control plane."""
        return self.control.controller

    @property
    def grpc_address(self) -> str:
        """host:port that nodes join."""
        return self.control.address

    @property
    def fingerprint(self) -> str:
        """Of the authority by which nodes and people know this server; empty: by one that the world believes."""
        return self.control.secure.trust.fingerprint

    @property
    def trust(self) -> Trust:
        """How callers know the REST API."""
        secure = self.control.secure
        if not secure.pinned or secure.authority is None:
            return WORLD
        return Trust(roots=secure.authority.certificate, name=CONTROLLER)

    @classmethod
    async def open(
        cls, settings: Settings, front: Callable[[ASGIApp], ASGIApp] | None = None, *, adopt: bool = False
    ) -> "ApiServer":
        """Bind both ports, open the stores, take up running sessions; raises `InputError` that says what to change.

        front: put before the API, for example pages; adopt: as in `ControllerServer.open`.
        """
        async with AsyncExitStack() as undo:
            listener = undo.enter_context(listen(settings.host, settings.port, "HANSA_PORT or --port"))
            control = await ControllerServer.open(settings, trace=traces_wanted(), adopt=adopt)
            undo.push_async_callback(control.aclose)
            await asyncio.to_thread(_clear, settings.data)
            closing = asyncio.Event()
            scraper = settings.metrics_token.get_secret_value() if settings.metrics_token is not None else ""
            limits = Limits(
                model=settings.max_upload, spool=settings.data, requests=settings.request_rate, scraper=scraper
            )
            most = settings.max_connections
            doors = Doors(most, most if settings.tls == "proxy" else max(1, most // 4))  # a proxy has one address
            fingerprint = control.secure.trust.fingerprint
            app = create_app(control.controller, limits=limits, closing=closing, ca=fingerprint)
            server, serving, url = await serve_app(
                app if front is None else front(app),
                listener,
                settings,
                doors,
                shown=control.secure.shown,
                proxied=settings.tls == "proxy",
            )
            undo.pop_all()
        return cls(url, control, server, serving, closing, doors, app.state.apps)

    async def wait(self) -> str:
        """Until this controller leads no more: why. The REST API ends before only when something is badly wrong."""
        superseded = asyncio.create_task(self.control.superseded())
        try:
            await asyncio.wait([self._serving, superseded], return_when=asyncio.FIRST_COMPLETED)
        finally:
            superseded.cancel()
        if superseded.done():
            return superseded.result()
        await self._serving
        return "the REST API has ended"

    async def aclose(self) -> None:
        """End the event streams, let requests finish for a moment, and leave the sessions as they are."""
        self._closing.set()
        self._server.should_exit = True
        try:
            await self._serving
        finally:
            await self.apps.aclose()
            await self.control.aclose()


async def serve(settings: Settings, on_ready: Callable[[ApiServer], Awaitable[None]] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM; then leave nothing half-written. on_ready: called when it can be reached."""
    stop = asyncio.Event()
    with _signals(stop):
        server = await ApiServer.open(settings)
        try:
            if on_ready is not None:
                await on_ready(server)
            stopped, broken = asyncio.create_task(stop.wait()), asyncio.create_task(server.wait())
            await asyncio.wait([stopped, broken], return_when=asyncio.FIRST_COMPLETED)
            for task in (stopped, broken):
                task.cancel()
            await asyncio.gather(stopped, broken, return_exceptions=True)
        finally:
            await server.aclose()


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event, where this thread may ask for them."""
    loop = asyncio.get_running_loop()
    taken: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread, or Windows
            loop.add_signal_handler(number, stop.set)
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _clear(data: Path) -> None:
    """Remove what a server that was killed had half made for a download."""
    for left in data.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
