"""Models and packages: bytes in, bytes out, by their digests."""

import asyncio
import mmap
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

from fastapi import Depends, Request
from fastapi import Query as QueryParameter
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from hansa.api.documents import record_document
from hansa.api.guard import Limits, Routes, caller
from hansa.api.permissions import Permission
from hansa.api.routes.lists import Cursors, add_list, list_shape, listed
from hansa.api.shapes.models import ModelShape, PackageContentsShape, PackageShape
from hansa.errors import NotFoundError
from hansa.network.controller.audit import audit_line
from hansa.network.controller.controller import Controller
from hansa.packages.package import SUFFIX, Package
from hansa.packages.package import read as read_package
from hansa.store.ports import Page
from hansa.store.records import ModelRecord, PackageRecord
from hansa.wire.tokens import Identity

__all__ = ["ModelRoutes", "PackageRoutes"]

T = TypeVar("T")

_IN_MEMORY: Final = 4 << 20
"""Bytes up to which an upload is not spooled to disk, and of one write to it."""
_BYTES: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_SHOWN: Final = 1 << 20
"""Bytes of a package's file that are shown as text."""
_UPLOAD: Final[dict[str, Any]] = {
    "status_code": 201,
    "openapi_extra": {"requestBody": {"required": True, "content": _BYTES}},
}
_DELETE: Final[dict[str, Any]] = {"methods": ["DELETE"], "status_code": 204, "response_class": Response}
_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The safetensors file", "content": _BYTES},
    206: {"description": "The range that was asked for"},
    304: {"description": "The caller has it already"},
}
_PACKAGE: Final[dict[int | str, dict[str, Any]]] = {200: {"description": "The package", "content": _BYTES}}
Caller = Annotated[Identity, Depends(caller)]
Trail = Annotated[int, QueryParameter(ge=1, le=1000, description="Models at most.")]
Parent = Annotated[
    str | None, QueryParameter(max_length=64, description="Digest of the model that it was made from elsewhere.")
]
Name = Annotated[str, QueryParameter(max_length=200, description="What people call it.")]


class ModelRoutes:
    """The model trail."""

    def __init__(self, controller: Controller, cursors: Cursors, limits: Limits) -> None:
        """controller: keeps models; limits: of uploads."""
        self._controller = controller
        self._cursors = cursors
        self._limits = limits

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        add = routes.add
        listing = list_shape(ModelShape)
        about = "The model trail: seeds and the models of committed rounds."
        store = self._controller.store
        add_list(
            routes, "/models", ModelRecord, ModelShape, about, needs=Permission.READ, store=store, cursors=self._cursors
        )
        add(Permission.UPLOAD, "/models", self.upload_model, methods=["POST"], response_model=ModelShape, **_UPLOAD)
        add(Permission.READ, "/models/{model}", self.get_model, response_model=ModelShape)
        add(Permission.DELETE, "/models/{model}", self.delete_model, **_DELETE)
        add(Permission.DOWNLOAD, "/models/{model}/file", self.download_model, responses=_FILE, response_class=Response)
        add(Permission.READ, "/models/{model}/ancestors", self.list_ancestors, response_model=listing)
        add(Permission.READ, "/models/{model}/descendants", self.list_descendants, response_model=listing)

    async def upload_model(
        self, project: str, request: Request, me: Caller, name: Name = "", parent: Parent = None
    ) -> dict[str, Any]:
        """Upload a seed model: the body is a safetensors file. The same model twice is one model."""
        record = await with_body(
            request,
            self._limits.spool,
            lambda file: self._controller.artifacts.add_model(project, file, name, me.name, parent=parent),
        )
        return record_document(record)

    async def get_model(self, project: str, model: str) -> dict[str, Any]:
        """A model, by its digest."""
        return record_document(await self._controller.artifacts.find_model(project, model))

    async def delete_model(self, project: str, model: str, me: Caller) -> Response:
        """Delete an uploaded model that no session, prediction or other model names."""
        await self._controller.artifacts.delete_model(project, model, me.name)
        return Response(status_code=204)

    async def download_model(self, project: str, model: str, request: Request, me: Caller) -> Response:
        """The safetensors file of a model; its ETag is the digest, and a Range is honoured."""
        record = await self._controller.artifacts.model_with_bytes(project, model)
        headers = {"ETag": f'"{record.id}"', "Cache-Control": "private, no-cache"}
        asked = request.headers.get("if-none-match", "")
        if record.id in {tag.strip().removeprefix("W/").strip('"') for tag in asked.split(",")}:
            return Response(status_code=304, headers=headers)
        await self._controller.people.note(audit_line(project, me.name, "model.download", record.id))
        return _HeldFile(self._controller, record.id, headers)

    async def list_ancestors(self, project: str, model: str, limit: Trail = 1000) -> dict[str, Any]:
        """The trail from a model back to its seed, nearest first."""
        cursor = await self._cursors.newest(project)
        return _trail(await self._controller.store.ancestors(project, model, limit), cursor, limit)

    async def list_descendants(self, project: str, model: str, limit: Trail = 1000) -> dict[str, Any]:
        """Every model that was made from this one, oldest first."""
        cursor = await self._cursors.newest(project)
        return _trail(await self._controller.store.descendants(project, model, limit), cursor, limit)


class _HeldFile(FileResponse):
    """An object's file, which nobody removes while it is sent."""

    def __init__(self, controller: Controller, digest: str, headers: dict[str, str]) -> None:
        name = f"{digest[:12]}.safetensors"
        super().__init__(digest, headers=headers, media_type="application/octet-stream", filename=name)
        self._controller = controller
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._controller.retention.holds.holding(self._digest):
            self.path = await self._controller.objects.fetch(self._digest)
            await super().__call__(scope, receive, send)


class PackageRoutes:
    """User code."""

    def __init__(self, controller: Controller, cursors: Cursors) -> None:
        """controller: keeps packages."""
        self._controller = controller
        self._cursors = cursors

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        add = routes.add
        about = "User code that sessions can ship to clients."
        store = self._controller.store
        add_list(
            routes,
            "/packages",
            PackageRecord,
            PackageShape,
            about,
            needs=Permission.READ,
            store=store,
            cursors=self._cursors,
        )
        add(
            Permission.UPLOAD,
            "/packages",
            self.upload_package,
            methods=["POST"],
            response_model=PackageShape,
            **_UPLOAD,
        )
        one = "/packages/{package}"
        add(Permission.READ, one, self.get_package, response_model=PackageShape)
        add(Permission.READ, f"{one}/contents", self.get_contents, response_model=PackageContentsShape)
        file: dict[str, Any] = {"response_class": Response, "responses": _PACKAGE}
        add(Permission.VERIFY, f"{one}/file", self.get_package_file, **file)
        text: dict[str, Any] = {"response_class": PlainTextResponse}
        add(Permission.VERIFY, f"{one}/files/{{path:path}}", self.get_text, **text)
        add(Permission.DELETE, one, self.delete_package, **_DELETE)

    async def upload_package(self, project: str, request: Request, me: Caller) -> dict[str, Any]:
        """Upload user code: the body is a package as `hansa package create` makes it, signed or not."""
        archive = b"".join([chunk async for chunk in request.stream()])
        return record_document(await self._controller.artifacts.add_package(project, archive, me.name))

    async def get_package(self, project: str, package: str) -> dict[str, Any]:
        """A package, by its id."""
        return record_document(await self._controller.store.get(PackageRecord, project, package))

    async def delete_package(self, project: str, package: str, me: Caller) -> Response:
        """Delete a package that no session or prediction names."""
        await self._controller.artifacts.delete_package(project, package, me.name)
        return Response(status_code=204)

    async def get_contents(self, project: str, package: str) -> dict[str, Any]:
        """What a package holds, who has signed it, and what a client would start. Nothing of it is run."""
        _, opened = await self._opened(project, package)
        return await asyncio.to_thread(opened.described)

    async def get_package_file(self, project: str, package: str) -> Response:
        """The package itself, to be looked at and signed."""
        archive, opened = await self._opened(project, package)
        headers = {"content-disposition": f'attachment; filename="{opened.manifest.name}{SUFFIX}"'}
        return Response(archive, headers=headers, media_type="application/octet-stream")

    async def get_text(self, project: str, package: str, path: str) -> Response:
        """A file of a package as text, to be read before it may run; what is no UTF-8 in it is replaced."""
        _, opened = await self._opened(project, package)
        found = opened.files.get(path)
        if found is None:
            raise NotFoundError(f"there is no file {path!r} in the package {package[:12]}")
        return PlainTextResponse(found.content[:_SHOWN].decode(errors="replace"))

    async def _opened(self, project: str, package: str) -> tuple[bytes, Package]:
        """(the archive, what is in it) of a package; raises `AppError` for another system's archive."""
        record = await self._controller.store.get(PackageRecord, project, package)
        async with self._controller.retention.holds.holding(record.id):
            found = await self._controller.objects.fetch(record.id)
            archive = await asyncio.to_thread(found.read_bytes)
        return archive, await asyncio.to_thread(read_package, archive)


async def with_body(request: Request, spool: Path | None, use: Callable[[bytes | memoryview], Awaitable[T]]) -> T:
    """What `use` makes of the body: small ones in memory, large ones in a nameless file that is mapped."""
    held = bytearray()
    chunks = request.stream()
    async for chunk in chunks:
        held += chunk
        if len(held) > _IN_MEMORY:
            break
    else:
        return await use(bytes(held))
    with tempfile.TemporaryFile(dir=spool) as file:
        await asyncio.to_thread(file.write, held)
        held = bytearray()
        async for chunk in chunks:
            held += chunk
            if len(held) > _IN_MEMORY:
                await asyncio.to_thread(file.write, held)
                held = bytearray()
        await asyncio.to_thread(file.write, held)
        return await use(_mapped(file))


def _mapped(file: BinaryIO) -> memoryview:
    file.flush()
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _trail(models: Sequence[ModelRecord], cursor: int, limit: int) -> dict[str, Any]:
    return listed(Page(tuple(models), len(models)), cursor, limit)
