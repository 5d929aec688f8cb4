"""Files as memory: models and updates are read where they lie."""

import mmap
from pathlib import Path

__all__ = ["mapped"]


def mapped(path: Path) -> memoryview:
    """The bytes of a file, read-only; they stay readable after the file is unlinked."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
