"""How much memory the process of a server holds on to."""

import ctypes
import sys
from contextlib import suppress
from typing import Final

__all__ = ["share_heap"]

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
