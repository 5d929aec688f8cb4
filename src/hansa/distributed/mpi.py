"""Workers over MPI: worker i runs in rank i mod (number of ranks), started as `mpirun -n 4 python app.py`.

A frame is the sender and the receiver (int32 each) and the bytes of the message; to the receiver −1 a worker tells that
it has ended, with its result. MPI keeps the order between two ranks, so that an end is the last thing that one hears.
"""

from typing import Final

import numpy as np

from hansa.programs.crew import Crew, Ended
from hansa.protocols.topology import AnyTopology
from hansa.protocols.worker import Program
from hansa.ranks import Ranks

__all__ = ["run_over_mpi"]

_ENVELOPE: Final = np.dtype([("sender", "<i4"), ("receiver", "<i4"), ("messages", "<i8"), ("sent", "<i8")])
_ALL: Final = -1


def run_over_mpi(program: Program, topology: AnyTopology, seed: int) -> tuple[dict[int, Ended], int]:
    """How each worker ended, the same in every rank; and this process's rank.

    A failure in one rank ends all of them: its error goes to standard error, and `mpirun` fails.
    """
    ranks = Ranks()
    try:
        ended = _Run(ranks, program, topology, seed).run()
    except BaseException as error:  # whatever went wrong here, an exit too, the other ranks would wait for ever
        ranks.abort(error)
        raise
    ranks.close()
    return ended, ranks.rank


class _Run:
    """This rank's part of a run."""

    def __init__(self, ranks: Ranks, program: Program, topology: AnyTopology, seed: int) -> None:
        self._ranks = ranks
        self._size = topology.size
        self._crew = Crew(range(ranks.rank, topology.size, ranks.size), program, topology, seed, self._post)

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
        self._ranks.flush()
        return crew.ended

    def _tell(self, number: int, ended: Ended) -> None:
        """Every other rank is told that a worker of this one has ended."""
        for rank in range(self._ranks.size):
            if rank != self._ranks.rank:
                self._send(rank, (number, _ALL, ended.messages, ended.sent), ended.result)

    def _post(self, sender: int, receiver: int, frame: bytes) -> None:
        self._send(receiver % self._ranks.size, (sender, receiver, 0, 0), frame)

    def _send(self, rank: int, envelope: tuple[int, int, int, int], frame: bytes) -> None:
        self._ranks.send(rank, np.array(envelope, _ENVELOPE).tobytes() + frame)

    def _receive(self) -> None:
        """Wait for one frame, and hand it on."""
        _, arrived = self._ranks.receive()
        envelope = np.frombuffer(arrived, _ENVELOPE, 1)[0]
        frame = arrived[_ENVELOPE.itemsize :]
        if envelope["receiver"] == _ALL:
            self._crew.end(int(envelope["sender"]), Ended(frame, int(envelope["messages"]), int(envelope["sent"])))
        else:
            self._crew.deliver(int(envelope["sender"]), int(envelope["receiver"]), frame)
