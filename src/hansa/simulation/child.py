"""A worker process of a runtime: a program of its own, which lives as long as its pipe of jobs."""

import contextlib
import fcntl
import json
import subprocess
import sys
from multiprocessing import Pipe

from hansa.simulation.pipes import Channel

__all__ = ["ONE_THREAD", "start"]

_START = """
import json, sys
from importlib import import_module
sys.path[:] = json.loads(sys.argv[1])
import_module(sys.argv[2]).main(*map(int, sys.argv[3:]))
"""
"""A program of its own, not a fork or a copy of the caller's: a script needs no `if __name__ == "__main__"` for it."""

_PIPE = 1 << 20
"""Bytes that a pipe holds, where the system allows it: fewer would have models wait for their reader too often."""

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
"""Read by BLAS and torch when they are loaded: the workers share the cores, none takes them all, and which bits come
out does not depend on how many there are."""


def start(module: str, *, stdout: int | None = None) -> tuple[subprocess.Popen[bytes], Channel, Channel]:
    """Start `module.main(jobs, answers)`, the descriptors of its pipes; returns the process and our ends of these.

    It leads a group of processes of its own. stdout: a descriptor for what it prints; None: that of this process.
    """
    from hansa.settings import environment_for_workers  # noqa: PLC0415 - slow to import, and only needed here

    jobs_end, jobs = Pipe(duplex=False)
    answers, answers_end = Pipe(duplex=False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        for end in (jobs, answers):
            with contextlib.suppress(OSError):  # more than this user may have
                fcntl.fcntl(end.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    try:
        descriptors = (jobs_end.fileno(), answers_end.fileno())
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with a program of our own
            [sys.executable, "-c", _START, json.dumps(sys.path), module, *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            pass_fds=descriptors,
            env=environment_for_workers() | ONE_THREAD,
            start_new_session=True,
        )
    finally:
        jobs_end.close()
        answers_end.close()
    return process, jobs, answers
