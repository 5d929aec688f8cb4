"""The gRPC services of FEDn as handlers: the one module here that knows its messages.

FEDn's clients try again, for ever, what ends as UNAVAILABLE, and give up for good at anything else; a task stream that
ends in order ends the client. So trouble that passes is always UNAVAILABLE, and no stream is ever ended without one.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
import structlog
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]  # protobuf ships no types

from hansa.compat.fedn._generated import fedn_pb2
from hansa.compat.fedn.errand import Errand
from hansa.compat.fedn.formats import NUMPY
from hansa.compat.fedn.gateway import Gateway, token_in
from hansa.compat.fedn.guest import Guest, ReplacedError
from hansa.errors import AuthenticationError, HansaError, InputError, NotFoundError, PermissionDeniedError
from hansa.messages import Kind, Sample
from hansa.wire.frames import ROOT

__all__ = ["PINGS", "handlers"]

_log = structlog.get_logger(__name__)

pb: Any = fedn_pb2  # generated code has no types

PINGS: Final = 5000
"""Milliseconds between the keepalive pings of FEDn's Python clients."""
_SERVING: Final = b"\x08\x01"
"""A `HealthCheckResponse` with the status SERVING."""
_PIECE: Final = 1 << 20
"""Bytes of a piece of a model."""
_TYPES: Final = {
    Kind.TRAIN: pb.MODEL_UPDATE,
    Kind.EVALUATE: pb.MODEL_VALIDATION,
    Kind.PREDICT: pb.MODEL_PREDICTION,
}
_FINAL: Final = (
    (ReplacedError, grpc.StatusCode.ALREADY_EXISTS),
    (AuthenticationError, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
)
"""What trying again does not mend; all else passes."""


def handlers(gateway: Gateway) -> tuple[Any, ...]:
    """For `hansa.wire.service.create_server`."""
    face = _Face(gateway)
    unary, streams = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    return (
        _service(
            "ModelService",
            Upload=grpc.stream_unary_rpc_method_handler(face.upload, pb.ModelRequest.FromString, _bytes),
            Download=streams(face.download, pb.ModelRequest.FromString, _bytes),
        ),
        _service(
            "Connector",
            SendStatus=unary(face.status, pb.Status.FromString, _bytes),
            SendHeartbeat=unary(face.heartbeat, pb.Heartbeat.FromString, _bytes),
            ListActiveClients=unary(face.active, pb.ListClientsRequest.FromString, _bytes),
            AcceptingClients=unary(face.accepting, pb.ConnectionRequest.FromString, _bytes),
        ),
        _service(
            "Combiner",
            TaskStream=streams(face.tasks, pb.ClientAvailableMessage.FromString, _bytes),
            SendModelUpdate=unary(face.update, pb.ModelUpdate.FromString, _bytes),
            SendModelValidation=unary(face.validation, pb.ModelValidation.FromString, _bytes),
            SendModelPrediction=unary(face.prediction, pb.ModelPrediction.FromString, _bytes),
            SendBackwardCompletion=unary(face.backward, pb.BackwardCompletion.FromString, _bytes),
            SendModelMetric=unary(face.metric, pb.ModelMetric.FromString, _bytes),
            SendAttributeMessage=unary(face.attributes, pb.AttributeMessage.FromString, _bytes),
            SendTelemetryMessage=unary(face.telemetry, pb.TelemetryMessage.FromString, _bytes),
        ),
        grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health", {"Check": unary(_health), "Watch": streams(_watch)}
        ),
    )


def _service(name: str, **methods: Any) -> Any:
    return grpc.method_handlers_generic_handler(f"fedn.{name}", methods)


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


async def _health(_request: bytes, _context: Any) -> bytes:
    """What probes ask (grpc.health.v1), of whatever service: it serves. Anybody may know that."""
    return _SERVING


async def _watch(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield _SERVING
    await asyncio.Event().wait()  # until whoever watches is gone, or this server ends


class _Face:
    """Each method answers one call."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def tasks(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            guest = await self._caller(context, request.sender)
            async for errand in guest.listen(context.peer()):
                yield _request(errand, guest)
        except HansaError as error:
            await _abort(context, error)

    async def update(self, request: Any, context: Any) -> Any:
        async def take(guest: Guest) -> str:
            meta = _object(request.meta, "meta")
            training = meta.get("training_metadata", {})
            if not isinstance(training, dict):
                raise InputError("training_metadata of the update's meta must be an object")
            told = _round_id(meta.get("config") or request.config)
            try:
                return self._gateway.updated(guest, request.model_id, request.model_update_id, training, told)
            except NotFoundError as error:  # said twice: the model was taken with the first
                _log.info("an update came without its model", client=guest.member.node, why=str(error))
                return "duplicate, or its model was not uploaded"

        return await self._answered(context, request.sender, take, "ModelUpdate")

    async def validation(self, request: Any, context: Any) -> Any:
        async def take(guest: Guest) -> str:
            self._gateway.note("validation", guest, _document(request, data=request.data))
            return self._gateway.validated(guest, request.model_id, _object(request.data, "data"))

        return await self._answered(context, request.sender, take, "ModelValidation")

    # ── models ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def upload(self, requests: AsyncIterator[Any], context: Any) -> Any:
        sender: list[Guest] = []

        async def pieces() -> AsyncIterator[tuple[str, bytes]]:
            async for request in requests:
                if not sender:
                    sender.append(await self._caller(context, request.sender))
                yield request.id, request.data

        try:
            flow = pieces()
            first = await anext(flow, None)
            if first is None:
                raise InputError("an upload has no bytes")
            name = await self._gateway.uploaded(sender[0], _with(first, flow))
        except HansaError as error:
            await _abort(context, error)
        return pb.ModelResponse(id=name, status=pb.OK, message="Got model successfully.")

    async def download(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            guest = await self._caller(context, request.sender)
            file = await self._gateway.model_file(guest, request.id, NUMPY)
        except NotFoundError as error:
            yield pb.ModelResponse(id=request.id, status=pb.FAILED, message=str(error))
            return
        except HansaError as error:
            await _abort(context, error)
        with file.open("rb") as data:
            while piece := data.read(_PIECE):
                yield pb.ModelResponse(id=request.id, data=piece, status=pb.IN_PROGRESS)
        await self._gateway.fetched(guest, request.id)
        yield pb.ModelResponse(id=request.id, status=pb.OK)

    # ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────

    async def heartbeat(self, request: Any, context: Any) -> Any:
        async def take(_: Guest) -> str:
            return "Heartbeat received"

        return await self._answered(context, request.sender, take, "")

    async def status(self, request: Any, context: Any) -> Any:
        async def take(guest: Guest) -> str:
            self._gateway.note("status", guest, _document(request, data=request.data))
            return "received"

        return await self._answered(context, request.sender, take, "Status")

    async def prediction(self, request: Any, context: Any) -> Any:
        async def take(guest: Guest) -> str:
            return self._gateway.predicted(guest, request.model_id, request.prediction_id, request.data)

        return await self._answered(context, request.sender, take, "ModelPrediction")

    async def backward(self, request: Any, context: Any) -> Any:
        async def take(guest: Guest) -> str:
            return self._gateway.stepped(guest, request.gradient_id, _object(request.meta, "meta"))

        return await self._answered(context, request.sender, take, "BackwardCompletion")

    async def metric(self, request: Any, context: Any) -> Any:
        async def take(guest: Guest) -> str:
            step = request.step.value if request.HasField("step") else 0
            at = request.timestamp.ToNanoseconds() / 1e9 or time.time()
            values = [Sample(each.key, float(each.value), step, at) for each in request.metrics]
            return "received" if guest.desk.log(request.model_id, values) else "late: it has no task with this model"

        return await self._answered(context, request.sender, take, "ModelMetric")

    async def attributes(self, request: Any, context: Any) -> Any:
        async def take(guest: Guest) -> str:
            for each in request.attributes:
                self._gateway.note("attribute", guest, _document(request, key=each.key, value=each.value))
            await self._gateway.describe(guest, {each.key: each.value for each in request.attributes})
            return "received"

        return await self._answered(context, request.sender, take, "AttributeMessage")

    async def telemetry(self, request: Any, context: Any) -> Any:
        async def take(guest: Guest) -> str:
            at = request.timestamp.ToNanoseconds() / 1e9 or time.time()
            guest.report([Sample(each.key, float(each.value), 0, at) for each in request.telemetries])
            return "received"

        return await self._answered(context, request.sender, take, "TelemetryMessage")

    # ── who is there ─────────────────────────────────────────────────────────────────────────────────────────────

    async def active(self, request: Any, context: Any) -> Any:
        try:
            await self._caller(context, request.sender)
        except HansaError as error:
            await _abort(context, error)
        here = (guest for guest in self._gateway.guests if guest.is_here)
        return pb.ClientList(client=[_client(guest) for guest in here])

    async def accepting(self, _request: Any, _context: Any) -> Any:
        return pb.ConnectionResponse(status=pb.ACCEPTING)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _caller(self, context: Any, sender: Any) -> Guest:
        """Who calls, by token, metadata and message; raises `AuthenticationError`, `PermissionDeniedError`."""
        metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        named, inside = metadata.get("client", ""), sender.client_id
        token = token_in(metadata.get("authorization", ""))
        guest = await self._gateway.caller(token, named or inside or sender.name, sender.name, context.peer())
        if inside and inside != guest.member.client_id:
            raise PermissionDeniedError(f"{guest.member.client_id} may not speak for {inside[:64]!r}")
        return guest

    async def _answered(self, context: Any, sender: Any, take: Callable[[Guest], Awaitable[str]], what: str) -> Any:
        try:
            guest = await self._caller(context, sender)
            said = await take(guest)
        except HansaError as error:
            await _abort(context, error)
        text = f"RECEIVED {what} from client {guest.member.name}: {said}" if what else said
        return pb.Response(sender=sender if not what else _combiner(), response=text)


async def _with(first: tuple[str, bytes], rest: AsyncIterator[tuple[str, bytes]]) -> AsyncIterator[tuple[str, bytes]]:
    yield first
    async for piece in rest:
        yield piece


async def _abort(context: Any, error: HansaError) -> NoReturn:
    status = next((status for kind, status in _FINAL if isinstance(error, kind)), grpc.StatusCode.UNAVAILABLE)
    await context.abort(status, str(error)[:1000])
    raise AssertionError from error  # abort raises; this tells the type checker


def _request(errand: Errand, guest: Guest) -> Any:
    return pb.TaskRequest(
        sender=_combiner(),
        receiver=_client(guest),
        model_id=errand.model,
        data=errand.data,
        correlation_id=errand.id,
        timestamp=str(datetime.now(UTC)),
        session_id=errand.session,
        type=_type(errand),
    )


def _type(errand: Errand) -> Any:
    if errand.key.kind is Kind.PROGRAM:
        return pb.FORWARD if errand.gradients is None else pb.BACKWARD
    return _TYPES[errand.key.kind]


def _combiner() -> Any:
    return pb.Client(name=ROOT, role=pb.COMBINER)


def _client(guest: Guest) -> Any:
    return pb.Client(name=guest.member.name, role=pb.CLIENT, client_id=guest.member.client_id)


def _object(text: str, what: str) -> dict[str, Any]:
    """A JSON object; raises `InputError`."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{what} is no JSON object")
    return value


def _round_id(config: object) -> str:
    """The round that a client says it has trained in; empty: it says nothing that can be used."""
    try:
        told = json.loads(config) if isinstance(config, str) else config
    except (ValueError, RecursionError):
        return ""
    return str(told.get("round_id", "")) if isinstance(told, Mapping) and told.get("session_id") else ""


def _document(request: Any, **more: object) -> dict[str, object]:
    """What a message says, by FEDn's names."""
    told: dict[str, object] = MessageToDict(request, preserving_proto_field_name=True)
    for listed in ("metrics", "attributes", "telemetries"):
        told.pop(listed, None)
    return told | more
