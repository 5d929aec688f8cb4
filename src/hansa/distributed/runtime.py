"""A program on workers: in this process, or over MPI, to the same bits."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hansa.errors import ConfigError
from hansa.programs.crew import Crew, Ended
from hansa.programs.encoding import decode
from hansa.protocols.topology import AnyTopology, TimeVarying, Topology
from hansa.protocols.worker import Program

__all__ = ["Outcome", "Over", "run"]

Over = Literal["auto", "process", "mpi"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run; the same in every process that took part."""

    results: tuple[Any, ...]
    """What each worker's program returned, by worker."""
    messages: tuple[int, ...]
    """How many messages each worker sent."""
    sent: tuple[int, ...]
    """Bytes of these, without what MPI adds."""
    rank: int = 0
    """This process among those of `mpirun`; who prints once prints in rank 0."""


def run(program: Program, topology: AnyTopology, *, seed: int = 0, over: Over = "auto") -> Outcome:
    """Run a program on every worker of a topology, until all have ended.

    Args:
        program: an async function of a `Worker`; one of the protocols makes one, for example `dsgd(app, rounds=10)`.
        topology: who may send to whom.
        seed: of all random numbers that workers draw.
        over: "process": all workers take turns in this process; "mpi": they are shared out among the processes that
            `mpirun` started; "auto": over MPI where this process was started so. The results are the same, to the bit.

    Raises:
        UserCodeError: a worker's program raised; it names the worker.
        DeadlockError: no worker can go on, or one waits for another that has ended; it names them.
        RunFailedError: a worker sent what its receiver did not expect, or did not read; it names both.
        ConfigError: a setting cannot be used.
        MissingExtraError: `hansa[mpi]` is not installed, and was asked for.

    """
    _check(program, topology, seed)
    match over:
        case "process":
            mpi = False
        case "mpi":
            mpi = True
        case "auto":
            from hansa.settings import launched_by_mpi  # noqa: PLC0415 - pydantic takes longer than many a run

            mpi = launched_by_mpi()
        case _:
            raise ConfigError(f"over is {over!r}; there is: auto, process, mpi")
    if mpi:
        from hansa.distributed.mpi import run_over_mpi  # noqa: PLC0415 - loading it starts MPI

        return _outcome(*run_over_mpi(program, topology, seed))
    return _outcome(_in_process(program, topology, seed), 0)


def _check(program: object, topology: object, seed: object) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed!r}; it must be a whole number from 0 to 2^63 − 1")
    if not callable(program) or not isinstance(topology, Topology | TimeVarying):
        raise ConfigError(
            f"run takes a program, an async function of a worker, and then a topology, for example ring(4); not "
            f"{type(program).__name__} and {type(topology).__name__}"
        )


def _in_process(program: Program, topology: AnyTopology, seed: int) -> dict[int, Ended]:
    crew = Crew(range(topology.size), program, topology, seed, _nowhere)
    try:
        crew.advance()
        crew.check_deadlock()
        crew.check_read()
    finally:
        crew.close()
    return crew.ended


def _nowhere(sender: int, receiver: int, frame: bytes) -> None:
    raise AssertionError(f"worker {receiver} is not in this process, to whom {sender} sends {len(frame)} bytes")


def _outcome(ended: dict[int, Ended], rank: int) -> Outcome:
    ordered = [ended[number] for number in sorted(ended)]
    return Outcome(
        results=tuple(decode(each.result) if each.result else None for each in ordered),
        messages=tuple(each.messages for each in ordered),
        sent=tuple(each.sent for each in ordered),
        rank=rank,
    )
