"""How long a back-up takes, and how large it is: of a server with one session of many rounds.

python benchmarks/backup.py [--rounds 300] [--megabytes 10] [--clients 10]

The session's rows are committed as a controller commits them, and its models are random bytes; nobody trains. Then: a
first back-up, one more after ten rounds more, reading every byte of both, a restore; and a copy of as many bytes by the
system, which is this disk's own limit. Each is synced to the disk; what was read is in memory already.
"""

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hansa.messages import Kind, RunSpec
from hansa.network.controller.backup import create, restore
from hansa.network.controller.server import ControllerServer
from hansa.network.controller.stores import stores_of
from hansa.settings import GivenSettings
from hansa.store.backups import Backups
from hansa.store.ports import RoundCommit
from hansa.store.records import (
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    RoundRecord,
    SessionRecord,
    SessionState,
)

PROJECT = "default"


async def rounds(settings: GivenSettings, first: int, last: int, size: int, clients: int) -> None:
    """Commit these rounds of the session, with `clients` contributions and metrics each; size: bytes of a model."""
    store, objects = stores_of(settings)
    await store.open()
    session = SessionRecord("s", PROJECT, "s", RunSpec(rounds=last), SessionState.RUNNING, 1.0)
    if first == 1:
        await store.put(session)
    parent = (await store.get(SessionRecord, PROJECT, "s")).model or ""
    for number in range(first, last + 1):
        model, key = await objects.put([os.urandom(size)]), f"s/{number}"
        names = [f"client-{index}" for index in range(clients)]
        parts = [ContributionRecord(f"{key}/{n}", PROJECT, "s", number, n, "accepted", 10, "0" * 64) for n in names]
        told = [MetricRecord(f"{key}/{n}", PROJECT, "s", number, Kind.TRAIN, "loss", 0.5, 10, n) for n in names]
        record = RoundRecord(key, PROJECT, "s", number, parent, model, model, clients, 0, 0, 0, 10 * clients, 1.0, 2.0)
        row = ModelRecord(model, PROJECT, "s", number, parent, size, 1.0)
        event = EventRecord(0, PROJECT, "s", "round.committed", f"round {number} is committed", 1.0)
        now = replace(session, round=number, model=model)
        await store.commit_round(RoundCommit(now, record, row, tuple(parts), tuple(told), (event,)))
        parent = model
    await store.close()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print the seconds that a step took."""
    begun = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - begun:.2f} s", flush=True)


async def measure(folder: Path, number: int, size: int, clients: int) -> None:
    """Print the figures."""
    settings = GivenSettings(data=folder / "data", grpc_port=0)
    await (await ControllerServer.open(settings)).aclose()
    await rounds(settings, 1, number, size, clients)
    database = (folder / "data" / "hansa.db").stat().st_size
    print(f"{number} rounds of {clients} clients, models of {size / 1e6:g} MB; a database of {database / 1e6:.2f} MB")
    with timed("a first back-up"):
        made = await create(settings, folder / "safe", keep=7)
    print(f"  {made.bytes / 1e6:.0f} MB, {made.objects} objects")
    await rounds(settings, number + 1, number + 10, size, clients)
    with timed("one more after ten rounds"):
        made = await create(settings, folder / "safe", keep=7)
    print(f"  {made.copied} objects, {made.copied_bytes / 1e6:.0f} MB were new")
    with timed("reading every byte of both"):
        checked = Backups(folder / "safe").check()
    print(f"  {checked.bytes / 1e6:.0f} MB, {len(checked.damages)} damaged")
    with timed("a restore"):
        await restore(settings.model_copy(update={"data": folder / "again"}), folder / "safe")
    shutil.rmtree(folder / "again")
    with timed("a copy by the system, and sync"):
        shutil.copytree(folder / "data", folder / "copy")
        os.sync()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--megabytes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), given.rounds, round(given.megabytes * 1e6), given.clients))


if __name__ == "__main__":
    main()
