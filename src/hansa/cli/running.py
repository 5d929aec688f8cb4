"""Long-running commands: tidy log lines, an orderly end on Ctrl-C and SIGTERM, and no life after their starter's."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeAlias

import typer

from hansa.cli.root import INTERRUPTED

if TYPE_CHECKING:
    from hansa.network.controller.traces import Place

__all__ = ["WhileStdin", "interrupt_on_sigterm", "log_to", "log_traces", "run_until_stopped"]

Find: TypeAlias = "Callable[[str, int | None], Place | None]"
"""(session, round, or None) → where its span is found."""

_GRACE = 10.0
"""Seconds that an orderly end may take once the starter is gone."""

WhileStdin = Annotated[
    bool,
    typer.Option(
        "--while-stdin",
        help="Stop when standard input ends: whoever starts this process with a pipe takes it along when it ends.",
    ),
]


def run_until_stopped(work: Coroutine[Any, Any, None], *, while_stdin: bool = False) -> None:
    """Run it to its end. Ctrl-C and SIGTERM cancel it, wait until it has tidied up, and end with exit code 130."""
    if asyncio.run(_guarded(work, while_stdin=while_stdin)):
        raise typer.Exit(INTERRUPTED)


async def _guarded(work: Coroutine[Any, Any, None], *, while_stdin: bool) -> bool:
    """Whether it was stopped from outside."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:  # asked again, it goes on tidying up
            stopped = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    if while_stdin:
        threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True, name="stdin").start()
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
    return stopped


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: Any) -> None:
    """The starter holds the other end: when it is gone, so is this process, at the latest after the grace."""
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop)
    time.sleep(_GRACE)
    os._exit(INTERRUPTED)


def log_to(stream: TextIO, *, level: str, as_json: bool = False) -> None:
    """Have hansa's log lines written to a stream: a time, what happened, and its keys; or a JSON object each."""
    import structlog

    from hansa.settings import quiet_grpc

    quiet_grpc()
    renderer = _as_json if as_json else _Line(terminal=stream.isatty())
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_names: _Writer(stream),
        cache_logger_on_first_use=False,
    )


def log_traces(find: Find) -> None:
    """Give log lines of a session, or a round, the ids of its span; what an earlier call has named is asked no more."""
    import structlog

    others = [each for each in structlog.get_config()["processors"] if not isinstance(each, _Traced)]
    structlog.configure(processors=[_Traced(find), *others])


class _Traced:
    """Adds `trace_id` and `span_id` in OpenTelemetry's words for logs: 32 and 16 hexadecimal digits."""

    def __init__(self, find: Find) -> None:
        self._find = find

    def __call__(self, _logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        session, number = entry.get("session"), entry.get("round")
        if isinstance(session, str):
            place = self._find(session, number if isinstance(number, int) else None)
            if place is not None:
                entry.update(trace_id=f"{place.trace:032x}", span_id=f"{place.span:016x}")
        return entry


class _Writer:
    """Writes a line, and goes on without it where nobody can read it: a closed terminal must not end a node."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):  # a pipe without a reader, a full disk, a closed stream
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


def _as_json(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> str:
    return json.dumps({"at": time.time(), **entry}, default=str)


class _Line:
    """For example `12:30:01  connected  client=client-0 to=root`; in a file the date and the zone come before it."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal

    def __call__(self, _logger: Any, _method: str, entry: MutableMapping[str, Any]) -> str:
        from hansa.network.terminal import in_a_line

        level = str(entry.pop("level", "info"))
        happened = in_a_line(str(entry.pop("event", "")))
        trace = in_a_line(str(entry.pop("exception", "")))
        keys = " ".join(f"{key}={in_a_line(str(value))}" for key, value in entry.items())
        clock = time.strftime("%H:%M:%S" if self._terminal else "%Y-%m-%dT%H:%M:%S%z")
        if self._terminal:
            colour = {"warning": "yellow", "error": "red", "critical": "red"}.get(level)
            clock, keys = typer.style(clock, dim=True), typer.style(keys, dim=True)
            happened = typer.style(happened, fg=colour) if colour else happened
        elif level != "info":
            happened = f"{level}: {happened}"
        return f"{clock}  {happened}  {keys}".rstrip() + (f"\n    {trace}" if trace else "")


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM is what Ctrl-C is: commands tidy up, and end with exit code 130."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
