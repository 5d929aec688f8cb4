"""How FEDn's requests are read, and answered in its words."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Final, TypeAlias

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from hansa.api.permissions import Permission
from hansa.compat.fedn.gateway import token_in
from hansa.compat.fedn.listing import Asked, plain
from hansa.errors import (
    AuthenticationError,
    ConnectionFailedError,
    HansaError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    StorageUnavailableError,
    ThrottledError,
)

__all__ = ["SMALL", "Handler", "Way", "answer", "asked", "read_file", "read_object", "refusal", "token_of"]

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

SMALL: Final = 1 << 20
"""Bytes of a request that is no file."""
_FIELDS: Final = 20
_FORMS: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
_STATUS: Final = (
    (AuthenticationError, 401),
    (PermissionDeniedError, 403),
    (NotFoundError, 404),
    (ThrottledError, 429),
    (ConnectionFailedError, 503),
    (StorageUnavailableError, 503),
    (HansaError, 400),
)


@dataclass(frozen=True, slots=True)
class Way:
    """One route."""

    path: str
    """Below /api/v1."""
    handler: Handler
    needs: Permission | None
    """What a person must be allowed to; None: the handler itself knows who may ask."""
    methods: tuple[str, ...] = ("GET",)
    for_clients: bool = False
    """Whether clients may ask too, with the token that they join with."""


def answer(value: Any, status: int = 200) -> JSONResponse:
    """A document, a list or a number as JSON."""
    return JSONResponse(plain(value), status)


def refusal(error: HansaError) -> Response:
    """What is said of an error."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return answer({"message": _said(error)}, status)


def token_of(request: Request) -> str:
    """Of an authorization header, whatever scheme FEDN_AUTH_SCHEME has put before it; empty: there is none."""
    header = request.headers.get("authorization", "")
    return token_in(header.partition(" ")[2] or header)


async def read_object(request: Request) -> dict[str, Any]:
    """What a request says, as JSON or as a form. Raises `InputError`."""
    body = await _body(request, SMALL)
    if request.headers.get("content-type", "").partition(";")[0] in _FORMS:
        whole = Request(request.scope, partial(_received, body))  # else only its fields have bounds
        async with whole.form(max_files=0, max_fields=_FIELDS) as form:
            return {key: value for key, value in form.items() if isinstance(value, str)}
    try:
        told = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise InputError("the body must be a JSON object")
    return told


@asynccontextmanager
async def read_file(request: Request, limit: int) -> AsyncIterator[tuple[IO[bytes], dict[str, str]]]:
    """(the uploaded file, what else the form says, with the file's name as `file_name`). limit: bytes of the file."""
    announced = request.headers.get("content-length", "")
    if not announced.isdigit() or int(announced) > limit + SMALL:
        raise InputError(f"an upload says its length beforehand, and has {limit:,} bytes at most")
    async with request.form(max_files=1, max_fields=_FIELDS) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InputError("Missing file")
        told = {key: value for key, value in form.items() if isinstance(value, str)}
        yield file.file, told | {"file_name": file.filename or ""}


async def asked(request: Request) -> Asked:
    """What a list is asked for."""
    where: dict[str, Any] = {key: value.removesuffix("/") for key, value in request.query_params.items()}
    if request.method == "POST":
        where |= await read_object(request)
    return Asked.of(where, request.headers)


async def _body(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise InputError(f"the request's body is larger than the {limit:,} bytes allowed here")
    return bytes(data)


async def _received(body: bytes) -> Message:
    return {"type": "http.request", "body": body}


def _said(error: HansaError) -> str:
    """FEDn's scripts compare these with what their own server says."""
    if isinstance(error, AuthenticationError) and str(error) != "Missing token":
        return "Token expired" if "expired" in str(error) else "Invalid token"
    return str(error)
