"""The ports that FEDn's clients and scripts find: REST and gRPC beside those of a hansa server."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from hansa.api.connections import Doors
from hansa.api.serving import Uvicorn, listen, serve_app
from hansa.compat.fedn.gateway import Gateway, Weak
from hansa.compat.fedn.rest.app import Rest
from hansa.compat.fedn.rpc import PINGS, handlers
from hansa.errors import InputError
from hansa.network.controller.server import ControllerServer
from hansa.settings import Settings
from hansa.wire import service
from hansa.wire.channel import address_at, split_address

__all__ = ["FednServer"]


@dataclass(slots=True)
class FednServer:
    """Open, until `aclose`."""

    gateway: Gateway
    url: str
    """Of the REST API."""
    grpc_address: str
    """host:port at which clients find the gRPC services."""
    _server: Any
    _http: Uvicorn
    _serving: "asyncio.Task[None]"

    @classmethod
    async def open(cls, control: ControllerServer, settings: Settings) -> "FednServer":
        """Serve FEDn's clients as clients of a controller's project; raises `InputError` that says what to change."""
        if settings.fedn_tls == "on" and control.secure.shown is None:
            raise InputError("HANSA_FEDN_TLS is on, and this server has no certificate: set HANSA_TLS=on, or it to off")
        gateway = Gateway(
            control.controller,
            settings.project,
            settings.data / "fedn",
            join=control.secure.own_address(control.listening),
            trust=control.secure.own_trust,
            weak=Weak(settings.fedn_weak),
            silence=settings.silence,
            limit=settings.max_upload,
        )
        server = service.create_server(*handlers(gateway), pings=PINGS)
        shown = None
        if settings.fedn_tls == "on" and control.secure.shown is not None:  # its clients have no certificates to show
            shown = replace(control.secure.shown, client_roots="")
        try:
            port = service.bind(server, address_at(settings.host, settings.fedn_grpc_port), shown)
        except InputError as error:
            raise InputError(f"{error} with HANSA_FEDN_GRPC_PORT (0 takes a free one)") from error
        address = settings.fedn_advertise or address_at(settings.host, port)
        host, at = split_address(address)
        most = settings.max_connections
        async with AsyncExitStack() as undo:
            listener = undo.enter_context(listen(settings.host, settings.fedn_port, "HANSA_FEDN_PORT"))
            undo.push_async_callback(gateway.aclose)
            await gateway.open()
            await server.start()
            undo.push_async_callback(server.stop, 0.2)
            rest = Rest(gateway, (host, at), secure=settings.fedn_tls != "off", limit=settings.max_upload)
            proxied = settings.fedn_tls == "proxy"
            http, serving, url = await serve_app(
                rest.app, listener, settings, Doors(most, most), shown=shown, proxied=proxied
            )
            undo.pop_all()
        return cls(gateway, url, address, server, http, serving)

    async def aclose(self) -> None:
        """End the streams as something that passes, so that the clients come again."""
        self._http.should_exit = True
        await self._serving
        await self.gateway.aclose()
        await self._server.stop(0.2)
