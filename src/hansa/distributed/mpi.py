"""Workers over MPI: worker i runs in rank i mod (number of ranks), started as `mpirun -n 4 python app.py`.

A frame is the sender and the receiver (int32 each) and the bytes of the message; to the receiver −1 a worker tells that
it has ended, with its result. MPI keeps the order between two ranks, so that an end is the last thing that one hears.
The first is, to −2, what a rank runs: one that was given another seed or topology would be mixed in without a word.
"""

from typing import Final

import numpy as np
from blake3 import blake3

from hansa.errors import ConfigError
from hansa.programs.crew import Crew, Ended
from hansa.protocols.topology import AnyTopology
from hansa.protocols.worker import Program
from hansa.ranks import Ranks

__all__ = ["run_over_mpi"]

_ENVELOPE: Final = np.dtype([("sender", "<i4"), ("receiver", "<i4"), ("messages", "<i8"), ("sent", "<i8")])
_ALL: Final = -1
_RUNS: Final = -2


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
        self._seed = seed
        self._runs = _described(program, topology)
        self._agreed = {ranks.rank}
        self._crew = Crew(range(ranks.rank, topology.size, ranks.size), program, topology, seed, self._post)

    def run(self) -> dict[int, Ended]:
        """All workers of this rank, and what is heard of the others."""
        crew = self._crew
        for rank in range(self._ranks.size):
            if rank != self._ranks.rank:
                self._send(rank, (self._ranks.rank, _RUNS, self._seed, 0), self._runs)
        while len(self._agreed) < self._ranks.size:
            self._receive()
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
        if envelope["receiver"] == _RUNS:
            self._agree(int(envelope["sender"]), int(envelope["messages"]), frame)
        elif envelope["receiver"] == _ALL:
            self._crew.end(int(envelope["sender"]), Ended(frame, int(envelope["messages"]), int(envelope["sent"])))
        else:
            self._crew.deliver(int(envelope["sender"]), int(envelope["receiver"]), frame)

    def _agree(self, rank: int, seed: int, runs: bytes) -> None:
        """Raise `ConfigError` where another rank runs something else."""
        if (seed, runs) != (self._seed, self._runs):
            what = f"the seed {seed}, this one {self._seed}" if seed != self._seed else "another program or topology"
            raise ConfigError(f"rank {rank} was given {what}: every rank calls run with the same arguments")
        self._agreed.add(rank)


def _described(program: Program, topology: AnyTopology) -> bytes:
    """A digest of what all ranks must have alike, as far as that can be told."""
    edges = [phase.receivers for phase in topology.phases]
    return blake3(f"{getattr(program, '__qualname__', '')} {edges}".encode()).digest()
