"""Seconds per round over a real network: a 1 kB model, 10 clients, each its own process, everything durable.

python benchmarks/network_round.py [--clients 10] [--rounds 100] [--combiners 0]
"""

import argparse
import asyncio
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np

from hansa.app import load_app
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.network.controller.server import ControllerServer
from hansa.run import resolve, suit
from hansa.settings import Settings
from hansa.store.ports import Query
from hansa.store.records import EventRecord, RoundRecord
from hansa.wire import codec
from hansa.wire.frames import Role

APP = """
import numpy as np
import hansa
app = hansa.App()

@app.model
def initial_model(rng):
    return {"w": rng.normal(size=256).astype(np.float32)}

@app.train
def train(model, task):
    return hansa.Update({"w": model["w"] * np.float32(0.99)}, num_examples=10, metrics={"loss": 0.5})

@app.evaluate
def evaluate(model, task):
    return hansa.Metrics({"loss": float(model["w"].mean())}, num_examples=10)
"""

NODE = """
import asyncio, logging, sys
from pathlib import Path
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
from hansa.messages import ClientInfo
from hansa.network.client.agent import Agent
from hansa.network.combiner.node import CombinerNode
from hansa.wire.tls import Trust
kind, name, join, ca, token, work, app = sys.argv[1:]
trust = Trust(fingerprint=ca)
if kind == "client":
    node = Agent(ClientInfo(name), join=join, token=token, work=Path(work), app=Path(app), trust=trust)
else:
    node = CombinerNode(name, join=join, token=token, work=Path(work), trust=trust)
asyncio.run(node.run())
"""


async def started(
    server: ControllerServer, kind: str, name: str, folder: Path, app: Path, *, before: str
) -> subprocess.Popen[bytes]:
    """A node in a process of its own. before: code that it begins with."""
    token, _ = await server.controller.issue_token("default", name, Role(kind))
    joining = [server.address, server.secure.trust.fingerprint, token]
    arguments = [sys.executable, "-c", before + NODE, kind, name, *joining, str(folder / name), str(app)]
    return subprocess.Popen(arguments)  # noqa: ASYNC220, S603 - starting does not block for long; our own arguments


async def measure(
    clients: int, combiners: int, rounds: int, *, evaluate: bool, tls: str = "on", before: str = ""
) -> list[float]:
    """Milliseconds from each commit to the next. before: code that every node begins with."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        app = folder / "app.py"
        app.write_text(APP)
        server = await ControllerServer.open(Settings(data=folder / "controller", grpc_port=0, tls=tls))
        directory = server.controller.tree("default").directory
        nodes = [
            await started(server, "combiner", f"combiner-{i}", folder, app, before=before) for i in range(combiners)
        ]
        while len(directory.combiners) < combiners:  # noqa: ASYNC110 - before the clock starts
            await asyncio.sleep(0.05)
        nodes += [await started(server, "client", f"client-{i}", folder, app, before=before) for i in range(clients)]
        try:
            loaded = load_app(app)
            rules = RoundRules(min_clients=clients, quorum=clients, deadline=120)
            spec = suit(RunSpec(rounds=rounds, rules=rules), loaded)
            spec = replace(spec, evaluation=EvaluationRules(every=int(evaluate), central=False))
            model = await server.controller.artifacts.add_model(
                "default", b"".join(codec.encode(resolve(spec).initial_model(loaded)))
            )
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
    return [1000 * (after - before) for before, after in pairwise(closed[5:])]


def main() -> None:
    """Print machine, versions and medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--combiners", type=int, default=0)
    given = parser.parse_args()
    print(f"python {platform.python_version()}, numpy {np.__version__}, grpc {grpc.__version__}, {platform.machine()}")
    for evaluate in (False, True):
        taken = asyncio.run(measure(given.clients, given.combiners, given.rounds, evaluate=evaluate))
        what = "train + evaluate + commit" if evaluate else "train + commit"
        print(
            f"{given.clients} clients, {given.combiners} combiners, 1 kB model, {what}: "
            f"median {statistics.median(taken):.1f} ms, p90 {statistics.quantiles(taken, n=10)[8]:.1f} ms per round"
        )


if __name__ == "__main__":
    main()
