"""Throughput and memory of one combiner: clients that download a model and upload an update of its size, over gRPC.

python benchmarks/network_transfer.py [--megabytes 100] [--clients 4 16 64]

The combiner is a process of its own; so are the clients, which train nothing, so that only moving, checking and folding
are timed. The limit printed beside it is raw TCP on loopback into a preallocated buffer, in the same run.
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np
import structlog

import hansa
from hansa.arrays import Arrays
from hansa.messages import Contribution, EvaluationRules, Kind, RoundRules, RunSpec
from hansa.network.client.signing import signed_offer
from hansa.network.combiner.node import CombinerNode
from hansa.network.controller.server import ControllerServer
from hansa.network.entrance import Entrance
from hansa.network.link import Link
from hansa.settings import Settings
from hansa.store.records import EventRecord
from hansa.wire import codec
from hansa.wire.frames import Admission, Blob, Hello, Offer, OpenRound, Role, ToNode, Verdict, Welcome
from hansa.wire.tls import Trust
from hansa.wire.transport import GRPC

MEGABYTE = 10**6


def structure(megabytes: int) -> Arrays:
    """A float32 model of this size in ten tensors."""
    rng = np.random.default_rng(0)
    each = megabytes * MEGABYTE // 40
    return Arrays({f"layer{i}": rng.normal(size=each).astype(np.float32) for i in range(10)})


# ── raw TCP ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _send_raw(port: int, size: int) -> None:
    data = memoryview(bytes(1 << 20))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(size // len(data)):
            connection.sendall(data)


def raw_limit(size: int) -> float:
    """GB/s of one TCP stream on loopback, from another process into a preallocated buffer."""
    rounded = size // (1 << 20) * (1 << 20)
    buffer = memoryview(bytearray(rounded))
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = multiprocessing.get_context("spawn").Process(target=_send_raw, args=(server.getsockname()[1], rounded))
        sender.start()
        connection, _ = server.accept()
        with connection:
            start, received = time.perf_counter(), 0
            while received < rounded:
                received += connection.recv_into(buffer[received:])
            taken = time.perf_counter() - start
        sender.join()
    return rounded / taken / 1e9


# ── clients that only move bytes ─────────────────────────────────────────────────────────────────────────────────


@dataclass
class Measured:
    """Times of one phase, on the clients' clock (seconds)."""

    started: float = 0.0
    downloaded: float = 0.0
    accepted: float = 0.0
    refused: str = ""
    """Why the update does not count."""


class Mover:
    """Downloads the broadcast model into nothing, and offers the update that it was given."""

    link: Link
    entrance: Entrance

    def __init__(self, name: str, update: bytes, digest: str, done: "asyncio.Queue[Measured]", *, fetch: bool) -> None:
        self.name, self.update, self.digest, self.done, self.fetch = name, update, digest, done, fetch
        self.times = Measured()

    def attached(self, welcome: Welcome) -> None:
        """Nothing to do."""

    def detached(self, why: str) -> None:
        """Nothing to do."""

    def receive(self, frame: ToNode) -> None:
        """Take part."""
        match frame:
            case OpenRound(key=key) if key.kind is Kind.TRAIN:
                self.job = asyncio.create_task(self.take_part(frame))
            case Admission():
                self.upload = asyncio.create_task(self.send(frame))
            case Verdict():
                self.times.accepted = time.monotonic()
                self.times.refused = "" if frame.accepted else frame.detail
                self.done.put_nowait(self.times)
            case _:
                pass

    async def take_part(self, opened: OpenRound) -> None:
        """Download, then offer."""
        self.times = Measured(time.monotonic())
        if self.fetch:
            with tempfile.TemporaryDirectory() as folder:
                await self.link.download(opened.model, Path(folder) / "model")
        self.times.downloaded = time.monotonic()
        blob = Blob(self.digest, len(self.update))
        offer = Offer(opened.key, self.name, blob, (Contribution(self.name, 1),), base=opened.model.digest)
        self.link.send(signed_offer(offer, self.entrance.identity))

    async def send(self, admission: Admission) -> None:
        """Upload what was offered."""
        await self.link.upload(admission.upload, [memoryview(self.update)], admission.offset)


def clients(
    joining: tuple[str, Trust],
    tokens: list[tuple[str, str]],
    megabytes: int,
    fetch: bool,  # noqa: FBT001
    results: Connection,
) -> None:
    """A process with these clients; sends the times of each."""
    join, trust = joining

    async def main(keys: Path) -> None:
        change = Arrays({name: array * np.float32(0.01) for name, array in structure(megabytes).items()})
        update = b"".join(codec.encode(change))
        digest = codec.digest(change)
        done: asyncio.Queue[Measured] = asyncio.Queue()
        running = []
        for name, token in tokens:
            mover = Mover(name, update, digest, done, fetch=fetch)
            entrance = Entrance(join, token, keys / name, trust, GRPC)
            hello = Hello(Role.CLIENT, entrance.identity.instance, hansa.__version__)
            mover.entrance, mover.link = entrance, Link(mover, entrance=entrance, hello=hello)
            running.append(asyncio.create_task(mover.link.run()))
        results.send([vars(await done.get()) for _ in tokens])

    _quiet()
    with tempfile.TemporaryDirectory() as keys:
        asyncio.run(main(Path(keys)))


def combiner(join: str, trust: Trust, token: str, work: str, slots: int) -> None:
    """A combiner's process."""
    _quiet()
    asyncio.run(CombinerNode("combiner", join=join, token=token, work=Path(work), slots=slots, trust=trust).run())


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


@dataclass(frozen=True)
class Result:
    """One measurement."""

    download: float
    """GB/s, all clients together."""
    upload: float
    """GB/s of updates received, checked and folded, all clients together."""
    cpu: float
    """CPU seconds of the combiner per GB moved, both ways."""
    peak: float
    """Megabytes of the combiner's own memory (VmHWM less mapped files) at its highest."""


def memory(pid: int) -> float:
    """Anonymous memory of a process in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024 / MEGABYTE
    return 0.0


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(count: int, megabytes: int, slots: int, *, fetch: bool, tls: str = "on") -> Result:
    """One round of `count` clients on one combiner."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        server = await ControllerServer.open(Settings(data=Path(scratch) / "controller", grpc_port=0, tls=tls))
        controller = server.controller
        joining = server.address, server.secure.trust
        token, _ = await controller.issue_token("default", "combiner", Role.COMBINER)
        branch = context.Process(target=combiner, args=(*joining, token, scratch + "/combiner", slots))
        branch.start()
        directory = controller.tree("default").directory
        while not directory.combiners:  # noqa: ASYNC110 - before the clock starts
            await asyncio.sleep(0.05)
        names = [f"client-{i}" for i in range(count)]
        tokens = [(name, (await controller.issue_token("default", name, Role.CLIENT))[0]) for name in names]
        ours, theirs = context.Pipe()
        moving = context.Process(target=clients, args=(joining, tokens, megabytes, fetch, theirs))
        moving.start()
        model = await controller.artifacts.add_model("default", b"".join(codec.encode(structure(megabytes))))
        rules = RoundRules(min_clients=count, quorum=count, deadline=3000, lease=3000)
        spec = RunSpec(rounds=1, rules=rules, evaluation=EvaluationRules(every=0))
        session = await controller.sessions.create("default", spec, seed_model=model.id)
        await controller.sessions.start("default", session.id)
        before, peak = cpu_seconds(branch.pid or 0), 0.0
        while not ours.poll():
            peak = max(peak, memory(branch.pid or 0))
            await asyncio.sleep(0.02)
        times = ours.recv()
        spent = cpu_seconds(branch.pid or 0) - before
        async for happened in controller.journal.follow("default", 0, session.id):
            peak = max(peak, memory(branch.pid or 0))
            if isinstance(happened, EventRecord) and happened.kind in {"session.finished", "session.failed"}:
                if happened.kind != "session.finished":
                    raise RuntimeError(happened.message)
                break
        moving.kill()
        branch.kill()
        moving.join()
        branch.join()
        await server.aclose()
    if refused := [entry["refused"] for entry in times if entry["refused"]]:
        raise RuntimeError(f"an update was refused: {refused[0]}")
    total = count * megabytes * MEGABYTE / 1e9
    began = min(entry["started"] for entry in times)
    fetched = max(entry["downloaded"] for entry in times)
    first = min(entry["downloaded"] for entry in times)
    ended = max(entry["accepted"] for entry in times)
    return Result(total / (fetched - began) if fetch else 0.0, total / (ended - first), spent / total, peak)


def main() -> None:
    """Print machine, versions, limits and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--clients", type=int, nargs="*", default=[4, 16, 64])
    parser.add_argument("--slots", type=int, default=2)
    given = parser.parse_args()
    _quiet()
    print(
        f"python {platform.python_version()}, numpy {np.__version__}, grpc {grpc.__version__}, {os.cpu_count()} cores"
    )
    for megabytes in given.megabytes:
        limit = statistics.median(raw_limit(megabytes * MEGABYTE) for _ in range(3))
        down = asyncio.run(measure(2, megabytes, given.slots, fetch=True))
        up = asyncio.run(measure(2, megabytes, given.slots, fetch=False))
        print(f"{megabytes} MB x 2 clients; raw TCP on loopback {limit:.2f} GB/s")
        print(f"  download into files, verified: {down.download:.2f} GB/s, {down.download / limit:.2f} of raw TCP")
        print(f"  upload, checked and folded:    {up.upload:.2f} GB/s, {up.upload / limit:.2f} of raw TCP")
        print(f"  combiner: {up.cpu:.2f} CPU s per GB of updates (its own download and its sum included),", end=" ")
        print(f"peak {up.peak:.0f} MB")
    for count in given.clients:
        result = asyncio.run(measure(count, 100, given.slots, fetch=False))
        print(
            f"100 MB x {count} clients: upload + fold {result.upload:.2f} GB/s, {result.cpu:.2f} CPU s per GB, "
            f"combiner peak {result.peak:.0f} MB"
        )


if __name__ == "__main__":
    main()
