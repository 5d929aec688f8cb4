"""Clients, combiners, and what is known of them: attributes and telemetry."""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hansa.api.permissions import Permission
from hansa.compat.fedn.active import Active
from hansa.compat.fedn.catalogue import Catalogue
from hansa.compat.fedn.gateway import Gateway, fits_label
from hansa.compat.fedn.rest.exchange import Way, answer, read_object, token_of
from hansa.errors import (
    AuthenticationError,
    ConnectionFailedError,
    HansaError,
    InputError,
    NotFoundError,
    StorageUnavailableError,
)
from hansa.store.records import ClientRecord, SampleRecord
from hansa.wire.channel import is_everywhere
from hansa.wire.frames import ROOT

__all__ = ["ClientRoutes"]


class ClientRoutes:
    """Of one project."""

    def __init__(
        self, gateway: Gateway, catalogue: Catalogue, active: Active, address: tuple[str, int], *, secure: bool
    ) -> None:
        """address: host and port of the gRPC services; secure: whether they speak TLS."""
        self._gateway = gateway
        self._catalogue = catalogue
        self._active = active
        self._host, self._port = address
        self._secure = secure

    def ways(self) -> Iterator[Way]:
        """What is answered here."""
        read, run, admit = Permission.READ, Permission.RUN, Permission.ADMIT_NODES
        yield Way("clients/add", self._add, None, ("POST",))
        yield Way("clients/config", self._config, read)
        yield Way("clients/{id:path}/attributes", self._attributes_of, read)
        yield Way("clients/{id:path}", self._delete, admit, ("DELETE",))
        yield Way("combiners/clients/count", self._count_below, read, ("POST",))
        yield Way("combiners/{id:path}", self._delete_combiner, admit, ("DELETE",))
        yield Way("attributes", self._post_attribute, Permission.LABEL_NODES, ("POST",))
        yield Way("attributes/current", self._current_attributes, read, ("POST",))
        yield Way("telemetry", self._post_telemetry, run, ("POST",))

    # ── joining ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _add(self, request: Request) -> Response:
        """The eight keys that all families read, and no other: Kotlin's fails on any more."""
        told = await read_object(request)
        try:
            return await self._assigned(request, told)
        except AuthenticationError as error:
            return answer({"message": str(error)}, 401)
        except (ConnectionFailedError, StorageUnavailableError) as error:  # FEDn's clients come again after this alone
            return answer({"success": False, "status": "retry", "message": str(error)}, 203)
        except HansaError as error:
            return answer({"success": False, "message": str(error)}, 400)

    async def _assigned(self, request: Request, told: Mapping[str, Any]) -> Response:
        gateway = self._gateway
        preferred = told.get("preferred_combiner") or told.get("combiner_preferred") or ""
        if preferred and preferred not in {ROOT, *gateway.controller.tree(gateway.project).directory.combiners}:
            message = f"Combiner {preferred} not found or unavailable."
            return answer({"success": False, "message": message}, 400)
        package = told.get("package") or "local"
        client_id = str(told.get("client_id") or uuid.uuid4())
        guest = await gateway.add(
            client_id,
            str(told.get("name") or client_id),
            token_of(request),
            preferred="" if preferred == ROOT else str(preferred),
            validates="package" in told,
            package=str(package),
            ip=request.client.host if request.client is not None else "",
        )
        if package == "remote" and await self._active.package() is None:
            message = "No compute package found. Set package in controller."
            return answer({"success": False, "status": "retry", "message": message}, 203)
        host = self._reached(request)
        by_name = self._secure or "package" not in told  # Kotlin's family dials fqdn:port, Python's host:port
        return answer(
            {
                "status": "assigned",
                "host": host,
                "fqdn": host if by_name else "",
                "package": package,
                "ip": "",
                "port": self._port,
                "helper_type": await self._active.helper() or "",
                "client_id": guest.member.client_id,
            }
        )

    def _reached(self, request: Request) -> str:
        """Where a client that came here finds the gRPC services."""
        return request.url.hostname or self._host if is_everywhere(self._host) else self._host

    async def _config(self, request: Request) -> Response:
        told: dict[str, Any] = {
            "discover_host": request.url.hostname,
            "discover_port": request.url.port,
            "network_id": "fedn-network",
        }
        package = await self._active.package()
        if request.query_params.get("checksum", "true") == "true" and package is not None:
            told["checksum"] = {"checksum": package["checksum"], "success": True}
        return answer(told)

    # ── leaving ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _delete(self, request: Request) -> Response:
        name, gateway = request.path_params["id"], self._gateway
        if not await gateway.forget(name):
            await self._catalogue.get("clients", name)
            await gateway.controller.nodes.revoke(gateway.project, name, by=request.state.by)
        return answer({"message": "Client deleted"})

    async def _delete_combiner(self, request: Request) -> Response:
        name, gateway = request.path_params["id"], self._gateway
        await self._catalogue.get("combiners", name)
        if name == ROOT:
            raise InputError("the root is this server itself, and cannot be deleted")
        await gateway.controller.nodes.revoke(gateway.project, name, by=request.state.by)
        return answer({"message": "Combiner deleted"})

    async def _count_below(self, request: Request) -> Response:
        names = str((await read_object(request)).get("combiners", "")).split(",")
        clients = [each for each in await self._catalogue.every("clients") if each["status"] == "online"]
        counts = [{"id": name, "count": sum(each["combiner"] == name for each in clients)} for name in names]
        return answer({"result": counts})

    # ── attributes and telemetry ─────────────────────────────────────────────────────────────────────────────────

    async def _attributes_of(self, request: Request) -> Response:
        return answer((await self._attributes()).get(request.path_params["id"], {}))

    async def _current_attributes(self, request: Request) -> Response:
        wanted = (await read_object(request)).get("client_ids")
        if not isinstance(wanted, list):
            raise InputError("client_ids is needed: a list")
        known = await self._attributes()
        return answer({each: known.get(each, f"Entity with client_id: {each} not found") for each in map(str, wanted)})

    async def _attributes(self) -> dict[str, dict[str, Any]]:
        """Client → its newest value of each key."""
        found: dict[str, dict[str, Any]] = {}
        for each in await self._catalogue.every("attributes"):
            sender = each["sender"] or {}
            found.setdefault(sender.get("client_id") or "", {})[each["key"]] = each["value"]
        return found

    async def _post_attribute(self, request: Request) -> Response:
        """Of a client of the network it is a label that an operator gives."""
        (key, value, sender), gateway = await _posted(request), self._gateway
        if fits_label(key, str(value)):
            with suppress(NotFoundError):
                node = gateway.node_of(str(sender.get("client_id") or ""))
                await gateway.controller.tree(gateway.project).label(node, {key: str(value)}, request.state.by)
        note = gateway.notes.tell("attribute", {"key": key, "value": str(value), "sender": sender})
        return answer(await self._catalogue.get("attributes", note.name), 201)

    async def _post_telemetry(self, request: Request) -> Response:
        """Of a client of the network it is a number like those that clients tell themselves."""
        (key, value, sender), gateway, at = await _posted(request), self._gateway, time.time()
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise InputError("value must be a number") from error
        node, store = gateway.node_of(str(sender.get("client_id") or "")), gateway.controller.store
        try:
            await store.get(ClientRecord, gateway.project, f"{gateway.project}/{node}")
        except NotFoundError:
            note = gateway.notes.tell("telemetry", {"key": key, "value": number, "sender": sender})
            return answer(await self._catalogue.get("telemetry", note.name), 201)
        sample = SampleRecord(f"{node}/{key}/{at}", gateway.project, "", 0, "", node, key, 0, number, at)
        await store.put(sample)
        return answer(self._catalogue.telemetry_of(sample), 201)


async def _posted(request: Request) -> tuple[str, Any, Mapping[str, Any]]:
    """(key, value, sender); raises `InputError`."""
    told = await read_object(request)
    key, value, sender = told.get("key"), told.get("value"), told.get("sender")
    if not key or value is None or not isinstance(sender, dict):
        raise InputError("key, value and sender are needed")
    return str(key), value, sender
