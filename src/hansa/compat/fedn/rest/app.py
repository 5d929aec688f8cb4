"""FEDn's REST API as one application: all routes, who may ask, and what is said when something goes wrong."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hansa.api.guard import Gate
from hansa.api.headers import is_foreign
from hansa.api.pacing import Pace
from hansa.api.permissions import Permission
from hansa.compat.fedn.active import Active
from hansa.compat.fedn.catalogue import IDS, Catalogue
from hansa.compat.fedn.gateway import Gateway
from hansa.compat.fedn.legacy import LEGACY
from hansa.compat.fedn.rest.clients import ClientRoutes
from hansa.compat.fedn.rest.exchange import Handler, Way, answer, asked, refusal, token_of
from hansa.compat.fedn.rest.models import ModelRoutes
from hansa.compat.fedn.rest.packages import PackageRoutes
from hansa.compat.fedn.rest.sessions import SessionRoutes
from hansa.errors import AuthenticationError, HansaError, NotFoundError, PermissionDeniedError, ThrottledError

__all__ = ["Rest"]

_log = structlog.get_logger(__name__)

_V1: Final = "/api/v1"
_FAULT: Final = 500


class Rest:
    """The routes; `app` is served."""

    def __init__(self, gateway: Gateway, address: tuple[str, int], *, secure: bool, limit: int) -> None:
        """address: host and port of the gRPC services; secure: whether they speak TLS; limit: bytes of a model."""
        self._gateway = gateway
        self._gate = Gate(gateway.controller)
        self._catalogue = Catalogue(gateway, address)
        active = Active(gateway.notes)
        self._clients = ClientRoutes(gateway, self._catalogue, active, address, secure=secure)
        self._models = ModelRoutes(gateway, self._catalogue, active, limit)
        self._packages = PackageRoutes(gateway, self._catalogue, active)
        self._sessions = SessionRoutes(gateway, self._catalogue)
        answers = {HansaError: _refused, HTTPException: _unrouted}
        routes = Starlette(routes=list(self._routes()), exception_handlers=answers)
        self.app: ASGIApp = _Outermost(routes, Pace(200.0, 2000.0))

    def _routes(self) -> Iterator[Route]:
        yield Route("/health", _health)
        yield Route("/add_client", _moved_client, methods=["POST"])
        yield Route("/add_combiner", _moved_combiner, methods=["POST"])
        yield Route("/get_controller_status", self._of_people(self._sessions.state, Permission.READ))
        for resource in (self._clients, self._models, self._packages, self._sessions):
            for way in resource.ways():
                yield self._route(way)
        for collection in IDS:
            yield from self._collection(collection)
        for path, (methods, target) in LEGACY.items():
            yield Route(path, self._of_people(_moved(target), Permission.READ), methods=list(methods))

    def _route(self, way: Way) -> Route:
        handler = way.handler
        if way.needs is not None:
            guard = self._of_clients_too if way.for_clients else self._of_people
            handler = guard(handler, way.needs)
        return Route(f"{_V1}/{way.path}", handler, methods=list(way.methods))

    def _collection(self, name: str) -> Iterator[Route]:
        async def listed(request: Request) -> Response:
            count, found = await self._catalogue.find(name, await asked(request))
            return answer({"count": count, "result": found})

        async def counted(request: Request) -> Response:
            count, _ = await self._catalogue.find(name, replace(await asked(request), skip=0, limit=1))
            return answer(count)

        async def one(request: Request) -> Response:
            return answer(await self._catalogue.get(name, request.path_params["id"]))

        read = Permission.READ
        yield self._route(Way(name, listed, read))
        yield self._route(Way(f"{name}/list", listed, read, ("POST",)))
        yield self._route(Way(f"{name}/count", counted, read, ("GET", "POST")))
        yield self._route(Way(f"{name}/{{id:path}}", one, read))
        yield self._route(Way(f"{name}{{id:path}}", one, read))  # FEDn's command leaves the slash out, of statuses

    # ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _of_people(self, handler: Handler, permission: Permission) -> Handler:
        async def guarded(request: Request) -> Response:
            await self._check(request, permission)
            return await handler(request)

        return guarded

    def _of_clients_too(self, handler: Handler, permission: Permission) -> Handler:
        """Of clients, with the token that they join with, and of people."""

        async def guarded(request: Request) -> Response:
            try:
                self._gateway.check_client(token_of(request))
            except AuthenticationError:
                await self._check(request, permission)
            return await handler(request)

        return guarded

    async def _check(self, request: Request, permission: Permission) -> None:
        token, project = token_of(request), self._gateway.project
        if not token:
            raise AuthenticationError("Missing token")
        identity = self._gate.identify(token)
        request.state.by = identity.name
        try:
            await self._gate.check(identity, permission, project)
        except (NotFoundError, PermissionDeniedError) as error:
            await self._gate.refused(identity, f"{request.method} fedn", project, error)
            raise


class _Outermost:
    """Paths as FEDn's clients write them, and an answer in its words to whatever goes wrong."""

    def __init__(self, app: ASGIApp, pace: Pace) -> None:
        self._app = app
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = "/" + "/".join(part for part in scope["path"].split("/") if part)
        scope = {**scope, "path": path, "raw_path": path.encode()}
        try:
            self._admit(scope)
            await self._app(scope, receive, _Failing(send))
        except ClientDisconnect:
            return
        except HansaError as error:
            await refusal(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the outermost frame of a request: it was answered, and is reported
            _log.error("a request of FEDn's API failed in hansa itself", path=path, exc_info=error)

    def _admit(self, scope: Scope) -> None:
        if is_foreign(scope):
            raise PermissionDeniedError("a page of another site may not call this server for the one who reads it")
        wait = self._pace.wait(str((scope.get("client") or ("",))[0]), time.monotonic())
        if wait:
            raise ThrottledError(f"too many requests: wait {wait:.2g} seconds", wait=wait)


class _Failing:
    """The way of an answer: what the framework says of a failure becomes what FEDn's own server says."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._failed = False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] == _FAULT:
            self._failed = True
            await self._send(message | {"headers": [(b"content-type", b"application/json")]})
        elif self._failed:
            await self._send({"type": "http.response.body", "body": b'{"message":"An unexpected error occurred"}'})
        else:
            await self._send(message)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HansaError)  # noqa: S101 - what it is registered for
    return refusal(error)


async def _unrouted(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the same
    return answer({"message": error.detail}, error.status_code)


# ── what has moved ───────────────────────────────────────────────────────────────────────────────────────────────────


async def _health(_: Request) -> Response:
    return PlainTextResponse("OK", media_type="text/html")


async def _moved_client(_: Request) -> Response:
    return answer({"message": "This endpoint is deprecated. Use /api/v1/clients/add instead."}, 410)


async def _moved_combiner(_: Request) -> Response:
    message = "This endpoint is deprecated. Combiners join with hansa combiner start."
    return answer({"success": False, "message": message, "status": "abort"}, 410)


def _moved(target: str) -> Handler:
    async def moved(_: Request) -> Response:
        return answer({"message": f"This endpoint is deprecated. Use {target} instead."}, 410 if target else 501)

    return moved
