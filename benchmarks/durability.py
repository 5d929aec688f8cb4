"""What it costs that everything is on the disk before it counts: rounds with every fsync, and with none, in turn.

python benchmarks/durability.py [--rounds 60] [--repeats 3] [--large-rounds 4]

Without: `os.fsync` does nothing, in servers, agents and workers, and SQLite runs with `synchronous=OFF`; hansa has no
such setting.
"""

import argparse
import asyncio
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import structlog
from network_round import NODE

from hansa.app import load_app
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.network.controller.server import ControllerServer
from hansa.run import resolve, suit
from hansa.settings import Settings
from hansa.store.ports import Query
from hansa.store.records import EventRecord, RoundRecord
from hansa.store.sqlite import SqliteStore
from hansa.wire import codec
from hansa.wire.frames import Role

CARELESS = "import os\nos.fsync = lambda _: None\n"
"""Put before the code of every process."""

APP = """
import numpy as np
import hansa
app = hansa.App()

@app.model
def initial_model(rng):
    return {{"w": rng.normal(size={size}).astype(np.float32)}}

@app.train
def train(model, task):
    return hansa.Update({{"w": model["w"] * np.float32(0.99)}}, num_examples=10, metrics={{"loss": 0.5}})
"""


@contextmanager
def careless() -> Iterator[None]:
    """In this process, which is the controller: nothing waits for the disk."""
    sync, lane = os.fsync, SqliteStore._lane  # noqa: SLF001 - what is measured is not to be had otherwise

    def loose(self: SqliteStore, begin: str, connections: int, *pragmas: str) -> Any:
        return lane(self, begin, connections, *(pragma.replace("=FULL", "=OFF") for pragma in pragmas))

    os.fsync = lambda _: None
    SqliteStore._lane = loose  # type: ignore[method-assign]  # noqa: SLF001
    try:
        yield
    finally:
        os.fsync = sync
        SqliteStore._lane = lane  # type: ignore[method-assign]  # noqa: SLF001


async def measure(clients: int, size: int, rounds: int, *, durable: bool) -> list[float]:
    """Seconds from each commit to the next; size: values of the model."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        app = folder / "app.py"
        before = "" if durable else CARELESS
        app.write_text(before + APP.format(size=size))
        server = await ControllerServer.open(Settings(data=folder / "controller", grpc_port=0))
        nodes = []
        for index in range(clients):
            name = f"client-{index}"
            token, _ = await server.controller.issue_token("default", name, Role.CLIENT)
            joining = [server.address, server.secure.trust.fingerprint, token]
            given = ["client", name, *joining, str(folder / name), str(app)]
            command = [sys.executable, "-c", before + NODE, *given]
            nodes.append(subprocess.Popen(command))  # noqa: ASYNC220, S603 - it does not block for long; our own
        try:
            loaded = await asyncio.to_thread(load_app, app)
            rules = RoundRules(min_clients=clients, quorum=clients, deadline=600)
            spec = suit(RunSpec(rounds=rounds, rules=rules), loaded)
            spec = replace(spec, evaluation=EvaluationRules(every=0))
            seed = b"".join(codec.encode(resolve(spec).initial_model(loaded)))
            model = await server.controller.artifacts.add_model("default", seed)
            session = await server.controller.sessions.create("default", spec, seed_model=model.id)
            await server.controller.sessions.start("default", session.id)
            async for happened in server.controller.journal.follow("default", 0, session.id):
                if isinstance(happened, EventRecord) and happened.kind == "session.finished":
                    break
            query = Query("default", where={"session": session.id}, sort="number", limit=1000)
            closed = [record.closed_at for record in (await server.controller.store.list(RoundRecord, query)).items]
        finally:
            for node in nodes:
                node.kill()
                node.wait()
            await server.aclose()
    return [after - before for before, after in pairwise(closed)]


def raw(size: int, times: int = 20) -> float:
    """Seconds of a write and its fsync alone, the median: this disk's own limit. size: bytes."""
    block, taken = os.urandom(size), []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(times):
            begun = time.perf_counter()
            os.pwrite(file.fileno(), block, 0)
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def compared(clients: int, size: int, rounds: int, repeats: int) -> None:
    """Print both ways, measured in turn, and their ratio."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        taken[True] += asyncio.run(measure(clients, size, rounds, durable=True))
        with careless():
            taken[False] += asyncio.run(measure(clients, size, rounds, durable=False))
    safe, loose = statistics.median(taken[True]), statistics.median(taken[False])
    updates = clients * size * 4 / 1e6
    print(
        f"{size * 4 / 1e6:g} MB, {clients} clients: {safe:.4g} s a round with everything on the disk, {loose:.4g} s "
        f"without, ratio {safe / loose:.2f}; {updates / safe:.3g} and {updates / loose:.3g} MB of updates a second "
        f"({len(taken[True])} rounds each)",
        flush=True,
    )


def main() -> None:
    """Print machine, versions, the disk's own time, and both sizes."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large-rounds", type=int, default=4)
    given = parser.parse_args()
    print(f"python {platform.python_version()}, numpy {np.__version__}, grpc {grpc.__version__}, {platform.machine()}")
    print(f"write and fsync alone: 4 kB {1000 * raw(4096):.2f} ms, 100 MB {raw(100_000_000, 3):.2f} s", flush=True)
    compared(10, 256, given.rounds, given.repeats)
    compared(2, 25_000_000, given.large_rounds, given.repeats)


if __name__ == "__main__":
    main()
