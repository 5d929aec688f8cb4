"""The ports that FEDn's clients and scripts find: REST and gRPC beside those of a hansa server."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from hansa.compat.fedn.gateway import Gateway, Weak
from hansa.compat.fedn.rpc import PINGS, handlers
from hansa.errors import InputError
from hansa.network.controller.server import ControllerServer
from hansa.settings import Settings
from hansa.wire import service

__all__ = ["FednServer"]


@dataclass(slots=True)
class FednServer:
    """Open, until `aclose`."""

    gateway: Gateway
    grpc_address: str
    """host:port at which clients find the gRPC services."""
    _server: Any

    @classmethod
    async def open(cls, control: ControllerServer, settings: Settings) -> "FednServer":
        """Serve FEDn's clients as clients of a controller's project; raises `InputError` that says what to change."""
        if settings.fedn_tls == "on" and control.secure.shown is None:
            raise InputError("HANSA_FEDN_TLS is on, and this server has no certificate: set HANSA_TLS=on, or it to off")
        gateway = Gateway(
            control.controller,
            settings.project,
            settings.data / "fedn",
            join=control.secure.scheme_of(control.listening),
            trust=control.secure.trust,
            weak=Weak(settings.fedn_weak),
            silence=settings.silence,
            limit=settings.max_upload,
        )
        server = service.create_server(*handlers(gateway), pings=PINGS)
        shown = control.secure.shown if settings.fedn_tls == "on" else None
        try:
            port = service.bind(server, f"{settings.host}:{settings.fedn_grpc_port}", shown)
        except InputError as error:
            raise InputError(f"{error} with HANSA_FEDN_GRPC_PORT (0 takes a free one)") from error
        async with AsyncExitStack() as undo:
            undo.push_async_callback(gateway.aclose)
            await gateway.open()
            await server.start()
            undo.pop_all()
        return cls(gateway, settings.fedn_advertise or f"{settings.host}:{port}", server)

    async def aclose(self) -> None:
        """End the streams as something that passes, so that the clients come again."""
        await self.gateway.aclose()
        await self._server.stop(0.2)
