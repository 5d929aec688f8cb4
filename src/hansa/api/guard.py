"""The gate in front of every route: who is calling, may they, is the request small enough. No route can forget it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hansa.api.answers import RefusedError, answer, fault
from hansa.errors import AuthenticationError, HansaError, InputError, NotFoundError, PermissionDeniedError
from hansa.network.controller.controller import Controller
from hansa.packages.archive import MAX_ARCHIVE
from hansa.wire.frames import Role
from hansa.wire.tokens import Identity

__all__ = ["ROOT", "Guard", "Limits", "caller"]

ROOT: Final = "/api/v1"
_OPEN: Final = frozenset({"/healthz"})
_FOR_ALL: Final = frozenset({("GET", f"{ROOT}/me")})
_PROJECTS: Final = f"{ROOT}/projects/"
_TOO_LARGE: Final = 413


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
    spool: Path | None = None
    """Folder for uploads under way, which leave nothing there; None: the system's temporary folder."""


def caller(request: Request) -> Identity:
    """Whose request this is."""
    identity: Identity = request.state.identity
    return identity


class Guard:
    """ASGI middleware, outermost."""

    def __init__(self, app: ASGIApp, controller: Controller, limits: Limits) -> None:
        """app: everything behind the gate."""
        self._app = app
        self._controller = controller
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if path not in _OPEN:
                scope.setdefault("state", {})["identity"] = self._admit(scope, path)
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
        if not started:
            await response(scope, receive, send)

    def _admit(self, scope: Scope, path: str) -> Identity:
        """Who is calling; raises what is to be answered instead."""
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise AuthenticationError("this needs a token: send the header `Authorization: Bearer TOKEN`")
        identity = self._controller.verify(token.strip())
        if identity.role is not Role.ADMIN and (scope["method"], path) not in _FOR_ALL:
            raise PermissionDeniedError(
                f"{identity.name} has the role {identity.role.value}, which may not use the REST API; "
                "use an admin's token"
            )
        if path.startswith(_PROJECTS):
            project = path.removeprefix(_PROJECTS).partition("/")[0]
            if project != identity.project:
                raise NotFoundError(
                    f"this token knows no project {project!r}: it is for {identity.project}; use one of that project"
                )
        return identity

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


def _sentence(limit: int) -> str:
    return f"the request's body is larger than the {limit:,} bytes allowed here"
