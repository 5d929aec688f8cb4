"""What a client's machine tells of itself, where its owner lets it: how busy it is, and not with whose work."""

import time
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # psutil ships no types

from hansa.messages import Sample

__all__ = ["MEASURED", "Machine"]

MEASURED: Final = ("cpu", "memory", "memory_used", "disk", "disk_free")
"""cpu, memory, disk: shares from 0 to 1; memory_used, disk_free: bytes."""


class Machine:
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
