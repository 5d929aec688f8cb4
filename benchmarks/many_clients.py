"""A combiner with many connected clients: seconds until all are there, seconds a round, and the memory they take.

python benchmarks/many_clients.py [--clients 100 300 1000] [--rounds 5]

The controller, the combiner and the clients are three processes. A client is a real connection of its own, with its
own token and control stream; it trains nothing, and answers each task at once with an update of 1 kB.
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

import grpc
import numpy as np
import psutil
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
from hansa.store.ports import Query
from hansa.store.records import EventRecord, RoundRecord, SessionRecord
from hansa.wire import codec
from hansa.wire.frames import Blob, Hello, Offer, OpenRound, Role, ToNode, Welcome
from hansa.wire.tls import Trust
from hansa.wire.transport import GRPC

_AT_ONCE = 50
"""Clients that dial at the same time; real ones do not all start in one millisecond."""

MODEL = Arrays({"w": np.zeros(256, np.float32)})
CHANGE = Arrays({"w": np.full(256, 0.01, np.float32)})


class Light:
    """A client that answers each task at once with the same update."""

    link: Link
    entrance: Entrance

    def __init__(self, name: str, here: asyncio.Semaphore) -> None:
        """here: released when it is attached."""
        self._name = name
        self._here = here
        data = b"".join(codec.encode(CHANGE))
        self._update = Blob(codec.digest(CHANGE), len(data), data)
        self._known = False

    def attached(self, welcome: Welcome) -> None:
        """It is there; say so once."""
        del welcome
        if not self._known:
            self._known = True
            self._here.release()

    def detached(self, why: str) -> None:
        """The link dials again."""

    def receive(self, frame: ToNode) -> None:
        """Take part."""
        if isinstance(frame, OpenRound) and frame.key.kind is Kind.TRAIN:
            made = (Contribution(self._name, 10),)
            offer = Offer(frame.key, self._name, self._update, made, base=frame.model.digest)
            self.link.send(signed_offer(offer, self.entrance.identity))


def clients(join: str, trust: Trust, tokens: list[tuple[str, str]]) -> None:
    """A process with these clients."""

    async def main(keys: Path) -> None:
        here = asyncio.Semaphore(_AT_ONCE)
        running = []
        for name, token in tokens:
            await here.acquire()
            light = Light(name, here)
            entrance = Entrance(join, token, keys / name, trust, GRPC)
            hello = Hello(Role.CLIENT, entrance.identity.instance, hansa.__version__)
            light.entrance = entrance
            light.link = Link(light, entrance=entrance, hello=hello, preferred="combiner")
            running.append(asyncio.create_task(light.link.run()))
        await asyncio.gather(*running)

    _quiet()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # servers see to it themselves
    with tempfile.TemporaryDirectory() as keys:
        asyncio.run(main(Path(keys)))


def combiner(join: str, trust: Trust, token: str, work: str) -> None:
    """A combiner's process."""
    _quiet()
    asyncio.run(CombinerNode("combiner", join=join, token=token, work=Path(work), trust=trust).run())


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


@dataclass(frozen=True)
class Result:
    """One measurement."""

    connected: float
    """Seconds from the first dial until the controller knew every client."""
    rounds: tuple[RoundRecord, ...]
    cause: str
    """Why the session ended."""
    combiner: float
    """Megabytes that the combiner grew by, to its peak."""
    controller: float
    """Megabytes that the controller grew by, to its peak."""

    @property
    def seconds(self) -> list[float]:
        """From one commit to the next."""
        return [after.closed_at - before.closed_at for before, after in pairwise(self.rounds)]


class Growth:
    """The most memory that processes came to hold since this was made, in megabytes."""

    def __init__(self, *pids: int) -> None:
        """pids: whose."""
        self._processes = [psutil.Process(pid) for pid in pids]
        self._before = [process.memory_info().rss for process in self._processes]
        self.megabytes = [0.0] * len(pids)

    async def watch(self) -> None:
        """Look, for ever."""
        while True:
            held = [process.memory_info().rss for process in self._processes]
            grown = [(now - before) / 1e6 for now, before in zip(held, self._before, strict=True)]
            self.megabytes = [max(pair) for pair in zip(grown, self.megabytes, strict=True)]
            await asyncio.sleep(0.1)


async def measure(count: int, rounds: int) -> Result:
    """Rounds with `count` clients at one combiner, which all must take part."""
    context = multiprocessing.get_context("spawn")
    children: list[BaseProcess] = []
    with tempfile.TemporaryDirectory() as scratch:
        server = await ControllerServer.open(Settings(data=Path(scratch) / "controller", grpc_port=0))
        controller = server.controller
        joining = server.address, server.secure.trust
        directory = controller.tree("default").directory
        try:
            token, _ = await controller.issue_token("default", "combiner", Role.COMBINER)
            branch = context.Process(target=combiner, args=(*joining, token, scratch + "/combiner"))
            children.append(branch)
            branch.start()
            while not directory.combiners:  # noqa: ASYNC110 - before the clock starts
                await asyncio.sleep(0.05)
            names = [f"client-{i}" for i in range(count)]
            tokens = [(name, (await controller.issue_token("default", name, Role.CLIENT))[0]) for name in names]
            growth = Growth(branch.pid or 0, os.getpid())
            watching = asyncio.create_task(growth.watch())
            crowd = context.Process(target=clients, args=(*joining, tokens))
            children.append(crowd)
            started = time.monotonic()
            crowd.start()
            while len(directory.clients) < count:  # noqa: ASYNC110 - a look costs nothing beside a thousand clients
                await asyncio.sleep(0.05)
            connected = time.monotonic() - started
            session = await _run(server, count, rounds)
            query = Query("default", where={"session": session.id}, sort="number", limit=1000)
            records = (await controller.store.list(RoundRecord, query)).items
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        finally:
            for child in children:
                child.kill()
                child.join()
            await server.aclose()
    return Result(connected, records, session.cause, *growth.megabytes)


async def _run(server: ControllerServer, count: int, rounds: int) -> SessionRecord:
    controller = server.controller
    model = await controller.artifacts.add_model("default", b"".join(codec.encode(MODEL)))
    rules = RoundRules(min_clients=count, quorum=count, deadline=300)
    spec = RunSpec(rounds=rounds, rules=rules, evaluation=EvaluationRules(every=0))
    session = await controller.sessions.create("default", spec, seed_model=model.id)
    await controller.sessions.start("default", session.id)
    async for happened in controller.journal.follow("default", 0, session.id):
        if isinstance(happened, EventRecord) and happened.kind in {"session.finished", "session.failed"}:
            break
    return await controller.store.get(SessionRecord, "default", session.id)


def main() -> None:
    """Print machine, versions and a line for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    _quiet()
    print(
        f"python {platform.python_version()}, numpy {np.__version__}, grpc {grpc.__version__}, {os.cpu_count()} cores"
    )
    for count in given.clients:
        result = asyncio.run(measure(count, given.rounds))
        seconds = statistics.median(result.seconds)
        print(
            f"{count} clients: all connected after {result.connected:.1f} s, {seconds:.2f} s per round "
            f"({1000 * seconds / count:.2f} ms a client), combiner +{result.combiner:.0f} MB, "
            f"controller +{result.controller:.0f} MB; {result.cause}",
            flush=True,
        )


if __name__ == "__main__":
    main()
