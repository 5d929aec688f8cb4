"""Errors become problem details here, never a traceback; a fault of the server has an id, which its log has too."""

import math
import traceback
import uuid
from collections.abc import Sequence
from typing import Any, Final, cast

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hansa.api.problems import MEDIA_TYPE, problem, status_of
from hansa.errors import (
    AuthenticationError,
    ConflictError,
    HansaError,
    InputError,
    NotFoundError,
    ThrottledError,
)

__all__ = ["RefusedError", "answer", "fault", "install"]

_log = structlog.get_logger(__name__)

_UNREADABLE: Final = 400
_FAULT: Final = 500


class RefusedError(Exception):
    """A refusal whose status only the caller of HTTP needs to know."""

    def __init__(self, error: HansaError, status: int) -> None:
        """status: for example 413 or 429."""
        super().__init__(str(error))
        self.error = error
        self.status = status


def answer(error: HansaError, path: str, status: int | None = None) -> Response:
    """The response to an error; one that is the server's fault is logged."""
    if (status or status_of(error)) >= _FAULT:
        return fault(error, path)
    headers: dict[str, str] = {}
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, ThrottledError) and error.wait:
        headers["Retry-After"] = str(math.ceil(error.wait))
    body = problem(error, path, status)
    return JSONResponse(body, body["status"], headers, media_type=MEDIA_TYPE)


def fault(error: Exception, path: str) -> Response:
    """The response to an error that the caller cannot help: logged with an id, which the body names."""
    number = uuid.uuid4().hex[:12]
    told = "".join(traceback.format_exception(error))  # plain: a renderer of its own might show locals, and tokens
    _log.error("a request failed", fault=number, path=path, exception=told)
    known = error if isinstance(error, HansaError) else HansaError("something went wrong in the server")
    body = problem(known, f"urn:hansa:fault:{number}")
    body["detail"] = f"{body['detail']}; the server's log has it under {number}"
    return JSONResponse(body, body["status"], media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of a route with a problem."""
    app.add_exception_handler(HansaError, _hansa)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def _hansa(request: Request, error: Exception) -> Response:
    return answer(cast("HansaError", error), request.url.path)


def _refused(request: Request, error: Exception) -> Response:
    refused = cast("RefusedError", error)
    return answer(refused.error, request.url.path, refused.status)


def _invalid(request: Request, error: Exception) -> Response:
    wrong = [_field_and_message(item) for item in cast("RequestValidationError", error).errors()]
    sentence = "; ".join(f"{field}: {message}" if field else message for field, message in wrong[:5])
    body = problem(InputError(sentence), request.url.path)
    body["errors"] = [{"field": field, "message": message} for field, message in wrong]
    return JSONResponse(body, body["status"], media_type=MEDIA_TYPE)


def _field_and_message(item: dict[str, Any]) -> tuple[str, str]:
    """("spec.rounds", "Input should be a valid integer"): never the input itself, which may be a secret."""
    location: Sequence[str | int] = item.get("loc", ())
    field = ".".join(str(part) for part in location if part not in {"body", "query", "path"})
    if item.get("type") == "json_invalid":
        return "", "the body is not valid JSON"
    message = str(item.get("msg", "it does not fit")).removeprefix("Value error, ")
    return field.encode("ascii", "backslashreplace").decode(), message.encode("utf-8", "backslashreplace").decode()


def _http(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: an unknown path, a wrong method, a body that cannot be parsed."""
    refusal = cast("HTTPException", error)
    path = request.url.path
    known: dict[int, HansaError] = {
        404: NotFoundError(f"there is no route {path}; GET /api/v1/openapi.json lists them"),
        400: InputError("the body cannot be read: send JSON, in UTF-8, with Content-Type: application/json"),
        405: ConflictError(f"{path} has no {request.method}; GET /api/v1/openapi.json lists what it has"),
    }
    wrong = known.get(refusal.status_code, InputError(str(refusal.detail)))
    response = answer(wrong, path, None if refusal.status_code == _UNREADABLE else refusal.status_code)
    for name, value in (refusal.headers or {}).items():
        response.headers[name] = value
    return response
