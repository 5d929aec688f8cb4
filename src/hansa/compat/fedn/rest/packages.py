"""Compute packages, which clients fetch and run; hansa never opens one."""

import asyncio
import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from hansa.api.permissions import Permission
from hansa.compat.fedn.active import Active, known_helper
from hansa.compat.fedn.catalogue import Catalogue
from hansa.compat.fedn.formats import NUMPY
from hansa.compat.fedn.gateway import Gateway
from hansa.compat.fedn.rest.exchange import Way, answer, read_file, read_object
from hansa.errors import InputError, NotFoundError

__all__ = ["PackageRoutes"]

_LARGEST: Final = 256 << 20
_SUFFIXES: Final = (".tgz", ".tar.gz", ".tar.bz2")
_NONE: Final = "No active package found"


class PackageRoutes:
    """Of one project."""

    def __init__(self, gateway: Gateway, catalogue: Catalogue, active: Active) -> None:
        """gateway: whose project they are of."""
        self._gateway = gateway
        self._controller, self._project = gateway.controller, gateway.project
        self._catalogue = catalogue
        self._active = active

    def ways(self) -> Iterator[Way]:
        """What is answered here."""
        read, upload = Permission.READ, Permission.UPLOAD
        yield Way("packages", self._upload, upload, ("POST",))
        yield Way("packages/active", self._shown, read)
        yield Way("packages/active", self._set, upload, ("PUT", "DELETE"))
        yield Way("packages/download", self._download, read, for_clients=True)
        yield Way("packages/checksum", self._checksum, read, for_clients=True)

    async def _upload(self, request: Request) -> Response:
        async with read_file(request, _LARGEST) as (file, told):
            data = await asyncio.to_thread(file.read)
        helper = known_helper(told.get("helper") or await self._active.helper() or NUMPY)
        file_name = Path(told["file_name"]).name
        suffix = next((each for each in _SUFFIXES if file_name.endswith(each)), None)
        if suffix is None:
            raise InputError("File extension not allowed: a package is a .tgz, .tar.gz or .tar.bz2")
        package = str(uuid.uuid4())
        record = await self._controller.artifacts.add_archive(self._project, data, package, request.state.by)
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
        await self._active.use_package(package)
        await self._active.use_helper(helper)
        return answer({"message": "Package uploaded"})

    async def _shown(self, _: Request) -> Response:
        return answer(await self._catalogue.get("packages", (await self._needed())["package_id"]))

    async def _set(self, request: Request) -> Response:
        if request.method == "DELETE":
            await self._needed()
            await self._active.use_package("")
            return answer({"message": "Active package deleted"})
        package = str((await read_object(request)).get("id", ""))
        await self._catalogue.get("packages", package)
        await self._active.use_package(package)
        return answer({"message": "Active package set"})

    async def _needed(self) -> dict[str, Any]:
        active = await self._active.package()
        if active is None:
            raise NotFoundError(_NONE)
        return active

    async def _named(self, request: Request) -> dict[str, Any]:
        name = request.query_params.get("name")
        if not name:
            return await self._needed()
        async for note in self._gateway.notes.every("package"):
            if name in {note.name, note.data.get("storage_file_name"), note.data.get("name")}:
                return {**note.data, "package_id": note.name}
        raise NotFoundError(f"Entity with id: {name} not found")

    async def _download(self, request: Request) -> Response:
        package = await self._named(request)
        path = await self._controller.objects.fetch(package["digest"])
        headers = {"Content-Disposition": f"attachment; filename={package['storage_file_name']}"}
        return FileResponse(path, media_type="application/x-tar", headers=headers)

    async def _checksum(self, request: Request) -> Response:
        try:
            package = await self._named(request)
        except NotFoundError:
            return answer({"checksum": None, "message": "File not found."}, 404)
        return answer({"checksum": package["checksum"], "message": "Checksum of the package."})
