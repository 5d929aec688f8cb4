"""Models and packages: bytes in, bytes out, by their digests."""

import asyncio
import mmap
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

from fastapi import APIRouter, Request
from fastapi import Query as QueryParameter
from fastapi.responses import FileResponse, Response

from hansa.api.documents import to_document
from hansa.api.guard import Limits
from hansa.api.routes.lists import Cursors, list_endpoint, list_shape, listed
from hansa.api.shapes import ModelShape, PackageShape
from hansa.network.controller.controller import Controller
from hansa.store.ports import Page
from hansa.store.records import ModelRecord, PackageRecord

__all__ = ["ModelRoutes", "PackageRoutes"]

T = TypeVar("T")

_IN_MEMORY: Final = 4 << 20
"""Bytes up to which an upload is not spooled to disk, and of one write to it."""
_BYTES: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The safetensors file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {"description": "The range that was asked for"},
    304: {"description": "The caller has it already"},
}
Trail = Annotated[int, QueryParameter(ge=1, le=1000, description="Models at most.")]
Name = Annotated[str, QueryParameter(max_length=200, description="What people call it.")]


class ModelRoutes:
    """The model trail."""

    def __init__(self, controller: Controller, cursors: Cursors, limits: Limits) -> None:
        """controller: keeps models; limits: of uploads."""
        self._controller = controller
        self._cursors = cursors
        self._limits = limits

    def add(self, router: APIRouter) -> None:
        """Add the routes."""
        endpoint = list_endpoint(ModelRecord, self._controller.store, self._cursors)
        listing = list_shape(ModelShape)
        add = router.add_api_route
        about = "The model trail: seeds and the models of committed rounds."
        add("/models", endpoint, response_model=listing, name="list_models", description=about)
        add(
            "/models",
            self.upload_model,
            methods=["POST"],
            status_code=201,
            response_model=ModelShape,
            openapi_extra=_BYTES,
        )
        add("/models/{model}", self.get_model, response_model=ModelShape)
        add("/models/{model}/file", self.download_model, responses=_FILE, response_class=Response)
        add("/models/{model}/ancestors", self.list_ancestors, response_model=listing)
        add("/models/{model}/descendants", self.list_descendants, response_model=listing)

    async def upload_model(self, project: str, request: Request, name: Name = "") -> dict[str, Any]:
        """Upload a seed model: the body is a safetensors file. The same model twice is one model."""
        record = await with_body(
            request, self._limits.spool, lambda file: self._controller.add_model(project, file, name)
        )
        document: dict[str, Any] = to_document(record)
        return document

    async def get_model(self, project: str, model: str) -> dict[str, Any]:
        """A model, by its digest."""
        document: dict[str, Any] = to_document(await self._controller.store.get(ModelRecord, project, model))
        return document

    async def download_model(self, project: str, model: str, request: Request) -> Response:
        """The safetensors file of a model; its ETag is the digest, and a Range is honoured."""
        record = await self._controller.store.get(ModelRecord, project, model)
        headers = {"ETag": f'"{record.id}"', "Cache-Control": "private, max-age=31536000, immutable"}
        asked = request.headers.get("if-none-match", "")
        if record.id in {tag.strip().removeprefix("W/").strip('"') for tag in asked.split(",")}:
            return Response(status_code=304, headers=headers)
        path = await self._controller.objects.fetch(record.id)
        filename = f"{record.id[:12]}.safetensors"
        return FileResponse(path, media_type="application/octet-stream", filename=filename, headers=headers)

    async def list_ancestors(self, project: str, model: str, limit: Trail = 1000) -> dict[str, Any]:
        """The trail from a model back to its seed, nearest first."""
        cursor = await self._cursors.newest(project)
        return _trail(await self._controller.store.ancestors(project, model, limit), cursor, limit)

    async def list_descendants(self, project: str, model: str, limit: Trail = 1000) -> dict[str, Any]:
        """Every model that was made from this one, oldest first."""
        cursor = await self._cursors.newest(project)
        return _trail(await self._controller.store.descendants(project, model, limit), cursor, limit)


class PackageRoutes:
    """User code."""

    def __init__(self, controller: Controller, cursors: Cursors) -> None:
        """controller: keeps packages."""
        self._controller = controller
        self._cursors = cursors

    def add(self, router: APIRouter) -> None:
        """Add the routes."""
        endpoint = list_endpoint(PackageRecord, self._controller.store, self._cursors)
        listing = list_shape(PackageShape)
        add = router.add_api_route
        about = "User code that sessions can ship to clients."
        add("/packages", endpoint, response_model=listing, name="list_packages", description=about)
        add(
            "/packages",
            self.upload_package,
            methods=["POST"],
            status_code=201,
            response_model=PackageShape,
            openapi_extra=_BYTES,
        )
        add("/packages/{package}", self.get_package, response_model=PackageShape)

    async def upload_package(self, project: str, request: Request, name: Name = "app") -> dict[str, Any]:
        """Upload user code: the body is a zip archive with an app.py or a hansa.toml."""
        archive = b"".join([chunk async for chunk in request.stream()])
        document: dict[str, Any] = to_document(await self._controller.add_package(project, archive, name))
        return document

    async def get_package(self, project: str, package: str) -> dict[str, Any]:
        """A package, by its digest."""
        document: dict[str, Any] = to_document(await self._controller.store.get(PackageRecord, project, package))
        return document


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
