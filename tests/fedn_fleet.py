"""Clients as FEDn's own three families are on the wire: what each sends, leaves out and expects."""

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
from federation import PROJECT, Federation, federation
from google.protobuf.wrappers_pb2 import UInt32Value
from servers import free_port

from hansa.compat.fedn._generated import fedn_pb2
from hansa.compat.fedn.server import FednServer
from hansa.settings import Settings
from hansa.store.records import SessionRecord

pb: Any = fedn_pb2

Tensors = list[np.ndarray]
Forward = Callable[[str, str], np.ndarray]
"""(client id, is_sl_inference) → what its bottom makes of its records."""
Backward = Callable[[np.ndarray], None]
Train = Callable[[Tensors, dict[str, Any]], tuple[Tensors, dict[str, Any]]]

PIECE = 1 << 20


def npz(tensors: Sequence[np.ndarray]) -> bytes:
    """As numpyhelper writes it: deflated."""
    file = io.BytesIO()
    np.savez_compressed(file, **{str(i): tensor for i, tensor in enumerate(tensors)})
    return file.getvalue()


def tensors_of(data: bytes) -> Tensors:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return [file[str(i)] for i in range(len(file.files))]


class Calls:
    """A channel and the methods that clients call."""

    def __init__(self, address: str, metadata: Sequence[tuple[str, str]] = (), root: bytes | None = None) -> None:
        self.metadata = tuple(metadata)
        options = (("grpc.keepalive_time_ms", 5000), ("grpc.use_local_subchannel_pool", 1))
        if root is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self.channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(root), options=options)

    def _path(self, method: str) -> str:
        service = {"Upload": "ModelService", "Download": "ModelService"}.get(method)
        if service is None:
            connector = {"SendStatus", "SendHeartbeat", "ListActiveClients", "AcceptingClients"}
            service = "Connector" if method in connector else "Combiner"
        return f"/fedn.{service}/{method}"

    async def unary(self, method: str, message: Any, reply: Any = None) -> Any:
        call = self.channel.unary_unary(
            self._path(method), type(message).SerializeToString, (reply or pb.Response).FromString
        )
        return await call(message, metadata=self.metadata)

    def stream(self, method: str, message: Any, reply: Any) -> Any:
        call = self.channel.unary_stream(self._path(method), type(message).SerializeToString, reply.FromString)
        return call(message, metadata=self.metadata)

    async def upload(self, name: str, data: bytes, sender: Any = None) -> Any:
        call = self._uploading()
        for at in range(0, len(data), PIECE):
            piece = pb.ModelRequest(data=data[at : at + PIECE], id=name, status=pb.IN_PROGRESS)
            if at == 0 and sender is not None:
                piece.sender.CopyFrom(sender)
            await call.write(piece)
        await call.write(pb.ModelRequest(id=name, status=pb.OK))
        await call.done_writing()
        return await call

    async def break_off(self, name: str, data: bytes) -> None:
        """An upload that ends in the middle."""
        call = self._uploading()
        await call.write(pb.ModelRequest(data=data, id=name, status=pb.IN_PROGRESS))
        call.cancel()

    def _uploading(self) -> Any:
        call = self.channel.stream_unary(
            self._path("Upload"), pb.ModelRequest.SerializeToString, pb.ModelResponse.FromString
        )
        return call(metadata=self.metadata)

    async def download(self, model: str, sender: Any = None) -> bytes | None:
        data = b""
        async for part in self.stream("Download", pb.ModelRequest(id=model, sender=sender), pb.ModelResponse):
            if part.status == pb.IN_PROGRESS:
                data += part.data
            elif part.status == pb.OK:
                return data
            elif part.status == pb.FAILED:
                return None
        return data


@dataclass
class FleetClient:
    """The Python family: a heartbeat beside a loop over its task stream, which trains where it listens."""

    address: str
    client_id: str
    train: Train
    validate: Callable[[Tensors], dict[str, Any]] = lambda _: {"loss": 0.0}
    predict: Callable[[Tensors], dict[str, Any]] = lambda model: {"sum": float(model[0].sum())}
    name: str = ""
    tasks: list[Any] = field(default_factory=list)
    """Every task that came."""
    replies: list[str] = field(default_factory=list)
    retry: float = 0.1
    beat: float = 1.0
    ended: grpc.StatusCode | None = None
    decode: Callable[[bytes], Tensors] = tensors_of
    encode: Callable[[Sequence[np.ndarray]], bytes] = npz
    root: bytes | None = None
    token: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    """What it logs in every training."""
    forward: Forward = lambda *_: np.zeros((0, 0), np.float32)
    backward: Backward = lambda _: None
    meta: dict[str, Any] = field(default_factory=dict)
    """What it says of each backward pass."""

    async def run(self) -> None:
        """Until it is cancelled, or the server says something that is final."""
        while True:
            self.calls = Calls(self.address, self.metadata(), self.root)
            beats = asyncio.create_task(self._beat())
            try:
                await self._listen()
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                    self.ended = error.code()
                    return
            finally:
                beats.cancel()
                await self.calls.channel.close()
            await asyncio.sleep(self.retry)

    def metadata(self) -> list[tuple[str, str]]:
        told = [("client", self.client_id), ("grpc-server", self.address.rpartition(":")[0])]
        return told + ([("authorization", f"Bearer {self.token}")] if self.token else [])

    def sender(self) -> Any:
        return pb.Client(name=self.name or self.client_id, role=pb.CLIENT, client_id=self.client_id)

    async def _beat(self) -> None:
        while True:
            with suppress(grpc.aio.AioRpcError):
                await self.calls.unary("SendHeartbeat", pb.Heartbeat(sender=self.sender()))
            await asyncio.sleep(self.beat)

    async def _listen(self) -> None:
        async for task in self.calls.stream(
            "TaskStream", pb.ClientAvailableMessage(sender=self.sender()), pb.TaskRequest
        ):
            if task.sender.role != pb.COMBINER:
                continue
            self.tasks.append(task)
            await self._said("Received request from combiner.", task)
            if task.type == pb.MODEL_UPDATE:
                await self.do_train(task)
            elif task.type == pb.MODEL_VALIDATION:
                await self.do_validate(task)
            elif task.type == pb.MODEL_PREDICTION:
                await self.do_predict(task)
            elif task.type == pb.FORWARD:
                await self.do_forward(task)
            elif task.type == pb.BACKWARD:
                await self.do_backward(task)

    async def _said(self, text: str, task: Any) -> None:
        status = pb.Status(
            sender=pb.Client(name=self.name, role=pb.CLIENT), status=text, log_level=pb.AUDIT,
            type=task.type, session_id=task.session_id,
        )  # fmt: skip
        status.timestamp.GetCurrentTime()
        await self.calls.unary("SendStatus", status)

    async def do_train(self, task: Any) -> None:
        sender = pb.Client(client_id=self.client_id, role=pb.CLIENT)
        data = await self.calls.download(task.model_id, sender)
        if data is None:
            return
        settings = json.loads(task.data)
        assert settings["round_id"], "Python's LoggingContext needs it"
        model, metadata = self.train(self.decode(data), settings.get("client_settings", {}))
        for key, value in self.metrics.items():
            metric = pb.ModelMetric(
                sender=self.sender(), metrics=[pb.MetricElem(key=key, value=value)], step=UInt32Value(value=0),
                model_id=task.model_id, round_id=settings["round_id"], session_id=task.session_id,
            )  # fmt: skip
            metric.timestamp.GetCurrentTime()
            await self.calls.unary("SendModelMetric", metric)
        name = str(uuid.uuid4())
        await self.calls.upload(name, self.encode(model))
        meta = {"training_metadata": metadata, "processing_time": 0.1, "config": task.data}
        await self.update(task.model_id, name, meta)

    async def replied(self, times: int) -> None:
        """Until it was answered so often: the last answer may come after the end of a session."""
        async with asyncio.timeout(20):
            while len(self.replies) < times:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.01)

    async def do_forward(self, task: Any) -> None:
        output = self.forward(self.client_id, json.loads(task.data)["is_sl_inference"])
        file, name = io.BytesIO(), str(uuid.uuid4())
        np.savez_compressed(file, **{self.client_id: output})
        await self.calls.upload(name, file.getvalue())
        meta = {"training_metadata": {"num_examples": len(output)}, "config": task.data}
        await self.update(task.model_id, name, meta)

    async def do_backward(self, task: Any) -> None:
        data = await self.calls.download(task.model_id, pb.Client(client_id=self.client_id, role=pb.CLIENT))
        assert data is not None
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            self.backward(file[self.client_id])
        await self.stepped(task)

    async def stepped(self, task: Any) -> None:
        message = pb.BackwardCompletion(
            sender=self.sender(), receiver=task.sender, gradient_id=task.model_id, session_id=task.session_id,
            meta=json.dumps({"processing_time": 0.1, "config": task.data, "status": "success"} | self.meta),
        )  # fmt: skip
        message.timestamp.GetCurrentTime()
        self.replies.append((await self.calls.unary("SendBackwardCompletion", message)).response)

    async def telemetry(self, values: dict[str, float]) -> None:
        told = [pb.TelemetryElem(key=key, value=value) for key, value in values.items()]
        message = pb.TelemetryMessage(sender=self.sender(), telemetries=told)
        message.timestamp.GetCurrentTime()
        await self.calls.unary("SendTelemetryMessage", message)

    async def attributes(self, values: dict[str, str]) -> None:
        told = [pb.AttributeElem(key=key, value=value) for key, value in values.items()]
        message = pb.AttributeMessage(sender=self.sender(), attributes=told)
        message.timestamp.GetCurrentTime()
        await self.calls.unary("SendAttributeMessage", message)

    async def update(self, model: str, name: str, meta: dict[str, Any], **more: Any) -> str:
        message = pb.ModelUpdate(
            sender=self.sender(), receiver=pb.Client(name="combiner", role=pb.COMBINER), model_id=model,
            model_update_id=name, timestamp=str(datetime.now(UTC)), meta=json.dumps(meta), **more,
        )  # fmt: skip
        reply = (await self.calls.unary("SendModelUpdate", message)).response
        self.replies.append(reply)
        return str(reply)

    async def do_predict(self, task: Any) -> None:
        data = await self.calls.download(task.model_id, pb.Client(client_id=self.client_id, role=pb.CLIENT))
        assert data is not None
        message = pb.ModelPrediction(
            sender=pb.Client(name=self.name, role=pb.CLIENT), model_id=task.model_id,
            data=json.dumps(self.predict(self.decode(data))), correlation_id=task.correlation_id,
            prediction_id=task.session_id,
        )  # fmt: skip
        self.replies.append((await self.calls.unary("SendModelPrediction", message)).response)

    async def do_validate(self, task: Any) -> None:
        data = await self.calls.download(task.model_id, pb.Client(client_id=self.client_id, role=pb.CLIENT))
        assert data is not None
        message = pb.ModelValidation(
            sender=self.sender(), model_id=task.model_id, data=json.dumps(self.validate(self.decode(data))),
            correlation_id=task.correlation_id, session_id=task.session_id,
        )  # fmt: skip
        await self.calls.unary("SendModelValidation", message)


class CppClient(FleetClient):
    """`client` on the task stream alone, the sender in the first piece, the config in field 8, no id in validations."""

    async def _listen(self) -> None:
        listening = Calls.__new__(Calls)
        listening.channel, listening.metadata = self.calls.channel, (("client", self.client_id),)
        self.calls.metadata = ()
        ours, self.calls = self.calls, listening
        stream = self.calls.stream("TaskStream", pb.ClientAvailableMessage(sender=self.sender()), pb.TaskRequest)
        self.calls = ours
        async for task in stream:
            self.tasks.append(task)
            if task.type == pb.MODEL_UPDATE:
                await self.do_train(task)
            elif task.type == pb.MODEL_VALIDATION:
                await self.do_validate(task)

    async def do_train(self, task: Any) -> None:
        data = await self.calls.download(task.model_id, self.sender())
        assert data is not None
        assert isinstance(json.loads(task.data)["round_id"], str), "it is read as text"
        model, metadata = self.train(self.decode(data), {})
        name = str(uuid.uuid4())
        await self.calls.upload(name, self.encode(model), self.sender())
        await self.update(task.model_id, name, {"training_metadata": metadata}, config=task.data)

    async def do_validate(self, task: Any) -> None:
        data = await self.calls.download(task.model_id, self.sender())
        assert data is not None
        metrics = json.dumps(self.validate(self.decode(data)))
        message = pb.ModelValidation(sender=self.sender(), model_id=task.model_id, data=metrics)
        await self.calls.unary("SendModelValidation", message)


class KotlinClient(FleetClient):
    """`client` is its name, no id in its senders, the round as a number; it does not validate."""

    def metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.token or 'None'}"), ("client", self.name), ("grpc-server", "host")]

    def sender(self) -> Any:
        return pb.Client(name=self.name, role=pb.CLIENT)

    async def do_train(self, task: Any) -> None:
        data = await self.calls.download(task.model_id)
        assert data is not None
        model, metadata = self.train(self.decode(data), {})
        name = str(uuid.uuid4())
        await self.calls.upload(name, self.encode(model))
        meta = {"training_metadata": metadata, "config": json.dumps({"round_id": 1})}
        await self.update(task.model_id, name, meta, correlation_id=task.correlation_id)

    async def do_validate(self, task: Any) -> None:
        """Never."""


@dataclass
class Fleet:
    """A federation with a server for FEDn's clients, and those that were started."""

    made: Federation
    server: FednServer
    settings: Settings
    running: list["asyncio.Task[None]"] = field(default_factory=list)
    clients: list[FleetClient] = field(default_factory=list)

    async def restart(self) -> None:
        """End the server for FEDn's clients, and have another one at the same ports, over the same folder."""
        await self.server.aclose()
        ports = [int(address.rpartition(":")[2]) for address in (self.server.grpc_address, self.server.url)]
        again = self.settings.model_copy(update={"fedn_grpc_port": ports[0], "fedn_port": ports[1]})
        self.server = await FednServer.open(self.made.server, again)

    async def start(self, client: FleetClient, token: str = "", preferred: str = "") -> FleetClient:
        """Add a client and wait until the network has it."""
        name, validates = client.name or client.client_id, not isinstance(client, KotlinClient)
        guest = await self.server.gateway.add(client.client_id, name, token, preferred=preferred, validates=validates)
        node = asyncio.create_task(client.run())
        self.running.append(node)
        self.clients.append(client)
        told = asyncio.create_task(self.made._told("client.connected", guest.member.node, 0))
        await asyncio.wait([told, node], return_when=asyncio.FIRST_COMPLETED)
        assert not node.done(), client.ended
        return client

    async def labelled(self, client: str, key: str, value: str) -> None:
        """Until the network knows a client by a label."""
        async with asyncio.timeout(20):
            while self.made.tree.directory.labels(client).get(key) != value:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.01)


@asynccontextmanager
async def fleet(folder: Path, combiners: Sequence[str] = (), **settings: Any) -> AsyncIterator[Fleet]:
    """The weakest mode, where a test does not say otherwise: tokens have tests of their own."""
    async with federation(folder, combiners, settings.pop("central_data", None)) as made:
        chosen = {
            "fedn_tls": "off",
            "fedn_weak": "joining",
            "silence": 5.0,
            "fedn_grpc_port": free_port(),
            "fedn_port": free_port(),
        } | settings
        here = Settings(data=folder / "controller", host="127.0.0.1", project=PROJECT, **chosen)
        server = await FednServer.open(made.server, here)
        fleet = Fleet(made, server, here)
        try:
            yield fleet
        finally:
            for each in fleet.running:
                each.cancel()
            await asyncio.gather(*fleet.running, return_exceptions=True)
            await fleet.server.aclose()


def adds(amount: float, examples: int) -> Train:
    def train(model: Tensors, _: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
        return [each + np.float32(amount) for each in model], {"num_examples": examples}

    return train


@asynccontextmanager
async def scripts(made: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    """What a script with an operator's token calls."""
    people = made.made.controller.people
    await people.operator("operator")
    token, _ = await people.issue("operator", called="scripts")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=made.server.url, headers=headers, timeout=30) as client:
        yield client


async def seeded(client: httpx.AsyncClient, tensors: Sequence[np.ndarray] = (np.zeros(2, np.float32),)) -> str:
    """The id of a model that was uploaded."""
    answer = await client.post(
        "/api/v1/models/", files={"file": ("s.npz", npz(tensors))}, data={"helper": "numpyhelper"}
    )
    assert answer.json() == {"success": True, "message": "Model added successfully"}
    model: str = (await client.get("/api/v1/models/", headers={"X-Limit": "1"})).json()["result"][0]["model_id"]
    return model


CONFIG = {
    "aggregator": "fedavg", "round_timeout": 30, "buffer_size": -1, "delete_models_storage": True,
    "clients_required": 1, "validate": False, "helper_type": "numpyhelper",
}  # fmt: skip


async def start(client: httpx.AsyncClient, rounds: int = 1, start: dict[str, Any] | None = None, **config: Any) -> str:
    """The id of a session that runs."""
    model = await seeded(client)
    told = {"name": "s", "session_config": {**CONFIG, "model_id": model, **config}}
    created = await client.post("/api/v1/sessions/", json=told)
    assert created.status_code == 201, created.text
    session: str = created.json()["session_id"]
    started = await client.post(
        "/api/v1/sessions/start", json={"session_id": session, "rounds": rounds, **(start or {})}
    )
    assert started.json() == {"message": "Session started"}, started.text
    return session


async def ended(made: Fleet, session: str) -> SessionRecord:
    """A session, at its end."""
    return await made.made.end(await made.made.controller.store.get(SessionRecord, PROJECT, session))


def differences(expected: Any, got: Any, place: str = "") -> list[str]:
    """Where an answer has not the keys and types that it should have."""
    if expected == "null" or got is None:
        return []
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(expected) != set(got):
            return [f"{place}: {sorted(expected)} != {sorted(got) if isinstance(got, dict) else got}"]
        return [each for key in expected for each in differences(expected[key], got[key], f"{place}.{key}")]
    if isinstance(expected, list):
        if not isinstance(got, list):
            return [f"{place}: no list"]
        return [each for item in got if expected for each in differences(expected[0], item, f"{place}[]")]
    kind = {"text": str, "bool": bool, "number": (int, float)}[expected]
    return [] if isinstance(got, kind) else [f"{place}: {type(got).__name__} is no {expected}"]
