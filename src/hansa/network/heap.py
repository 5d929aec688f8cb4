"""How much memory the processes of a network hold on to."""

import ctypes
import sys
from contextlib import suppress
from typing import Final

__all__ = ["give_back", "share_heap"]

_M_ARENA_MAX: Final = -8
"""Of glibc's <malloc.h>."""


def share_heap() -> None:
    """Have all threads of this process allocate from one heap; before they are started. Of glibc alone.

    By default there are eight for each core, and each keeps what was freed in it for its own threads: pieces of models
    pass through many of them.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give the system what this process has freed; of glibc alone.

    A worker keeps the memory of each step for the next one (`hansa.settings.environment_for_workers`), and would keep
    it between two tasks, when other processes need it.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
