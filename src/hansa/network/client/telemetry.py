"""What a client's machine tells of itself, where its owner lets it: how busy it is, and not with whose work."""

import asyncio
import math
import time
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # psutil ships no types

from hansa.messages import Sample
from hansa.network.client.site import Site
from hansa.network.client.telling import BYTES_OF_A_NUMBER
from hansa.network.link import Link
from hansa.network.patience import patiently
from hansa.wire.frames import Samples

__all__ = ["MEASURED", "tell_of_machine"]

MEASURED: Final = ("cpu", "memory", "memory_used", "disk", "disk_free")
"""cpu, memory, disk: shares from 0 to 1; memory_used, disk_free: bytes."""

_DAY: Final = 86_400.0
"""Seconds between two lines of the ledger about what this machine tells of itself."""


async def tell_of_machine(client: str, link: Link, site: Site, folder: Path) -> None:
    """Tell how busy this machine is, for ever, as often as the site lets it; nothing where it lets nothing.

    client: its name; folder: on whose disk it works.
    """
    every = site.policy.outbound.telemetry
    if every is None:
        return
    size = BYTES_OF_A_NUMBER * len(MEASURED) * math.ceil(_DAY / every)
    machine, noted_until, loop = _Machine(folder), 0.0, asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every)
        if not link.connected:
            continue
        if loop.time() >= noted_until:
            await patiently(lambda: asyncio.to_thread(site.reports, MEASURED, size), who=f"client {client}")
            noted_until = loop.time() + _DAY
        link.send(Samples(client, await asyncio.to_thread(machine.measure)))


class _Machine:
    """This machine."""

    def __init__(self, folder: Path) -> None:
        """folder: on whose disk the client works."""
        self._folder = folder
        psutil.cpu_percent()  # the first call only begins to count

    def measure(self) -> tuple[Sample, ...]:
        """As it is now; cpu: since the last call."""
        at, memory, disk = time.time(), psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
        numbers = (psutil.cpu_percent() / 100, memory.percent / 100, memory.used, disk.percent / 100, disk.free)
        return tuple(Sample(name, float(value), 0, at) for name, value in zip(MEASURED, numbers, strict=True))
