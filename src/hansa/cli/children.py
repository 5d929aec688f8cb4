"""Processes that this one starts and that never outlive it: each holds the reading end of a pipe that ends with us."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from hansa.errors import RunFailedError
from hansa.settings import environment_for_user_code

__all__ = ["Children"]

_PATIENCE = 8.0
"""Seconds that a process has for an orderly end before it is killed."""
_TAIL = 12
"""Lines of a log that an error quotes."""


@dataclass(slots=True)
class _Child:
    process: "subprocess.Popen[bytes]"
    log: Path


@dataclass(slots=True)
class Children:
    """`hansa` commands as processes of their own; all of them are gone when the `with` block is left."""

    logs: Path
    """Folder for what they say, a file each."""
    on_exit: Callable[[str, int], None]
    """Called, from a thread, with the name and the exit status of one that ended by itself."""
    _running: dict[str, _Child] = field(default_factory=dict)
    _stopping: bool = False

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Stop all, also when Ctrl-C is pressed again meanwhile."""
        with _deaf():
            self.stop()

    def start(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], *, answers: bool = False
    ) -> IO[bytes] | None:
        """Start `hansa ARGUMENTS --while-stdin`. answers: whether its standard output is returned, for reading."""
        log = self.logs / f"{name}.log"
        with log.open("ab" if name in self._running else "wb") as file:
            process = subprocess.Popen(  # noqa: S603 - this very program
                [sys.executable, "-P", "-m", "hansa.cli", *arguments, "--while-stdin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if answers else file,
                stderr=file,
                env={**environment_for_user_code(), **environment},
                start_new_session=True,  # Ctrl-C is ours; they end in order, the leaves first
            )
        self._running[name] = _Child(process, log)
        threading.Thread(target=self._await, args=(name, process), daemon=True, name=f"await {name}").start()
        return process.stdout

    def kill(self, name: str) -> None:
        """SIGKILL: it has no time for anything; `on_exit` is told."""
        self._running[name].process.kill()

    def failure(self, name: str, status: int) -> RunFailedError:
        """What to say of one that ended too early, with the end of its log."""
        log = self._running[name].log
        lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        said = "".join(f"\n  {line}" for line in lines)
        return RunFailedError(f"{name} ended too early ({how}); it said, in {log}:{said or ' nothing'}")

    def stop(self) -> None:
        """Stop the last that was started first, in three waves of equals at most; kill what does not end."""
        self._stopping = True
        for names in self._waves():
            for name in names:
                with suppress(ProcessLookupError):
                    self._running[name].process.terminate()
            for name in names:
                self._end(self._running[name].process)

    def _waves(self) -> list[list[str]]:
        """Names by role (the part before the number), the youngest role first."""
        waves: dict[str, list[str]] = {}
        for name in self._running:
            waves.setdefault(name.partition("-")[0], []).append(name)
        return list(reversed(waves.values()))

    def _await(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        status = process.wait()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        if not self._stopping:
            self.on_exit(name, status)

    @staticmethod
    def _end(process: "subprocess.Popen[bytes]") -> None:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


class _deaf:  # noqa: N801 - used as a statement
    """While it holds, Ctrl-C and SIGTERM wait: tidying up takes seconds, and must not be left half done."""

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
