"""Files as memory: models and updates are read where they lie."""

import mmap
import os
from pathlib import Path

__all__ = ["mapped", "opened"]


def mapped(path: Path) -> memoryview:
    """The bytes of a file, read-only; they stay readable after the file is unlinked."""
    return _mapped(path, 0)


def opened(path: Path) -> memoryview:
    """The same of a file that user code has left: where that is a link to another one, an `OSError`."""
    return _mapped(path, os.O_NOFOLLOW)


def _mapped(path: Path, flags: int) -> memoryview:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        if not os.fstat(descriptor).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
