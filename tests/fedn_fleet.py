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
import numpy as np
from federation import PROJECT, Federation, federation

from hansa.compat.fedn._generated import fedn_pb2
from hansa.compat.fedn.server import FednServer
from hansa.settings import Settings

pb: Any = fedn_pb2

Tensors = list[np.ndarray]
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

    async def upload(self, name: str, data: bytes, sender: Any = None, *, break_after: int | None = None) -> Any:
        async def pieces() -> AsyncIterator[Any]:
            for at in range(0, len(data), PIECE):
                if break_after is not None and at >= break_after:
                    raise ConnectionError
                yield pb.ModelRequest(
                    data=data[at : at + PIECE], id=name, status=pb.IN_PROGRESS, sender=sender if at == 0 else None
                )
            yield pb.ModelRequest(id=name, status=pb.OK)

        call = self.channel.stream_unary(
            self._path("Upload"), pb.ModelRequest.SerializeToString, pb.ModelResponse.FromString
        )
        return await call(pieces(), metadata=self.metadata)

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
        name = str(uuid.uuid4())
        await self.calls.upload(name, self.encode(model))
        meta = {"training_metadata": metadata, "processing_time": 0.1, "config": task.data}
        await self.update(task.model_id, name, meta)

    async def update(self, model: str, name: str, meta: dict[str, Any], **more: Any) -> str:
        message = pb.ModelUpdate(
            sender=self.sender(), receiver=pb.Client(name="combiner", role=pb.COMBINER), model_id=model,
            model_update_id=name, timestamp=str(datetime.now(UTC)), meta=json.dumps(meta), **more,
        )  # fmt: skip
        reply = (await self.calls.unary("SendModelUpdate", message)).response
        self.replies.append(reply)
        return str(reply)

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
    running: list["asyncio.Task[None]"] = field(default_factory=list)

    async def start(self, client: FleetClient, token: str = "") -> FleetClient:
        """Add a client and wait until the network has it."""
        name, validates = client.name or client.client_id, not isinstance(client, KotlinClient)
        guest = await self.server.gateway.add(client.client_id, name, token, validates=validates)
        node = asyncio.create_task(client.run())
        self.running.append(node)
        told = asyncio.create_task(self.made._told("client.connected", guest.member.node, 0))
        await asyncio.wait([told, node], return_when=asyncio.FIRST_COMPLETED)
        assert not node.done(), client.ended
        return client


@asynccontextmanager
async def fleet(folder: Path, combiners: Sequence[str] = (), **settings: Any) -> AsyncIterator[Fleet]:
    """The weakest mode, where a test does not say otherwise: tokens have tests of their own."""
    async with federation(folder, combiners) as made:
        chosen = {"fedn_tls": "off", "fedn_weak": "joining", "silence": 5.0, "fedn_grpc_port": 0} | settings
        here = Settings(data=folder / "controller", host="127.0.0.1", project=PROJECT, **chosen)
        server = await FednServer.open(made.server, here)
        running: list[asyncio.Task[None]] = []
        try:
            yield Fleet(made, server, running)
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await server.aclose()
