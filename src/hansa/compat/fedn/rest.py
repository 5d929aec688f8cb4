"""FEDn's REST API over a controller: who may ask, and what is answered."""

import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import structlog
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hansa.api.guard import Gate
from hansa.api.headers import is_foreign
from hansa.api.pacing import Pace
from hansa.api.permissions import Permission
from hansa.compat.fedn.catalogue import IDS, Catalogue
from hansa.compat.fedn.formats import NUMPY, helper_names, helper_of, read_model
from hansa.compat.fedn.gateway import Gateway, token_in
from hansa.compat.fedn.graphql import Graph
from hansa.compat.fedn.legacy import LEGACY
from hansa.compat.fedn.listing import Asked, Document, plain, select
from hansa.compat.fedn.sessions import Sessions
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
from hansa.wire import codec
from hansa.wire.frames import ROOT

__all__ = ["Rest"]

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

_log = structlog.get_logger(__name__)

_JSON: Final = 1 << 20
"""Bytes of a request that is no file."""
_PACKAGE: Final = 256 << 20
_SHOWN: Final = 16 << 20
"""Bytes of a model that is shown as JSON."""
_UNPACKED: Final = 64
"""Times its size that an uploaded model may unpack to."""
_STATUS: Final = (
    (AuthenticationError, 401),
    (PermissionDeniedError, 403),
    (NotFoundError, 404),
    (ThrottledError, 429),
    (ConnectionFailedError, 503),
    (StorageUnavailableError, 503),
    (HansaError, 400),
)
_FAULT: Final = 500
_NO_ACTIVE_MODEL: Final = (
    "This endpoint has been deprecated and is no longer available.The active model concept is no longer used in Fedn. "
    "Please use the /models endpoint to retrieve models."
)
_HELPERS: Final = "Helper is required to be either 'numpyhelper', 'binaryhelper' or 'androidhelper'"


class Rest:
    """The routes; `app` is served."""

    def __init__(self, gateway: Gateway, address: tuple[str, int], *, secure: bool, limit: int) -> None:
        """address: host and port of the gRPC services; secure: whether they speak TLS; limit: bytes of a model."""
        self._gateway = gateway
        self._controller = gateway.controller
        self._project = gateway.project
        self._host, self._port = address
        self._secure = secure
        self._limit = limit
        self._catalogue = Catalogue(gateway, address)
        self._sessions = Sessions(gateway)
        self._graph = Graph(self._catalogue)
        self._gate = Gate(gateway.controller)
        self._pace = Pace(200.0, 2000.0)
        answers = {HansaError: _refused, HTTPException: _unrouted}
        self.app: ASGIApp = _Outermost(Starlette(routes=self._routes(), exception_handlers=answers), self._pace)

    def _routes(self) -> list[Route]:
        routes = [Route("/health", _health), Route("/add_client", _moved_client, methods=["POST"])]
        routes += [Route("/add_combiner", _moved_combiner, methods=["POST"])]
        v1, needs = "/api/v1", self._needs

        def add(path: str, handler: Handler, *methods: str) -> None:
            routes.append(Route(path, handler, methods=list(methods or ("GET",))))

        read, run, upload = Permission.READ, Permission.RUN, Permission.UPLOAD
        add("/get_controller_status", needs(read, self._controller_status))
        add(f"{v1}/clients/add", self._add_client, "POST")
        add(f"{v1}/clients/config", needs(read, self._client_config))
        add(f"{v1}/clients/{{id:path}}/attributes", needs(read, self._client_attributes))
        add(f"{v1}/clients/{{id:path}}", needs(Permission.ADMIT_NODES, self._delete_client), "DELETE")
        add(f"{v1}/combiners/clients/count", needs(read, self._combiner_clients), "POST")
        add(f"{v1}/combiners/{{id:path}}", needs(Permission.ADMIT_NODES, self._delete_combiner), "DELETE")
        add(f"{v1}/attributes", needs(run, self._post("attribute", "attributes")), "POST")
        add(f"{v1}/attributes/current", needs(read, self._current_attributes), "POST")
        add(f"{v1}/telemetry", needs(run, self._post("telemetry", "telemetry")), "POST")
        add(f"{v1}/helpers/active", needs(read, self._active_helper))
        add(f"{v1}/helpers/active", needs(upload, self._set_helper), "PUT")
        add(f"{v1}/models", needs(upload, self._upload_model), "POST")
        add(f"{v1}/models/active", needs(read, _no_active_model), "GET", "PUT")
        add(f"{v1}/models/leaf-nodes", needs(read, self._leaves))
        add(f"{v1}/models/{{id}}/ancestors", needs(read, self._ancestors))
        add(f"{v1}/models/{{id}}/descendants", needs(read, self._descendants))
        add(f"{v1}/models/{{id}}/download", needs(Permission.DOWNLOAD, self._download_model))
        add(f"{v1}/models/{{id}}/parameters", needs(Permission.DOWNLOAD, self._parameters))
        add(f"{v1}/models/{{id}}", needs(upload, self._change_model), "PATCH", "PUT")
        add(f"{v1}/packages", needs(upload, self._upload_package), "POST")
        add(f"{v1}/packages/active", needs(read, self._active_package))
        add(f"{v1}/packages/active", needs(upload, self._set_active_package), "PUT", "DELETE")
        add(f"{v1}/packages/download", self._clients_too(self._download_package))
        add(f"{v1}/packages/checksum", self._clients_too(self._checksum))
        add(f"{v1}/predictions/start", needs(run, self._predict), "POST")
        add(f"{v1}/sessions", needs(run, self._create_session), "POST")
        add(f"{v1}/sessions/start", needs(run, self._start_session), "POST")
        add(f"{v1}/sessions/start_splitlearning_session", needs(run, _no_split_learning), "POST")
        add(f"{v1}/sessions/{{id}}", needs(run, self._change_session), "PATCH", "PUT")
        add(f"{v1}/graphql", needs(read, self._query), "POST")
        for collection in IDS:
            self._add_collection(add, f"{v1}/{collection}", collection)
        for path, (methods, target) in LEGACY.items():
            add(path, needs(read, _moved(target)), *methods)
        return routes

    def _add_collection(self, add: Callable[..., None], path: str, collection: str) -> None:
        async def listed(request: Request) -> Response:
            count, found = select(await self._catalogue.every(collection), await _asked(request))
            return _answer({"count": count, "result": found})

        async def counted(request: Request) -> Response:
            count, _ = select(await self._catalogue.every(collection), await _asked(request))
            return _answer(count)

        async def one(request: Request) -> Response:
            return _answer(await self._catalogue.get(collection, request.path_params["id"]))

        read = self._needs
        add(path, read(Permission.READ, listed))
        add(f"{path}/list", read(Permission.READ, listed), "POST")
        add(f"{path}/count", read(Permission.READ, counted), "GET", "POST")
        add(f"{path}/{{id:path}}", read(Permission.READ, one))
        add(f"{path}{{id:path}}", read(Permission.READ, one))  # FEDn's command leaves the slash out, of statuses

    # ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _needs(self, permission: Permission, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            await self._check(request, permission)
            return await handler(request)

        return guarded

    def _clients_too(self, handler: Handler) -> Handler:
        """Of clients, with the token that they join with, and of people who may read."""

        async def guarded(request: Request) -> Response:
            try:
                self._gateway.check_client(_token(request))
            except AuthenticationError:
                await self._check(request, Permission.READ)
            return await handler(request)

        return guarded

    async def _check(self, request: Request, permission: Permission) -> None:
        token = _token(request)
        if not token:
            raise AuthenticationError("Missing token")
        identity = self._gate.identify(token)
        request.state.by = identity.name
        try:
            await self._gate.check(identity, permission, self._project)
        except (NotFoundError, PermissionDeniedError) as refusal:
            await self._gate.refused(identity, f"{request.method} fedn", self._project, refusal)
            raise

    # ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _add_client(self, request: Request) -> Response:
        """The eight keys that all families read, and no other: Kotlin's fails on any more."""
        told = await _object(request)
        try:
            return await self._assigned(request, told)
        except AuthenticationError as error:
            return _answer({"message": str(error)}, 401)
        except HansaError as error:
            return _answer({"success": False, "message": str(error)}, 400)

    async def _assigned(self, request: Request, told: Mapping[str, Any]) -> Response:
        preferred = told.get("preferred_combiner") or told.get("combiner_preferred") or ""
        if preferred and preferred not in {ROOT, *self._controller.tree(self._project).directory.combiners}:
            message = f"Combiner {preferred} not found or unavailable."
            return _answer({"success": False, "message": message}, 400)
        package = told.get("package") or "local"
        client_id = str(told.get("client_id") or uuid.uuid4())
        guest = await self._gateway.add(
            client_id,
            str(told.get("name") or client_id),
            _token(request),
            preferred="" if preferred == ROOT else str(preferred),
            validates="package" in told,
            package=str(package),
            ip=request.client.host if request.client is not None else "",
        )
        if package == "remote" and await self._active() is None:
            message = "No compute package found. Set package in controller."
            return _answer({"success": False, "status": "retry", "message": message}, 203)
        host = self._reached(request)
        by_name = self._secure or "package" not in told  # Kotlin's family dials fqdn:port, Python's host:port
        return _answer(
            {
                "status": "assigned",
                "host": host,
                "fqdn": host if by_name else "",
                "package": package,
                "ip": "",
                "port": self._port,
                "helper_type": await self._helper() or "",
                "client_id": guest.member.client_id,
            }
        )

    def _reached(self, request: Request) -> str:
        """Where a client that came here finds the gRPC services."""
        return request.url.hostname or self._host if self._host in {"", "0.0.0.0", "::"} else self._host  # noqa: S104

    async def _client_config(self, request: Request) -> Response:
        told: dict[str, Any] = {
            "discover_host": request.url.hostname,
            "discover_port": request.url.port,
            "network_id": "fedn-network",
        }
        active = await self._active()
        if request.query_params.get("checksum", "true") == "true" and active is not None:
            told["checksum"] = {"checksum": active["checksum"], "success": True}
        return _answer(told)

    async def _client_attributes(self, request: Request) -> Response:
        return _answer((await self._attributes()).get(request.path_params["id"], {}))

    async def _current_attributes(self, request: Request) -> Response:
        wanted = (await _object(request)).get("client_ids")
        if not isinstance(wanted, list):
            raise InputError("client_ids is needed: a list")
        known = await self._attributes()
        return _answer({each: known.get(each, f"Entity with client_id: {each} not found") for each in map(str, wanted)})

    async def _attributes(self) -> dict[str, dict[str, Any]]:
        """Client → its newest value of each key."""
        found: dict[str, dict[str, Any]] = {}
        for each in await self._catalogue.every("attributes"):
            sender = each["sender"] or {}
            found.setdefault(sender.get("client_id") or "", {})[each["key"]] = each["value"]
        return found

    async def _delete_client(self, request: Request) -> Response:
        name = request.path_params["id"]
        if not await self._gateway.forget(name):
            await self._catalogue.get("clients", name)
            await self._controller.nodes.revoke(self._project, name, by=request.state.by)
        return _answer({"message": "Client deleted"})

    async def _delete_combiner(self, request: Request) -> Response:
        name = request.path_params["id"]
        await self._catalogue.get("combiners", name)
        if name == ROOT:
            raise InputError("the root is this server itself, and cannot be deleted")
        await self._controller.nodes.revoke(self._project, name, by=request.state.by)
        return _answer({"message": "Combiner deleted"})

    async def _combiner_clients(self, request: Request) -> Response:
        names = str((await _object(request)).get("combiners", "")).split(",")
        clients = [each for each in await self._catalogue.every("clients") if each["status"] == "online"]
        counts = [{"id": name, "count": sum(each["combiner"] == name for each in clients)} for name in names]
        return _answer({"result": counts})

    def _post(self, kind: str, collection: str) -> Handler:
        async def posted(request: Request) -> Response:
            told = await _object(request)
            if not told.get("key") or told.get("value") is None or not isinstance(told.get("sender"), dict):
                raise InputError("key, value and sender are needed")
            value = str(told["value"]) if kind == "attribute" else float(told["value"])
            kept = {"key": str(told["key"]), "value": value, "sender": told["sender"]}
            note = self._gateway.notes.tell(kind, kept)
            return _answer(await self._catalogue.get(collection, note.name), 201)

        return posted

    # ── models ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _helper(self) -> str | None:
        try:
            return str((await self._gateway.notes.get("setting", "helper")).data["helper"])
        except NotFoundError:
            return None

    async def _active_helper(self, _: Request) -> Response:
        helper = await self._helper()
        return _answer({"message": "No active helper"}, 400) if helper is None else _answer(helper)

    async def _set_helper(self, request: Request) -> Response:
        await self._use_helper((await _object(request)).get("helper"))
        return _answer({"message": "Active helper set"})

    async def _use_helper(self, name: object) -> None:
        if name not in helper_names():
            raise InputError(_HELPERS)
        await self._gateway.notes.put("setting", {"helper": str(name)}, name="helper")

    async def _upload_model(self, request: Request) -> Response:
        data, told = await _file(request, self._limit)
        helper = told.get("helper") or await self._helper() or NUMPY
        if helper not in helper_names():
            raise InputError(_HELPERS)
        arrays = read_model(data, helper_of(helper), min(self._limit, _UNPACKED * len(data) + _JSON))
        name = told.get("name") or ""
        await self._controller.add_model(self._project, b"".join(codec.encode(arrays)), name, request.state.by)
        if await self._helper() is None:
            await self._use_helper(helper)
        return _answer({"success": True, "message": "Model added successfully"})

    async def _change_model(self, request: Request) -> Response:
        told, model = await _object(request), request.path_params["id"]
        document = await self._catalogue.get("models", model)
        others = set(told) - {"model", "model_id", "name"}
        if others:
            raise InputError(f"only a model's name can be changed, not {', '.join(sorted(others))}")
        if "name" in told:
            await self._controller.name_model(self._project, model, str(told["name"] or ""), request.state.by)
            document = await self._catalogue.get("models", model)
        return _answer(document)

    async def _ancestors(self, request: Request) -> Response:
        documents = {each["model_id"]: each for each in await self._catalogue.every("models")}
        model, trail = request.path_params["id"], list[Document]()
        if model not in documents:
            raise NotFoundError(f"Entity with id: {model} not found")
        if request.query_params.get("include_self", "false").lower() != "true":
            model = documents[model]["parent_model"]
        limit = Asked.of({}, request.headers).limit or 1000
        while model in documents and len(trail) < limit:
            trail.append(documents.pop(model))
            model = trail[-1]["parent_model"]
        return _answer(trail[::-1] if request.headers.get("x-reverse", "").lower() == "true" else trail)

    async def _descendants(self, request: Request) -> Response:
        await self._catalogue.get("models", request.path_params["id"])
        limit = Asked.of({}, request.headers).limit or 1000
        found = await self._controller.store.descendants(self._project, request.path_params["id"], limit)
        documents = {each["model_id"]: each for each in await self._catalogue.every("models")}
        return _answer([documents[each.id] for each in found])

    async def _leaves(self, _: Request) -> Response:
        documents = await self._catalogue.every("models")
        parents = {each["parent_model"] for each in documents}
        return _answer([each for each in documents if each["model_id"] not in parents])

    async def _download_model(self, request: Request) -> Response:
        model = request.path_params["id"]
        document = await self._catalogue.get("models", model)
        helper = request.query_params.get("helper") or await self._helper_of(document) or NUMPY
        file = (await self._gateway.model_file(None, model, helper)).open("rb")

        async def pieces() -> AsyncIterator[bytes]:
            with file:  # open, so that it is whole whatever becomes of its name
                while piece := file.read(_JSON):
                    yield piece

        headers = {"Content-Disposition": f"attachment; filename={model}"}
        return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)

    async def _helper_of(self, model: Document) -> str | None:
        """The helper of the session that made it, else the active one."""
        if model["session_id"]:
            session = await self._catalogue.get("sessions", model["session_id"])
            return str(session["session_config"]["helper_type"])
        return await self._helper()

    async def _parameters(self, request: Request) -> Response:
        model = request.path_params["id"]
        record = await self._controller.model_with_bytes(self._project, model)
        if record.size > _SHOWN:
            raise InputError(f"the model has {record.size:,} bytes: download it")
        async with self._controller.retention.holds.holding(model):
            arrays = codec.load(await self._controller.objects.fetch(model))
        return _answer({"array": [np.asarray(array, np.float64).tolist() for array in arrays.values()]})

    # ── packages ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _active(self) -> dict[str, Any] | None:
        """The active compute package, as it is kept."""
        async for note in self._gateway.notes.every("package"):
            if note.data.get("active"):
                return {**note.data, "package_id": note.name}
        return None

    async def _activate(self, wanted: str) -> None:
        async for note in self._gateway.notes.every("package"):
            if bool(note.data.get("active")) != (note.name == wanted):
                await self._gateway.notes.put("package", {**note.data, "active": note.name == wanted}, name=note.name)

    async def _upload_package(self, request: Request) -> Response:
        data, told = await _file(request, _PACKAGE)
        helper = told.get("helper") or await self._helper() or NUMPY
        if helper not in helper_names():
            raise InputError(_HELPERS)
        file_name = Path(told["file_name"]).name
        suffix = next((each for each in (".tgz", ".tar.gz", ".tar.bz2") if file_name.endswith(each)), None)
        if suffix is None:
            raise InputError("File extension not allowed: a package is a .tgz, .tar.gz or .tar.bz2")
        package = str(uuid.uuid4())
        record = await self._controller.add_archive(self._project, data, package, request.state.by)
        kept = {
            "active": False,
            "description": told.get("description") or "",
            "file_name": file_name,
            "helper": helper,
            "name": told.get("name") or file_name,
            "storage_file_name": f"{package}{suffix}",
            "digest": record.id,
            "checksum": hashlib.sha256(data).hexdigest(),
        }
        await self._gateway.notes.put("package", kept, name=package)
        await self._activate(package)
        await self._use_helper(helper)
        return _answer({"message": "Package uploaded"})

    async def _active_package(self, _: Request) -> Response:
        active = await self._active()
        if active is None:
            raise NotFoundError("No active package found")
        return _answer(await self._catalogue.get("packages", active["package_id"]))

    async def _set_active_package(self, request: Request) -> Response:
        if request.method == "DELETE":
            if await self._active() is None:
                raise NotFoundError("No active package found")
            await self._activate("")
            return _answer({"message": "Active package deleted"})
        package = str((await _object(request)).get("id", ""))
        await self._catalogue.get("packages", package)
        await self._activate(package)
        return _answer({"message": "Active package set"})

    async def _named_package(self, request: Request) -> dict[str, Any]:
        name = request.query_params.get("name")
        if not name:
            active = await self._active()
            if active is None:
                raise NotFoundError("No active package found")
            return active
        async for note in self._gateway.notes.every("package"):
            if name in {note.name, note.data.get("storage_file_name"), note.data.get("name")}:
                return {**note.data, "package_id": note.name}
        raise NotFoundError(f"Entity with id: {name} not found")

    async def _download_package(self, request: Request) -> Response:
        package = await self._named_package(request)
        path = await self._controller.objects.fetch(package["digest"])
        headers = {"Content-Disposition": f"attachment; filename={package['storage_file_name']}"}
        return FileResponse(path, media_type="application/x-tar", headers=headers)

    async def _checksum(self, request: Request) -> Response:
        try:
            package = await self._named_package(request)
        except NotFoundError:
            return _answer({"checksum": None, "message": "File not found."}, 404)
        return _answer({"checksum": package["checksum"], "message": "Checksum of the package."})

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _controller_status(self, _: Request) -> Response:
        sessions = await self._catalogue.every("sessions")
        return _answer({"state": "monitoring" if any(each["status"] == "Started" for each in sessions) else "idle"})

    async def _create_session(self, request: Request) -> Response:
        session = await self._sessions.create(await _object(request), request.state.by)
        return _answer(await self._catalogue.get("sessions", session.id), 201)

    async def _start_session(self, request: Request) -> Response:
        await self._sessions.start(await _object(request), request.state.by)
        return _answer({"message": "Session started"})

    async def _change_session(self, request: Request) -> Response:
        name = request.path_params["id"]
        await self._catalogue.get("sessions", name)
        await self._sessions.change(name, await _object(request), request.state.by)
        return _answer(await self._catalogue.get("sessions", name))

    async def _predict(self, request: Request) -> Response:
        told = await _object(request)
        prediction = str(told.get("prediction_id") or "")
        if not prediction:
            raise InputError("prediction_id is required")
        models = await self._catalogue.every("models")
        model = told.get("model_id") or max(models, key=lambda each: each["committed_at"], default={}).get("model_id")
        if model is None:
            raise InputError("No models found in the repository")
        document = await self._catalogue.get("models", str(model))
        await self._gateway.predict(prediction, str(model), await self._helper_of(document) or NUMPY)
        return _answer({"message": "Prediction session started"})

    async def _query(self, request: Request) -> Response:
        told = await _object(request)
        return _answer(await self._graph.answer(str(told.get("query", "")), told.get("variables") or {}))


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
            await _told(error)(scope, receive, send)
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
    return _told(error)


async def _unrouted(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the same
    return _answer({"message": error.detail}, error.status_code)


def _told(error: HansaError) -> Response:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return _answer({"message": _said(error)}, status)


def _said(error: HansaError) -> str:
    """FEDn's scripts compare these with what their own server says."""
    if isinstance(error, AuthenticationError) and str(error) != "Missing token":
        return "Token expired" if "expired" in str(error) else "Invalid token"
    return str(error)


def _answer(value: Any, status: int = 200) -> JSONResponse:
    return JSONResponse(plain(value), status)


def _token(request: Request) -> str:
    """Of an authorization header, whatever scheme FEDN_AUTH_SCHEME has put before it."""
    header = request.headers.get("authorization", "")
    return token_in(header.partition(" ")[2] or header)


async def _body(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise InputError(f"the request's body is larger than the {limit:,} bytes allowed here")
    return bytes(data)


async def _object(request: Request) -> dict[str, Any]:
    """What a request says, as JSON or as a form."""
    if request.headers.get("content-type", "").partition(";")[0] in {
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    }:
        async with request.form(max_files=0) as form:
            return {key: value for key, value in form.items() if isinstance(value, str)}
    body = await _body(request, _JSON)
    try:
        told = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise InputError("the body must be a JSON object")
    return told


async def _file(request: Request, limit: int) -> tuple[bytes, dict[str, str]]:
    """(the uploaded file, what else the form says, with the file's name as `file_name`)."""
    announced = request.headers.get("content-length", "")
    if not announced.isdigit() or int(announced) > limit + _JSON:
        raise InputError(f"an upload says its length beforehand, and has {limit:,} bytes at most")
    async with request.form(max_files=1, max_fields=20) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise InputError("Missing file")
        told = {key: value for key, value in form.items() if isinstance(value, str)}
        return await file.read(), told | {"file_name": file.filename or ""}


async def _asked(request: Request) -> Asked:
    where: dict[str, Any] = {key: value.removesuffix("/") for key, value in request.query_params.items()}
    if request.method == "POST":
        where |= await _object(request)
    return Asked.of(where, request.headers)


async def _health(_: Request) -> Response:
    return PlainTextResponse("OK", media_type="text/html")


async def _no_active_model(_: Request) -> Response:
    return _answer({"error": _NO_ACTIVE_MODEL}, 410)


async def _no_split_learning(_: Request) -> Response:
    raise InputError("split learning runs as a program of parties here: see docs/how-to/split-and-vertical.md")


async def _moved_client(_: Request) -> Response:
    return _answer({"message": "This endpoint is deprecated. Use /api/v1/clients/add instead."}, 410)


async def _moved_combiner(_: Request) -> Response:
    message = "This endpoint is deprecated. Combiners join with hansa combiner start."
    return _answer({"success": False, "message": message, "status": "abort"}, 410)


def _moved(target: str) -> Handler:
    async def moved(_: Request) -> Response:
        return _answer({"message": f"This endpoint is deprecated. Use {target} instead."}, 410 if target else 501)

    return moved
