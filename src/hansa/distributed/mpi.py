"""Workers over MPI: worker i runs in rank i mod (number of ranks), started as `mpirun -n 4 python app.py`.

A frame is the sender and the receiver (int32 each) and the bytes of the message; to the receiver −1 a worker tells that
it has ended, with its result. MPI keeps the order between two ranks, so that an end is the last thing that one hears.
"""

import sys
import time
import traceback
from typing import Any, Final

import numpy as np

from hansa.distributed.crew import Crew, Ended
from hansa.errors import HansaError, MissingExtraError
from hansa.protocols.topology import AnyTopology
from hansa.protocols.worker import Program

try:
    from mpi4py import MPI
except ImportError as error:
    raise MissingExtraError("running workers over MPI", "mpi") from error

__all__ = ["run_over_mpi"]

_ENVELOPE: Final = np.dtype([("sender", "<i4"), ("receiver", "<i4"), ("messages", "<i8"), ("sent", "<i8")])
_ALL: Final = -1
_SHORTEST_PAUSE: Final = 1e-6
_LONGEST_PAUSE: Final = 1e-3
"""Seconds between two looks for a message: a rank that waits leaves its core to others."""


def run_over_mpi(program: Program, topology: AnyTopology, seed: int) -> tuple[dict[int, Ended], int]:
    """How each worker ended, the same in every rank; and this process's rank.

    A failure in one rank ends all of them: its error goes to standard error, and `mpirun` fails.
    """
    communicator = MPI.COMM_WORLD.Dup()
    try:
        ended = _Ranks(communicator, program, topology, seed).run()
    except BaseException as error:  # whatever went wrong here, an exit too, the other ranks would wait for ever
        told = f"{type(error).__name__}: {error}\n" if isinstance(error, HansaError) else ""
        sys.stderr.write("".join(traceback.format_exception(error)) + f"rank {communicator.rank}: {told}")
        sys.stderr.flush()
        communicator.Abort(1)
        raise
    rank = communicator.rank
    communicator.Free()
    return ended, rank


class _Ranks:
    """This rank's part of a run."""

    def __init__(self, communicator: "MPI.Comm", program: Program, topology: AnyTopology, seed: int) -> None:
        self._communicator = communicator
        self._on_their_way: list[tuple[Any, Any]] = []
        """(request, its buffer, which must stay until it is done)."""
        self._size = topology.size
        numbers = range(communicator.rank, topology.size, communicator.size)
        self._crew = Crew(numbers, program, topology, seed, self._post)

    def run(self) -> dict[int, Ended]:
        """All workers of this rank, and what is heard of the others."""
        crew = self._crew
        while True:
            for number in crew.advance():
                self._tell(number, crew.ended[number])
            if len(crew.ended) == self._size:
                break
            crew.check_waiting()
            self._receive()
        crew.check_read()
        MPI.Request.Waitall([request for request, _ in self._on_their_way])
        return crew.ended

    def _tell(self, number: int, ended: Ended) -> None:
        """Every other rank is told that a worker of this one has ended."""
        for rank in range(self._communicator.size):
            if rank != self._communicator.rank:
                self._send(rank, (number, _ALL, ended.messages, ended.sent), ended.result)

    def _post(self, sender: int, receiver: int, frame: bytes) -> None:
        self._send(receiver % self._communicator.size, (sender, receiver, 0, 0), frame)

    def _send(self, rank: int, envelope: tuple[int, int, int, int], frame: bytes) -> None:
        buffer = np.frombuffer(np.array(envelope, _ENVELOPE).tobytes() + frame, np.uint8)
        request = self._communicator.Isend([buffer, MPI.BYTE], dest=rank)
        self._on_their_way = [(r, b) for r, b in self._on_their_way if not r.Test()]
        self._on_their_way.append((request, buffer))

    def _receive(self) -> None:
        """Wait for one frame, and hand it on."""
        status = MPI.Status()
        pause = 0.0
        while (message := self._communicator.Improbe(status=status)) is None:  # Mprobe would use all of a core to wait
            time.sleep(pause)
            pause = min(2 * pause + _SHORTEST_PAUSE, _LONGEST_PAUSE)
        buffer = np.empty(status.Get_count(MPI.BYTE), np.uint8)
        message.Recv([buffer, MPI.BYTE])
        envelope = buffer[: _ENVELOPE.itemsize].view(_ENVELOPE)[0]
        frame = buffer[_ENVELOPE.itemsize :].tobytes()
        if envelope["receiver"] == _ALL:
            self._crew.end(int(envelope["sender"]), Ended(frame, int(envelope["messages"]), int(envelope["sent"])))
        else:
            self._crew.deliver(int(envelope["sender"]), int(envelope["receiver"]), frame)
