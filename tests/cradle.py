"""Processes that begin where another one has already imported hansa: a second of a core less for each.

A cradle imports what commands import, once, and forks for each process that a test starts. What runs in it is a process
of its own, the test's child, with its own environment, folder and standard streams; only `ps` shows another command
line. Where that matters, or another interpreter is wanted, a test starts one with `subprocess` itself.
"""

import asyncio
import asyncio.unix_events
import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

from hansa.simulation import child

_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux's prctl."""
_ROOMS = ("api", "cli", "evidence", "network", "packages", "simulation", "wire")
_NOT_COMMON = ("__main__", ".digits", "simulation.mpi", "simulation.ray")
"""Commands import these alone, or, of engines with a library of their own, where they are asked for."""
_STORES = ("hansa.store.opening", "hansa.store.sqlite", "hansa.store.files")
"""Only these: drivers of other stores may have threads, which a fork does not copy."""
_WORKER = "hansa.network.client.worker"
_REQUEST, _STREAMS = 1 << 20, 8
"""Bytes, and open files, of a request."""
_ABOVE = 256
"""A number above those of any file that a process is given."""


class Popen(subprocess.Popen[Any]):
    """As `subprocess.Popen` of [sys.executable, "-m", MODULE, …], "-u" before it or not, ["-P", FILE, …], ["-c", …]."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        """What `subprocess` calls with its pipes made, as in Python 3.11 to 3.13."""
        if not sys.platform.startswith("linux"):
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        kept, cwd, environment, pipes, starts_session = given[3], given[4], given[5], given[9:15], given[20]
        streams = (pipes[0], pipes[3], pipes[5])
        numbers = {number: stream for number, stream in enumerate(streams) if stream != -1} | {n: n for n in kept}
        request = {
            "arguments": list(map(str, args[1:])),
            "folder": os.fspath(cwd if cwd is not None else Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),  # noqa: TID251 - to hand it on
            "session": bool(starts_session),
            "numbers": list(numbers),
        }
        alone = request["environment"].get("OMP_NUM_THREADS") == "1"
        self.pid = _cradle(alone=alone).begin(request, list(numbers.values()))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


@contextmanager
def workers() -> Iterator[None]:
    """Meanwhile, workers of clients in this process are forked too, but for those that are confined."""
    transport = asyncio.unix_events._UnixSubprocessTransport
    start = transport._start

    def _start(  # noqa: PLR0917 - as asyncio's
        self: Any, args: Any, shell: Any, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **given: Any
    ) -> None:
        if args[:4] == (sys.executable, "-u", "-m", _WORKER):
            self._proc = Popen(args, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize, **given)
        else:
            start(self, args, shell, stdin, stdout, stderr, bufsize, **given)

    transport._start = _start
    _cradle(alone=False).wait()  # not in the first test that starts a worker, whose event loop would stand still
    try:
        yield
    finally:
        transport._start = start


@contextmanager
def simulations() -> Iterator[None]:
    """Meanwhile, worker processes of simulations in this process are forked too."""

    def popen(args: Any, *, stdout: int | None, **given: Any) -> Popen:
        return Popen(args, stdout=1 if stdout is None else stdout, stderr=2, **given)

    child.subprocess = SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment]
    try:
        yield
    finally:
        child.subprocess = subprocess  # type: ignore[assignment]


def processes() -> set[int]:
    """Those that tests of this process fork from."""
    return {each.pid for each in _Cradle.all}


class _Cradle:
    """The test's side of one."""

    all: ClassVar[list["_Cradle"]] = []

    def __init__(self, environment: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._has_imported = False
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=dict(os.environ) | environment,  # noqa: TID251 - to hand it on
            )
        self.pid = self._process.pid
        self.all.append(self)
        atexit.register(self.close)

    def close(self) -> None:
        """Nothing begins in it any more; what did goes on."""
        self._ours.close()
        self._process.wait()

    def wait(self) -> None:
        """Until it has imported what commands do."""
        with self._lock:
            if not self._has_imported:
                self._has_imported = bool(self._ours.recv(64))

    def begin(self, request: dict[str, Any], streams: list[int]) -> int:
        """The process id of a child of this process."""
        message = json.dumps(request).encode()
        self.wait()
        with self._lock:
            _adopt(True)
            try:
                socket.send_fds(self._ours, [message], streams)
                answer = self._ours.recv(64)
            finally:
                _adopt(False)
        if not answer:
            raise ChildProcessError("the cradle of the tests has ended; its own error is above")
        return int(answer)


@cache
def _cradle(*, alone: bool) -> _Cradle:
    """One of this process; it ends with it, when its socket closes. alone: its libraries compute with one thread."""
    return _Cradle(child.ONE_THREAD if alone else {})


def _adopt(yes: bool) -> None:  # noqa: FBT001 - as prctl has it
    """Whether grandchildren whose parent ends become children of this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


# ── the cradle itself ────────────────────────────────────────────────────────────────────────────────────────────────


def _modules() -> Iterator[str]:
    for room in _ROOMS:
        package = importlib.import_module(f"hansa.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(_NOT_COMMON):
                yield module.name
    yield from _STORES


def _wait(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for every request; returns, in each child, what it was asked for."""
    while True:
        message, streams, _, _ = socket.recv_fds(requests, _REQUEST, _STREAMS)
        if not message:
            raise SystemExit(0)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            if os.fork():
                os._exit(0)  # and whoever adopts has a child more
            request = json.loads(message)
            if request["session"]:
                os.setsid()  # before anybody knows of it: whoever does may kill the group that it leads
            os.write(write, str(os.getpid()).encode())
            os.close(read)
            os.close(write)
            return request, streams
        os.close(write)
        os.waitpid(between, 0)
        requests.send(os.read(read, 64))
        for number in (read, *streams):
            os.close(number)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Its streams, folder and environment instead of the cradle's; then run what was asked for."""
    above = [fcntl.fcntl(stream, fcntl.F_DUPFD, _ABOVE) for stream in streams]
    os.closerange(3, _ABOVE)
    for number, stream in zip(request["numbers"], above, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()  # noqa: TID251 - to become it
    os.environ.update(request["environment"])  # noqa: TID251
    sys.stdin = _text(0, "rb")
    unbuffered = request["arguments"][0] == "-u"
    sys.stdout = _text(1, "wb", line_buffering=os.isatty(1), unbuffered=unbuffered)
    sys.stderr = _text(2, "wb", line_buffering=True, unbuffered=unbuffered, errors="backslashreplace")
    status = 0
    try:
        _run(request["arguments"])
    except SystemExit as end:
        status = _status(end.code)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - as the interpreter ends with whatever it is
        traceback.print_exc()
        status = 1
    _end(status)


def _status(code: object) -> int:
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _end(status: int) -> NoReturn:
    """As the interpreter ends, without taking apart all that was imported, which is a third of a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # the same steps
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _text(number: int, mode: str, *, unbuffered: bool = False, **how: Any) -> io.TextIOWrapper:
    """As the interpreter opens a standard stream."""
    buffering = 0 if unbuffered else -1
    return io.TextIOWrapper(
        open(number, mode, buffering=buffering, closefd=False), encoding="utf-8", write_through=unbuffered, **how
    )


def _run(arguments: list[str]) -> None:
    match arguments:
        case ["-u", "-m", module, *rest] | ["-m", module, *rest]:
            sys.argv = [module, *rest]
            sys.path.insert(0, str(Path.cwd()))
            if not hasattr(sys.modules.get(module), "__path__"):
                sys.modules.pop(module, None)  # it runs as __main__, as if nobody had imported it
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", program, *rest]:
            sys.argv = ["-c", *rest]
            exec(program, {"__name__": "__main__"})  # noqa: S102 - as the interpreter does
        case ["-P", file, *rest]:
            sys.argv = [file, *rest]
            runpy.run_path(file, run_name="__main__")
        case _:
            raise SystemExit(f"a cradle runs -m MODULE, -P FILE or -c PROGRAM, not {arguments}")


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of tests, which the processes that are started do not see
    for _name in _modules():
        importlib.import_module(_name)
    gc.collect()
    gc.freeze()
    _requests = socket.socket(fileno=int(sys.argv[1]))
    _requests.send(b"ready")
    _become(*_wait(_requests))
