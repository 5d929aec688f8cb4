"""The agent's side of a worker process: start it, give it a task, watch its lease, end it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # psutil ships no types

from hansa.errors import UserCodeError
from hansa.messages import ClientInfo
from hansa.network.client.pipe import read_frame, write_frame
from hansa.settings import environment_for_user_code
from hansa.wire import framing
from hansa.wire.frames import Evaluated, FromNode, Heartbeat, Offer, OpenRound, Progress, TaskFailed

__all__ = ["Workshop"]

_FAREWELL = 1.0
"""Seconds for a process that is done to end, and for what it printed last."""

_LOOKS_PER_LEASE = 4
_LONGEST_LOOK = 1.0
"""Seconds of silence after which the agent looks whether the process uses its CPU."""

_SHARE_OF_A_CORE = 0.01
"""CPU time over wall time that counts as work between two looks: a process that sleeps or deadlocks uses less."""

_LONGEST_LINE = 1 << 14
"""Bytes of a printed line after which it is passed on in parts."""


class Workshop:
    """One app's worker process, started when it is first needed and again after it has died."""

    def __init__(self, app: Path, client: ClientInfo, objects: Path, on_line: Callable[[str], None]) -> None:
        """objects: what user code keeps between rounds lies in a folder beside it; on_line: told each printed line."""
        self._app = app
        self._client = client
        self._objects = objects
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._echo: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._loaded = False
        """Whether the process has said that it has loaded the app."""
        self._failed_hard = False
        """Whether the process must be ended after a failure: it hangs, is gone, or works on what nobody wants."""

    async def start(self) -> None:
        """Have a process ready: it loads the app meanwhile."""
        async with self._lock:
            await self._started()

    async def work(self, opened: OpenRound, on_frame: Callable[[FromNode], None]) -> Offer | Evaluated:
        """Do one task, one at a time; on_frame gets what happens on the way (started, progress).

        Raises `UserCodeError` when the code raised, ended its process, or showed no progress for the lease.
        A cancelled task ends the process.
        """
        async with self._lock:
            await self._started()
            try:
                return await self._answer(opened, on_frame)
            finally:
                if self._failed_hard:
                    await self._stop()

    async def aclose(self) -> None:
        """End the process."""
        await self._stop()

    async def _started(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        await self._stop()
        spawned = False
        try:
            await self._spawn()
            spawned = True
        finally:
            if not spawned:  # cancelled half way: what has been started does not stay
                await self._stop()

    async def _spawn(self) -> None:
        self._loaded = False
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()  # not the subprocess's own pipe: its end would have to be waited for
        with theirs, os.fdopen(writing, "wb") as output:
            self._echo = asyncio.create_task(self._read_lines(reading))
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
            folders = ("--objects", str(self._objects), "--memory", str(self._objects.with_name("memory")))
            arguments = ("--fd", str(theirs.fileno()), "--app", str(self._app), *folders)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-u", "-m", "hansa.network.client.worker", *arguments,
                "--client", json.dumps(asdict(self._client)),
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, env=environment_for_user_code(),
            )  # fmt: skip

    async def _answer(self, opened: OpenRound, on_frame: Callable[[FromNode], None]) -> Offer | Evaluated:
        self._failed_hard = True
        reader, writer = self._reader, self._writer
        if reader is None or writer is None:
            raise UserCodeError("the worker process did not start")
        write_frame(writer, framing.encode_to_node(opened))
        activity = opened.key.kind.value if self._loaded else "load"
        shown = Progress(opened.key, self._client.name, activity, 0, 0)
        while True:
            raw = await self._heard(reader, opened.spec.rules.lease, lambda: on_frame(shown))  # noqa: B023 - the newest
            if raw is None:
                raise UserCodeError(f"the app ended its process ({await self._ending()})")
            frame = framing.decode_from_node(raw)
            match frame:
                case TaskFailed():
                    self._failed_hard = False
                    raise UserCodeError(frame.message, frame.traceback)
                case Offer() | Evaluated():
                    self._failed_hard = False
                    return frame
                case Heartbeat():
                    self._loaded = True
                    shown = replace(shown, activity=opened.key.kind.value)
                case Progress():
                    shown = frame
                    on_frame(frame)
                case _:
                    on_frame(frame)

    async def _heard(self, reader: asyncio.StreamReader, lease: float, on_work: Callable[[], None]) -> bytes | None:
        """The next frame; raises `UserCodeError` for a whole lease with neither a word nor work.

        Work is CPU time, seen from here: whatever the app's code does to its own interpreter (a long call that never
        lets another thread run, a command that trains for it), it cannot keep the agent from seeing it.
        on_work: called when there was some.
        """
        loop = asyncio.get_running_loop()
        reading = asyncio.ensure_future(read_frame(reader))
        look = min(_LONGEST_LOOK, lease / _LOOKS_PER_LEASE)
        used: float | None = None  # the first look only has something to compare with: most tasks are over by then
        at, silent = loop.time(), 0.0
        try:
            while not (await asyncio.wait({reading}, timeout=look))[0]:
                before, since, used, at = used, at, await self._cpu_seconds(), loop.time()
                if before is None:
                    continue
                if used - before >= _SHARE_OF_A_CORE * (at - since):
                    silent = 0.0
                    on_work()
                else:
                    silent += min(at - since, 2 * look)  # a longer time is one in which this process stood still itself
                if silent >= lease and not reading.done():
                    raise UserCodeError(
                        f"no progress for {lease:g} seconds (nothing reported, no CPU used): it hangs and was ended"
                    )
            return reading.result()
        finally:
            reading.cancel()

    async def _cpu_seconds(self) -> float:
        """CPU seconds used so far by the process and by the commands that it has started."""
        return await asyncio.to_thread(_cpu_seconds, self._process.pid) if self._process is not None else 0.0

    async def _ending(self) -> str:
        """How the process ended, in words."""
        if self._process is None:
            return "it is gone"
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._process.wait()
        code = self._process.returncode
        if code is None:
            return "it closed its connection and went on"
        return f"exit status {code}" if code >= 0 else f"killed by {_signal_name(-code)}"

    async def _read_lines(self, pipe: int) -> None:
        """Pass on what is written to the other end of this pipe, until all who can write there are gone."""
        output = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(output)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(pipe, "rb"))
        pending = b""
        try:
            while raw := await output.read(1 << 16):
                *lines, pending = (pending + raw).split(b"\n")
                if len(pending) > _LONGEST_LINE:
                    lines, pending = [*lines, pending], b""
                for line in lines:
                    self._on_line(line.decode(errors="replace"))
        finally:
            transport.close()
        if pending:
            self._on_line(pending.decode(errors="replace"))

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, 9)  # its own group: commands that it started go with it
            await process.wait()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        echo, self._echo = self._echo, None
        if echo is not None:  # what it printed last; a daemon that it left behind may hold the pipe for ever
            await asyncio.wait([echo], timeout=_FAREWELL)
            echo.cancel()


def _cpu_seconds(pid: int) -> float:
    """Of a process and its descendants, those included that have ended."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended meanwhile, or is another user's
                total += sum(each.cpu_times()[:4])  # its own, user and system, and those of its ended children
    return total


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
