"""Models and helpers."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Final

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hansa.api.permissions import Permission
from hansa.compat.fedn.active import Active, known_helper
from hansa.compat.fedn.catalogue import Catalogue
from hansa.compat.fedn.formats import NUMPY, helper_of, read_model
from hansa.compat.fedn.gateway import Gateway
from hansa.compat.fedn.listing import Asked, Document
from hansa.compat.fedn.rest.exchange import SMALL, Way, answer, read_file, read_object
from hansa.errors import InputError, NotFoundError
from hansa.wire import codec

__all__ = ["ModelRoutes"]

_SHOWN: Final = 16 << 20
"""Bytes of a model that is shown as JSON."""
_UNPACKED: Final = 64
"""Times its size that an uploaded model may unpack to."""
_MOST: Final = 1000
"""Models of a trail, where nobody says it."""
_NO_ACTIVE_MODEL: Final = (
    "This endpoint has been deprecated and is no longer available.The active model concept is no longer used in Fedn. "
    "Please use the /models endpoint to retrieve models."
)


class ModelRoutes:
    """Of one project."""

    def __init__(self, gateway: Gateway, catalogue: Catalogue, active: Active, limit: int) -> None:
        """limit: bytes of a model."""
        self._gateway = gateway
        self._controller, self._project = gateway.controller, gateway.project
        self._catalogue = catalogue
        self._active = active
        self._limit = limit

    def ways(self) -> Iterator[Way]:
        """What is answered here."""
        read, upload, download = Permission.READ, Permission.UPLOAD, Permission.DOWNLOAD
        yield Way("helpers/active", self._helper, read)
        yield Way("helpers/active", self._set_helper, upload, ("PUT",))
        yield Way("models", self._upload, upload, ("POST",))
        yield Way("models/active", _no_active_model, read, ("GET", "PUT"))
        yield Way("models/leaf-nodes", self._leaves, read)
        yield Way("models/{id}/ancestors", self._ancestors, read)
        yield Way("models/{id}/descendants", self._descendants, read)
        yield Way("models/{id}/download", self._download, download)
        yield Way("models/{id}/parameters", self._parameters, download)
        yield Way("models/{id}", self._change, upload, ("PATCH", "PUT"))

    async def _helper(self, _: Request) -> Response:
        helper = await self._active.helper()
        return answer({"message": "No active helper"}, 400) if helper is None else answer(helper)

    async def _set_helper(self, request: Request) -> Response:
        await self._active.use_helper((await read_object(request)).get("helper"))
        return answer({"message": "Active helper set"})

    async def _upload(self, request: Request) -> Response:
        async with read_file(request, self._limit) as (file, told):
            helper = known_helper(told.get("helper") or await self._active.helper() or NUMPY)
            most = min(self._limit, _UNPACKED * file.seek(0, os.SEEK_END) + SMALL)
            arrays = await asyncio.to_thread(read_model, file, helper_of(helper), most)
        model, name = b"".join(codec.encode(arrays)), told.get("name") or ""
        await self._controller.artifacts.add_model(self._project, model, name, request.state.by)
        if await self._active.helper() is None:
            await self._active.use_helper(helper)
        return answer({"success": True, "message": "Model added successfully"})

    async def _change(self, request: Request) -> Response:
        told, model = await read_object(request), request.path_params["id"]
        document = await self._catalogue.get("models", model)
        others = set(told) - {"model", "model_id", "name"}
        if others:
            raise InputError(f"only a model's name can be changed, not {', '.join(sorted(others))}")
        if "name" in told:
            await self._controller.artifacts.name_model(self._project, model, str(told["name"] or ""), request.state.by)
            document = await self._catalogue.get("models", model)
        return answer(document)

    async def _ancestors(self, request: Request) -> Response:
        documents = {each["model_id"]: each for each in await self._catalogue.every("models")}
        model, trail = request.path_params["id"], list[Document]()
        if model not in documents:
            raise NotFoundError(f"Entity with id: {model} not found")
        if request.query_params.get("include_self", "false").lower() != "true":
            model = documents[model]["parent_model"]
        limit = Asked.of({}, request.headers).limit or _MOST
        while model in documents and len(trail) < limit:
            trail.append(documents.pop(model))
            model = trail[-1]["parent_model"]
        return answer(trail[::-1] if request.headers.get("x-reverse", "").lower() == "true" else trail)

    async def _descendants(self, request: Request) -> Response:
        await self._catalogue.get("models", request.path_params["id"])
        limit = Asked.of({}, request.headers).limit or _MOST
        found = await self._controller.store.descendants(self._project, request.path_params["id"], limit)
        documents = {each["model_id"]: each for each in await self._catalogue.every("models")}
        return answer([documents[each.id] for each in found])

    async def _leaves(self, _: Request) -> Response:
        documents = await self._catalogue.every("models")
        parents = {each["parent_model"] for each in documents}
        return answer([each for each in documents if each["model_id"] not in parents])

    async def _download(self, request: Request) -> Response:
        model = request.path_params["id"]
        document = await self._catalogue.get("models", model)
        helper = request.query_params.get("helper") or await self._catalogue.helper_of(document) or NUMPY
        file = (await self._gateway.model_file(None, model, helper)).open("rb")

        async def pieces() -> AsyncIterator[bytes]:
            with file:  # open, so that it is whole whatever becomes of its name
                while piece := file.read(SMALL):
                    yield piece

        size = os.fstat(file.fileno()).st_size
        headers = {"Content-Disposition": f"attachment; filename={model}", "Content-Length": str(size)}
        return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)

    async def _parameters(self, request: Request) -> Response:
        model = request.path_params["id"]
        record = await self._controller.artifacts.model_with_bytes(self._project, model)
        if record.size > _SHOWN:
            raise InputError(f"the model has {record.size:,} bytes: download it")
        async with self._controller.retention.holds.holding(model):
            arrays = codec.load(await self._controller.objects.fetch(model))
        return answer({"array": [np.asarray(array, np.float64).tolist() for array in arrays.values()]})


async def _no_active_model(_: Request) -> Response:
    return answer({"error": _NO_ACTIVE_MODEL}, 410)
