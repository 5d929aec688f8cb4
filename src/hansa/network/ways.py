"""One session on networks of different shapes, which must give the same model, to the bit.

Each is a function (path of the app, spec, clients) → the model after the last round. All nodes are in this process, but
for user code, which has a process per client and comes from the same file; between them is real gRPC over TCP.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from hansa.arrays import Arrays
from hansa.errors import RunFailedError
from hansa.messages import RunSpec
from hansa.network.local import PROJECT, LocalNetwork
from hansa.network.proxy import Proxy
from hansa.run import derive_rng
from hansa.store.records import SessionState

__all__ = ["one_combiner", "retrying", "shuffled", "three_tiers"]

_TREE: Mapping[str, str] = {
    "west": "",
    "east": "",
    "north-west": "west",
    "south-west": "west",
    "north-east": "east",
}
"""Five combiners in two tiers, below the root, which is the third. Clients attach to the three outer ones."""

_LATE = 0.02
"""Seconds that a block waits at most, in the shuffled network."""


def one_combiner(app: Path, spec: RunSpec, clients: int) -> Arrays:
    """All clients below one combiner."""
    return asyncio.run(_in_tree({"combiner-0": ""}, app, spec, clients))


def three_tiers(app: Path, spec: RunSpec, clients: int) -> Arrays:
    """Five combiners and the root, in three tiers."""
    return asyncio.run(_in_tree(_TREE, app, spec, clients))


def shuffled(app: Path, spec: RunSpec, clients: int) -> Arrays:
    """Every message is late by a random time, so updates arrive in another order."""
    return asyncio.run(_shuffled(app, spec, clients))


def retrying(app: Path, spec: RunSpec, clients: int) -> Arrays:
    """In each round every connection is reset once an update has been taken: all offer again what they had offered."""
    return asyncio.run(_retrying(app, spec, clients))


async def _in_tree(parents: Mapping[str, str], app: Path, spec: RunSpec, clients: int) -> Arrays:
    leaves = [name for name in parents if name not in parents.values()]
    with tempfile.TemporaryDirectory(prefix="hansa-parity-") as folder:
        async with LocalNetwork.open(Path(folder)) as network:
            for name, parent in parents.items():
                await network.combiner(name, parent)
            await network.clients(clients, app, below=leaves)
            return await _model(network, app, spec, clients)


async def _shuffled(app: Path, spec: RunSpec, clients: int) -> Arrays:
    async with _behind_proxy(spec, delay=_LATE) as (network, _):
        await network.clients(clients, app)
        return await _model(network, app, spec, clients)


async def _retrying(app: Path, spec: RunSpec, clients: int) -> Arrays:
    async with _behind_proxy(spec) as (network, proxy):
        await network.clients(clients, app)
        resetting = asyncio.create_task(_reset_in_each_round(network, proxy))
        try:
            return await _model(network, app, spec, clients)
        finally:
            resetting.cancel()
            with suppress(asyncio.CancelledError):
                await resetting


@asynccontextmanager
async def _behind_proxy(spec: RunSpec, delay: float = 0.0) -> AsyncIterator[tuple[LocalNetwork, Proxy]]:
    rng = derive_rng(spec.seed, "proxy")
    with tempfile.TemporaryDirectory(prefix="hansa-parity-") as folder:
        async with (
            Proxy.open(rng, delay) as proxy,
            LocalNetwork.open(Path(folder), advertise=proxy.address) as network,
        ):
            proxy.target = network.server.listening
            yield network, proxy


async def _reset_in_each_round(network: LocalNetwork, proxy: Proxy) -> None:
    """Hang up when the first update of a round has been taken."""
    done = 0
    async for happened in network.controller.journal.follow(PROJECT, 0):
        number = happened.data.get("round")
        if happened.kind == "client.accepted" and isinstance(number, int) and number > done:
            done = number
            proxy.hang_up()


async def _model(network: LocalNetwork, app: Path, spec: RunSpec, clients: int) -> Arrays:
    """Run the session with everybody; raises `RunFailedError` where it does not finish."""
    everybody = replace(spec.rules, min_clients=max(spec.rules.min_clients, clients))
    ended = await network.run(app, replace(spec, project=PROJECT, rules=everybody))
    if ended.state is not SessionState.FINISHED:
        raise RunFailedError(f"the session {ended.state.value}: {ended.cause}")
    return await network.model(ended)
