"""The controller's process: stores, keys, the control plane, and the gRPC port that nodes dial.

One controller leads over a metadata store. Any other waits, without a port, until that one has ended; everything that
it then writes is fenced, so that a predecessor which is not quite dead can change nothing any more.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from hansa.errors import ConflictError, InputError, PermissionDeniedError, StorageUnavailableError
from hansa.network.client.confinement import Confinement, confine
from hansa.network.combiner.service import NodeService
from hansa.network.controller.certificates import Secured
from hansa.network.controller.confined import beside_server, worker_beside_server
from hansa.network.controller.controller import Controller
from hansa.network.controller.groups import Groups
from hansa.network.controller.installation import Belongings
from hansa.network.controller.openid import Provider, Registration
from hansa.network.controller.people import People
from hansa.network.controller.quotas import Quota
from hansa.network.controller.relay import RelayService
from hansa.network.controller.sign_on import SignOn, SignOnRules
from hansa.network.controller.signing_keys import SigningKeys
from hansa.network.controller.stores import keys_of, names_of_stores, revealed, stores_of
from hansa.settings import Settings
from hansa.store.disk import explained
from hansa.store.ports import Leadership, MetadataStore
from hansa.store.retention import Policy
from hansa.wire import service
from hansa.wire.calls import Assignment, AssignRequest
from hansa.wire.channel import address_at, is_everywhere
from hansa.wire.frames import ROOT, Role
from hansa.wire.service import Shown
from hansa.wire.tls import read_pem, server_name
from hansa.wire.tokens import Identity

if TYPE_CHECKING:
    from hansa.network.controller.otel import Collector

__all__ = ["LEADERSHIP", "ControllerServer"]

_log = structlog.get_logger(__name__)

LEADERSHIP = "controller"
"""What a controller leads under."""
_PAUSE = 1.0
"""Seconds after which a database that is away is asked again."""


@dataclass(slots=True)
class ControllerServer:
    """`async with`: everything is open and nodes can attach; afterwards everything is closed."""

    controller: Controller
    address: str
    """What nodes join: host:port, with a scheme before it where that is not TLS of this network."""
    listening: str
    """host:port that it is bound to."""
    secure: Secured
    """What its ports show."""
    _advertised: bool
    _server: Any
    _store: MetadataStore
    _leadership: Leadership
    _collector: "Collector | None" = None

    @classmethod
    async def open(cls, settings: Settings, *, trace: bool = False, adopt: bool = False) -> "ControllerServer":
        """Open stores, wait until no other controller leads, bind the port, and take up running sessions.

        trace: whether it sends traces to where OpenTelemetry's variables say; adopt: whether database, keys and objects
        that are not of one installation are from now on. Raises `InputError` that says what to change, `ConflictError`
        for what does not belong together, `StorageUnavailableError` when the database is away.
        """
        keep, sign_on = Policy.parse(settings.keep), _sign_on(settings)
        with explained("keep the server's data in", settings.data):
            settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)  # who reads it has all models, and the hashes
        store, objects = stores_of(settings)
        belongings = Belongings(store, objects, keys_of(settings), names_of_stores(settings), adopt)
        leadership = store.leadership(LEADERSHIP)
        collector = _collector() if trace else None
        async with AsyncExitStack() as undo:
            if collector is not None:
                undo.push_async_callback(collector.aclose)
            undo.push_async_callback(store.close)
            await store.open()
            said = await belongings.check()
            keys, secure = SigningKeys.of(keys_of(settings)), Secured.of(settings)
            undo.push_async_callback(leadership.release)
            await _lead(leadership)
            await replace(belongings, store=store.fenced(leadership)).claim(keys, said=said)
            server = service.create_server()
            undo.push_async_callback(server.stop, None)
            port = _bind(server, settings, secure.shown)
            listening = address_at(settings.host, port)
            address = secure.scheme_of(settings.advertise or _dialled(settings.host, port))
            controller = Controller(
                store.fenced(leadership),
                objects,
                keys,
                address=address,
                balancer=settings.balancer,
                slots=settings.slots,
                silence=settings.silence,
                keep=keep,
                telemetry=settings.telemetry_days * 86_400,
                functions=beside_server(settings.function_seconds, settings.function_memory),
                leads=lambda: leadership.held,
                confinement=await asyncio.to_thread(_confined, settings),
                sign_on=sign_on,
                quotas=Quota(settings.quota_sessions, settings.quota_storage, settings.quota_clients),
                spool=settings.data,
                data=_central_data(settings),
                spans=collector.export if collector is not None else None,
                shown=secure.shown.certificate if secure.shown is not None else None,
            )
            advertised = bool(settings.advertise)
            self = cls(controller, address, listening, secure, advertised, server, store, leadership, collector)
            face = NodeService(controller.hub, self._authenticate, lambda: controller.public_key, controller.traffic)
            nodes = controller.nodes
            directory = service.directory_handler(
                nodes.enroll, nodes.access, nodes.rotate, self._assign, self._certify, authenticate=self._authenticate
            )
            relay = RelayService(controller.conversation, self._authenticate)
            server.add_generic_rpc_handlers((*face.handlers(), directory, relay.handler()))
            undo.push_async_callback(self._stop)
            try:
                await controller.create_project(settings.project)
            except ConflictError as error:
                _log.debug("project is there", project=settings.project, why=str(error))
            await controller.recall()
            await server.start()
            await controller.open()
            undo.pop_all()
        return self

    async def superseded(self) -> str:
        """Wait until this controller leads no more, and say why: whoever has it closes it then."""
        await self._leadership.lost.wait()
        return self._leadership.cause

    async def aclose(self) -> None:
        """Stop taking calls, leave the sessions as they are, let another controller lead, and close the stores."""
        await self._stop()
        await self._leadership.release()
        await self._store.close()
        if self._collector is not None:
            await self._collector.aclose()

    async def _stop(self) -> None:
        await self.controller.aclose()
        await self._server.stop(0.2)

    async def _authenticate(self, token: str) -> Identity:
        return self.controller.verify(token)

    async def _assign(self, identity: Identity, request: AssignRequest) -> Assignment:
        name, address = await self.controller.assign(identity, request.preferred, request.labels)
        authority = self.secure.authority
        there = "" if name == ROOT and not self._advertised else address
        return Assignment(name, there, authority.certificate if authority is not None else "")

    async def _certify(self, identity: Identity, request: str) -> str:
        if identity.role is not Role.COMBINER:
            raise PermissionDeniedError(f"{identity.name} is a {identity.role.value}: only combiners get certificates")
        authority = self.secure.authority
        if authority is None:
            raise InputError("this network signs no certificates: it runs without TLS; join it with tcp://")
        return await asyncio.to_thread(authority.sign, request, server_name(identity.project, identity.name))


def _collector() -> "Collector":
    """Raises `MissingExtraError`."""
    from hansa.network.controller.otel import Collector  # noqa: PLC0415 - an extra

    return Collector()


async def _lead(leadership: Leadership) -> None:
    """Wait until this process leads; a database that is away by then is waited for too."""
    try:
        return await leadership.acquire(timeout=0)
    except ConflictError as error:
        _log.info("another controller is at work; this one waits to take over", why=str(error))
    while True:
        try:
            return await leadership.acquire()
        except StorageUnavailableError as error:
            _log.warning("the database is away; this controller waits for it", why=str(error))
            await asyncio.sleep(_PAUSE)


def _dialled(host: str, port: int) -> str:
    """What nodes are told to join: this machine's name where the server listens at every address of it."""
    return address_at(socket.gethostname() if is_everywhere(host) else host, port)


def _bind(server: Any, settings: Settings, shown: Shown | None) -> int:
    """The port of the gRPC server."""
    try:
        return service.bind(server, address_at(settings.host, settings.grpc_port), shown)
    except InputError as error:
        raise InputError(f"{error} with HANSA_GRPC_PORT or --grpc-port (0 takes a free one)") from error


def _confined(settings: Settings) -> Confinement:
    """How apps are confined that are evaluated beside the server: what the server keeps is hidden from them."""
    hidden = (settings.data, settings.credentials, settings.package_key, *settings.secret_files())
    rules = Confinement(
        network=False,
        shown=tuple(filter(None, (_central_data(settings),))),
        hidden=tuple(path.expanduser().resolve() for path in hidden),
        limits=worker_beside_server(settings.function_memory),
    )
    found = confine(settings.confinement, rules)
    if found.missing and settings.confinement != "off":
        _log.warning("apps evaluated here are not confined in all", missing=found.missing, why=found.why_not)
    return found


def _central_data(settings: Settings) -> Path | None:
    """The folder that code beside the server may read; raises `InputError` where there is none, or it is hidden."""
    if settings.central_data is None:
        return None
    folder = settings.central_data.expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"HANSA_CENTRAL_DATA is {folder}, which is no folder")
    if folder.is_relative_to(settings.data.resolve()):
        raise InputError(f"HANSA_CENTRAL_DATA is {folder}, in the server's own folder, which is hidden: move it out")
    return folder


def _sign_on(settings: Settings) -> Callable[[People], SignOn] | None:
    """Logging in by the OpenID provider that is set; raises `InputError` for settings that do not fit together."""
    if not settings.oidc_issuer:
        return None
    if not settings.oidc_client_id:
        raise InputError(
            "HANSA_OIDC_ISSUER is set without HANSA_OIDC_CLIENT_ID: set what the provider calls this server"
        )
    registration = Registration(
        settings.oidc_issuer,
        settings.oidc_client_id,
        revealed(settings.oidc_client_secret),
        settings.oidc_scope,
        read_pem(settings.oidc_ca) if settings.oidc_ca is not None else "",
    )
    rules = SignOnRules(
        create=settings.oidc_create,
        name_claim=settings.oidc_name_claim,
        groups_claim=settings.oidc_groups_claim,
        groups=Groups.parse(settings.oidc_groups),
        redirect=settings.oidc_redirect,
    )
    provider = Provider(registration)
    return lambda people: SignOn(people, provider, rules)
