"""The controller's process: stores, keys, the control plane, and the gRPC port that nodes dial."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from hansa.errors import ConflictError, InputError
from hansa.network.combiner.service import NodeService
from hansa.network.controller.controller import Controller
from hansa.settings import Settings
from hansa.store.opening import open_objects, open_store
from hansa.store.ports import MetadataStore
from hansa.wire import service, tokens
from hansa.wire.calls import Assignment, AssignRequest
from hansa.wire.tokens import Identity

__all__ = ["ControllerServer"]

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ControllerServer:
    """`async with`: everything is open and nodes can attach; afterwards everything is closed."""

    controller: Controller
    address: str
    """host:port at which nodes reach the gRPC server."""
    listening: str
    """host:port that it is bound to."""
    _server: Any
    _store: MetadataStore

    @classmethod
    async def open(cls, settings: Settings) -> "ControllerServer":
        """Open stores, bind the port, and take up running sessions; raises `InputError` that says what to change."""
        settings.data.mkdir(parents=True, exist_ok=True)
        store = open_store(settings.store or f"sqlite:///{settings.data / 'hansa.db'}")
        objects = open_objects(settings.objects or str(settings.data / "objects"))
        await store.open()
        server = service.create_server()
        try:
            port = service.bind(server, f"{settings.host}:{settings.grpc_port}")
        except InputError as error:
            await store.close()
            raise InputError(f"{error} with HANSA_GRPC_PORT or --grpc-port (0 takes a free one)") from error
        listening = f"{settings.host}:{port}"
        address = settings.advertise or listening
        key = _signing_key(settings.data / "controller.key")
        controller = Controller(
            store,
            objects,
            key,
            address=address,
            balancer=settings.balancer,
            slots=settings.slots,
            silence=settings.silence,
        )
        self = cls(controller, address, listening, server, store)
        face = NodeService(controller.hub, self._authenticate, lambda: controller.public_key)
        directory = service.directory_handler(self._assign, self._authenticate)
        server.add_generic_rpc_handlers((*face.handlers(), directory))
        try:
            await controller.create_project(settings.project)
        except ConflictError:
            _log.debug("project is there", project=settings.project)
        await server.start()
        await controller.open()
        return self

    async def aclose(self) -> None:
        """Stop taking calls, leave the sessions as they are, and close the stores."""
        await self.controller.aclose()
        await self._server.stop(0.2)
        await self._store.close()

    async def _authenticate(self, token: str) -> Identity:
        return self.controller.verify(token)

    async def _assign(self, identity: Identity, request: AssignRequest) -> Assignment:
        name, address = self.controller.assign(identity, request.preferred, request.labels)
        return Assignment(name, address)


def _signing_key(path: Path) -> str:
    """The key that signs tokens: made on the first start, readable by its owner alone."""
    if path.exists():
        return path.read_text()
    key = tokens.new_key()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key)
    return key
