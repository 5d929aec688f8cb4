"""The gate in front of every route: who is calling, may they, is the request small enough. No route can forget it.

A route says which permission it needs when it is added (`Routes.add`); the guard finds the route before anything of the
request is read, and asks the store's members whether the caller has it in the project of the path.
"""

import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hansa.api.answers import RefusedError, answer, fault
from hansa.api.headers import is_foreign, token_of, with_security
from hansa.api.pacing import Pace
from hansa.api.permissions import Permission, allows, holders
from hansa.errors import (
    AuthenticationError,
    HansaError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    ThrottledError,
)
from hansa.network.controller.audit import audit_line
from hansa.network.controller.controller import Controller
from hansa.network.controller.throttle import Throttle
from hansa.packages.archive import MAX_ARCHIVE
from hansa.store.records import INSTALLATION
from hansa.wire.frames import Role
from hansa.wire.tokens import Identity

__all__ = ["ROOT", "Gate", "Guard", "Limits", "Routes", "caller", "permission_of"]

ROOT: Final = "/api/v1"
_REFUSALS: Final = 60
"""Refusals of one caller in a minute that are noted in the audit record."""
_PERMISSION: Final = "x-permission"
"""Where a route keeps its permission: the OpenAPI document shows it too."""
_PROJECTS: Final = f"{ROOT}/projects/"
_TOO_LARGE: Final = 413
_SCRAPER: Final = "scraper"
"""Whoever has the scraper's token."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server lets its callers use."""

    body: int = 1 << 20
    """Bytes of a JSON request."""
    model: int = 16 << 30
    """Bytes of an uploaded model."""
    package: int = MAX_ARCHIVE
    """Bytes of an uploaded package."""
    streams: int = 256
    """Event streams open at once."""
    streams_of_one: int = 32
    """Event streams open at once with one token."""
    requests: float = 200.0
    """Requests of one person or node in a second; ten times as many at once, after a pause."""
    strangers: float = 20.0
    """The same of an address that shows no token: logins and the like."""
    spool: Path | None = None
    """Folder for uploads under way, which leave nothing there; None: the system's temporary folder."""
    scraper: str = field(default="", repr=False)
    """Token with which the installation's metrics are read, and nothing else; empty: there is none."""


def caller(request: Request) -> Identity:
    """Whose request this is."""
    identity: Identity = request.state.identity
    return identity


class Routes:
    """Where routes are added, each with a permission: one without cannot be."""

    def __init__(
        self, router: APIRouter, prefix: str = "", *, responses: Mapping[int | str, Any] | None = None, **common: Any
    ) -> None:
        """prefix: of every path; responses, common: what every route has, as options of `add_api_route`."""
        self._router = router
        self._prefix = prefix
        self._responses = dict(responses or {})
        self._common = common

    def add(self, permission: Permission, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route; options: those of `add_api_route`."""
        extra = options.pop("openapi_extra", {}) | {_PERMISSION: permission.value}
        responses = self._responses | options.pop("responses", {})
        options = self._common | options
        self._router.add_api_route(self._prefix + path, endpoint, openapi_extra=extra, responses=responses, **options)


def permission_of(route: BaseRoute) -> Permission:
    """What a route needs; raises `LookupError` for one that was added past `Routes`."""
    extra = getattr(route, "openapi_extra", None) or {}
    if _PERMISSION not in extra:
        raise LookupError(f"the route {getattr(route, 'path', route)!r} names no permission: add it with Routes.add")
    return Permission(extra[_PERMISSION])


class Gate:
    """Whether a caller may: the one place where it is decided."""

    def __init__(self, controller: Controller) -> None:
        """controller: knows people, their roles and their tokens."""
        self._controller = controller
        self._refusals = Throttle(_REFUSALS, 60.0)

    async def refused(self, identity: Identity, asked: str, project: str, refusal: HansaError) -> None:
        """Note in the audit record that somebody asked for what they may not have. asked: method and path of the route.

        Of one caller so many in a minute and no more: whoever is refused cannot fill the disk.
        """
        now = time.monotonic()
        if self._refusals.wait(identity.name, now) > 0:
            return
        self._refusals.count(identity.name, now)
        known = isinstance(refusal, PermissionDeniedError) and identity.role is Role.PERSON
        place = project if known else INSTALLATION
        line = audit_line(place, identity.name, "request", asked, outcome="refused", detail=type(refusal).__name__)
        await self._controller.people.note(line)

    def identify(self, token: str) -> Identity:
        """Who holds a token; raises `AuthenticationError`."""
        return self._controller.verify(token)

    async def check(self, identity: Identity, permission: Permission | None, project: str = INSTALLATION) -> None:
        """Raise what is to be answered to one who may not, in the project of the path if there is one.

        permission: None where there is no such route, so that nothing is allowed and only the project is checked.
        """
        if identity.role is not Role.PERSON:
            if permission is None or not allows(permission, [identity.role]):
                raise PermissionDeniedError(
                    f"{identity.name} has the role {identity.role.value}, which may not use the REST API; "
                    "log in as a person"
                )
            return
        bounds = await self._controller.people.bounds(identity, project)
        roles = bounds.roles if project != INSTALLATION else [identity.role]
        if permission is None or bounds.admin or allows(permission, roles):
            return
        place = f" in project {project}" if project != INSTALLATION else ""
        held = " bounded to ".join(role.value for role in roles)
        raise PermissionDeniedError(
            f"{identity.name} ({held}) may not {permission.value}{place}; this needs one of: {holders(permission)}"
        )


class _Sending:
    """The way of an answer, which gets what every answer has."""

    def __init__(self, send: Send, answered: Callable[[int], None], *, encrypted: bool) -> None:
        """answered: is told the status, once there is one."""
        self._send = send
        self._answered = answered
        self._encrypted = encrypted
        self.begun = False

    async def __call__(self, message: Message) -> None:
        self.begun = True
        if message["type"] == "http.response.start":
            self._answered(int(message["status"]))
            message["headers"] = with_security(message.get("headers", ()), encrypted=self._encrypted)
        await self._send(message)


class Guard:
    """ASGI middleware, outermost."""

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        limits: Limits,
        routes: Sequence[BaseRoute],
        answered: Callable[[str, str, int], None],
    ) -> None:
        """app: everything behind the guard; routes: those of the application.

        answered: is told the method, the route and the status of every answer; empty: there is no such route.
        """
        self._app = app
        self._gate = gate
        self._limits = limits
        self._routes = routes
        self._answered = answered
        self._callers = Pace(limits.requests, 10 * limits.requests)
        self._strangers = Pace(limits.strangers, 10 * limits.strangers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        permission, project, asked = self._wanted(scope)
        method, _, route = asked.partition(" ") if permission is not None else ("", "", "")
        sending = _Sending(send, partial(self._answered, method, route), encrypted=scope["scheme"] == "https")
        try:
            await self._admit(scope, permission, project, asked)
            await self._app(scope, self._bounded(scope, path, receive), sending)
        except ClientDisconnect:
            return
        except RefusedError as refused:
            response = answer(refused.error, path, refused.status)
        except HansaError as error:
            response = answer(error, path)
        except Exception as error:  # noqa: BLE001 - the outermost frame of a request: it answers, and reports
            response = fault(error, path)
        else:
            return
        if not sending.begun:
            await response(scope, receive, sending)

    async def _admit(self, scope: Scope, permission: Permission | None, project: str, asked: str) -> None:
        """Let the caller in, and note who it is; raises what is to be answered instead. For the rest, see `_wanted`."""
        if is_foreign(scope):
            raise PermissionDeniedError("a page of another site may not call this server for the one who reads it")
        if permission is Permission.STRANGERS:
            client = scope.get("client")
            _paced(self._strangers, str(client[0]) if client else "")
            return
        token = token_of(scope)
        if not token:
            raise AuthenticationError("this needs a token: send the header `Authorization: Bearer TOKEN`")
        if permission is Permission.MONITOR and _same(token, self._limits.scraper):
            _paced(self._callers, _SCRAPER)
            return
        identity = self._gate.identify(token)
        _paced(self._callers, f"{identity.project}/{identity.name}")
        try:
            await self._gate.check(identity, permission, project)
        except (NotFoundError, PermissionDeniedError) as refusal:
            await self._gate.refused(identity, asked, project, refusal)
            raise
        scope.setdefault("state", {})["identity"] = identity

    def _wanted(self, scope: Scope) -> tuple[Permission | None, str, str]:
        """(what the route needs, the project of its path, method and path of the route).

        None where no route has this path and method. The path is as the route has it, without ids or what may be typed.
        """
        project, asked = INSTALLATION, str(scope["method"])
        for route in self._routes:
            match, found = route.matches(scope)
            if match is not Match.NONE:
                project = found.get("path_params", {}).get("project", INSTALLATION)
                asked = f"{scope['method']} {getattr(route, 'path', '')}"
            if match is Match.FULL:
                return permission_of(route), project, asked
        return None, project, asked

    def _bounded(self, scope: Scope, path: str, receive: Receive) -> Receive:
        """`receive` that refuses a body of too many bytes, announced or not."""
        limit = self._limit(scope["method"], path)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            raise RefusedError(InputError(_sentence(limit)), _TOO_LARGE)
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(_TOO_LARGE, _sentence(limit))  # the framework lets this one through
            return message

        return bounded

    def _limit(self, method: str, path: str) -> int:
        rest = path.removeprefix(_PROJECTS).partition("/")[2] if path.startswith(_PROJECTS) else ""
        if method == "POST" and rest == "models":
            return self._limits.model
        if method == "POST" and rest == "packages":
            return self._limits.package
        return self._limits.body


def _same(token: str, scraper: str) -> bool:
    """Whether this is the scraper's token, compared in a time that tells nothing of it."""
    return bool(scraper) and hmac.compare_digest(token.encode("utf-8", "replace"), scraper.encode())


def _paced(pace: Pace, who: str) -> None:
    """Raise `ThrottledError` for one request too many."""
    wait = pace.wait(who, time.monotonic())
    if wait:
        raise ThrottledError(
            f"these are more requests than this server takes from one caller: wait {wait:.2g} seconds", wait=wait
        )


def _sentence(limit: int) -> str:
    return f"the request's body is larger than the {limit:,} bytes allowed here"
