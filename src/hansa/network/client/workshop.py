"""The agent's side of a worker process: start it, give it a task, watch its lease, end it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # psutil ships no types

from hansa.errors import UserCodeError
from hansa.messages import ClientInfo, Kind
from hansa.network.client.code import Code
from hansa.network.client.confinement import NO_CONFINEMENT, Confinement
from hansa.network.client.correspondence import Correspondence
from hansa.network.client.outbox import letter_file, update_file
from hansa.network.client.pipe import read_frame, write_frame
from hansa.network.client.printed import Printed
from hansa.network.patience import patiently
from hansa.settings import environment_for_workers
from hansa.store.disk import bytes_in, explained
from hansa.wire import framing
from hansa.wire.frames import (
    Answer,
    Awaited,
    Evaluated,
    FromNode,
    Heartbeat,
    Letter,
    LogLine,
    Offer,
    OpenRound,
    Predicted,
    Progress,
    Samples,
    TaskFailed,
)

__all__ = ["SCRATCH", "Workshop"]

SCRATCH = "scratch-"
"""How the name of a worker process's own folder begins, beside the folder of objects."""

_OUT = "out"
"""The folder in it for updates and letters."""

_CODES_KEPT = 32
"""Packages of which it stays what they keep between rounds."""

_FAREWELL = 1.0
"""Seconds for a process that is done to end."""

_LOOKS_PER_LEASE = 4
_LONGEST_LOOK = 1.0
"""Seconds of silence after which the agent looks whether the process uses its CPU."""

_SHARE_OF_A_CORE = 0.01
"""CPU time over wall time that counts as work between two looks: a process that sleeps or deadlocks uses less."""

_LIMITS_LOOK = 0.25
"""Seconds between two looks whether a task is within its limits."""

_SIGNALLED = 128
"""A shell, or bubblewrap, ends with 128 + n where what it ran was killed by signal n."""


class Workshop:
    """One app's worker process, started when it is first needed and again after it has died."""

    def __init__(
        self,
        code: Code,
        client: ClientInfo,
        objects: Path,
        on_line: Callable[[str], None],
        confinement: Confinement = NO_CONFINEMENT,
    ) -> None:
        """objects: where models lie, and what the code leaves is put; on_line: told each printed line.

        A package's code writes to two folders beside it, which no other code sees: one that goes with its process, and
        one for what it keeps between rounds.

        confinement: of code that a session brought; an owner's own app is trusted.
        """
        self._code = code
        self._confinement = confinement
        self._client = client
        self._objects = objects
        self._process: asyncio.subprocess.Process | None = None
        self._spawning: asyncio.Task[None] | None = None
        """Starts the process; nobody breaks it off: of a process that has half begun nobody would know."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._printed = Printed(on_line)
        self._lock = asyncio.Lock()
        self._loaded = False
        """Whether the process has said that it has loaded the app."""
        self._scratch: Path | None = None
        """The folder of a package's process: its files, its home; it goes with the process."""
        self._beyond = ""
        """Which limit the task went beyond, for which its process was killed."""
        self._failed_hard = False
        """Whether the process must be ended after a failure: it hangs, is gone, or works on what nobody wants."""

    async def start(self) -> None:
        """Have a process ready: it loads the app meanwhile."""
        async with self._lock:
            await self._started()

    async def work(
        self,
        opened: OpenRound,
        on_frame: Callable[[FromNode], None],
        correspondence: Correspondence | None = None,
    ) -> Answer:
        """Do one task, one at a time; on_frame gets what happens on the way (started, progress).

        correspondence: of the task of a party, which may send and await letters.

        Raises `UserCodeError` when the code raised, ended its process, or showed no progress for the lease.
        A cancelled task ends the process.
        """
        async with self._lock:
            await self._started()
            watching = asyncio.create_task(self._watch_limits())
            try:
                return await self._answer(opened, on_frame, correspondence)
            finally:
                watching.cancel()
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
            self._spawning = asyncio.create_task(self._spawn())
            self._spawning.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody asks
            await asyncio.shield(self._spawning)
            spawned = True
        finally:
            if not spawned:  # cancelled half way: what has been started does not stay
                await self._stop()

    async def _spawn(self) -> None:
        self._loaded = False
        ours, theirs = socket.socketpair()
        with theirs, self._printed.open() as output:
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
            command, environment = await asyncio.to_thread(self._command, theirs.fileno())
            self._process = await asyncio.create_subprocess_exec(
                *command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, env=environment,
            )  # fmt: skip

    def _command(self, descriptor: int) -> tuple[Sequence[str], Mapping[str, str]]:
        """(arguments, environment) of the worker process; a package's files are laid out for it."""
        if not self._code.package:
            return self._arguments(descriptor, self._code.path), environment_for_workers()
        with explained("lay out the package in", self._objects):
            _make_room(self._memory)
            self._scratch = scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=self._objects.parent))
            for folder in ("home", _OUT):
                (scratch / folder).mkdir()
        rules = self._confinement
        command = rules.command(
            [*self._arguments(descriptor, self._code.placed(scratch)), "--limits", rules.limits.encode()],
            writable=(scratch, self._memory),
            readable=(self._objects, *filter(None, (self._code.environment,))),
        )
        return command, rules.environment(scratch / "home")

    def _arguments(self, descriptor: int, app: Path) -> list[str]:
        return [
            *(str(self._code.python), "-u", "-m", "hansa.network.client.worker", "--fd", str(descriptor)),
            *("--objects", str(self._objects), "--memory", str(self._memory), "--out", str(self._out)),
            *("--client", json.dumps(asdict(self._client)), "--app", str(app)),
        ]

    async def _watch_limits(self) -> None:
        """Kill the process once its task has used more than it may."""
        limits, loop = self._confinement.limits, asyncio.get_running_loop()
        if not self._code.package or not limits.watched:
            return
        begun, before = loop.time(), await self._cpu_seconds()
        kept = await asyncio.to_thread(bytes_in, self._memory) if limits.disk is not None else 0
        while not self._beyond:
            await asyncio.sleep(_LIMITS_LOOK)
            used, took = await self._cpu_seconds() - before, loop.time() - begun
            holds = await asyncio.to_thread(self._held, kept) if limits.disk is not None else 0
            if limits.cpu is not None and used > limits.cpu:
                self._beyond = f"it used {used:.1f} CPU seconds, and a task may use {limits.cpu:g} here: it was ended"
            elif limits.wall is not None and took > limits.wall:
                self._beyond = f"it took {took:.1f} seconds, and a task may take {limits.wall:g} here: it was ended"
            elif limits.disk is not None and holds > limits.disk:
                self._beyond = f"it wrote {holds:,} bytes, and a task may hold {limits.disk:,} here: it was ended"
        self._kill()

    @property
    def _out(self) -> Path:
        """Where the process leaves what is large."""
        return self._scratch / _OUT if self._scratch is not None else self._objects

    @property
    def _memory(self) -> Path:
        """What the code keeps between rounds."""
        return self._objects.with_name("memory") / (self._code.package or "own")

    def _held(self, kept: int) -> int:
        """Bytes in the folders of the process. kept: those in the one that stays, before the task."""
        scratch = self._scratch
        return (bytes_in(scratch) if scratch is not None else 0) + max(0, bytes_in(self._memory) - kept)

    async def _take(self, frame: Answer | Letter) -> None:
        """Put the file of which the process speaks where no package's code can write.

        Raises `UserCodeError` where there is none, or no ordinary one.
        """
        match frame:
            case Letter() if not frame.blob.inline:
                file, needed = letter_file(self._objects, frame), True
            case Offer() if not frame.blob.inline:
                file, needed = update_file(self._objects, frame.key), True
            case Evaluated(key) if key.kind is Kind.PROGRAM:  # a party's result, if it has one
                file, needed = update_file(self._objects, key), False
            case _:
                return
        if self._out == self._objects:
            return
        left = self._out / file.name
        taken = await patiently(lambda: asyncio.to_thread(_moved, left, file), who=f"client {self._client.name}")
        if needed and not taken:
            raise UserCodeError("the app's process has not left the file that it speaks of: it was ended")

    async def _answer(
        self, opened: OpenRound, on_frame: Callable[[FromNode], None], correspondence: Correspondence | None
    ) -> Answer:
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
                raise UserCodeError(self._beyond or f"the app ended its process ({await self._ending()})")
            frame = framing.decode_from_node(raw)
            if not self._is_about(opened, frame, correspondence):
                raise UserCodeError(
                    "the app's process spoke of what is not its task, in hansa's own words: it was ended"
                )
            match frame:
                case TaskFailed() if not frame.goes_on or correspondence is None:
                    self._failed_hard = False
                    raise UserCodeError(frame.message, frame.traceback)
                case Offer() | Evaluated() | Predicted():
                    await self._take(frame)
                    self._failed_hard = False
                    return frame
                case Heartbeat():
                    self._loaded = True
                    shown = replace(shown, activity=opened.key.kind.value)
                case Progress():
                    shown = frame
                    on_frame(frame)
                case Letter() | Awaited() if correspondence is not None:
                    await self._relay(frame, correspondence)
                case _:
                    on_frame(frame)

    async def _relay(self, frame: Letter | Awaited, correspondence: Correspondence) -> None:
        """Take a letter, or give the process the one that it awaits, however long that takes; unless it ends."""
        if isinstance(frame, Letter):
            await self._take(frame)
            await correspondence.take(frame)
            return
        bringing = asyncio.ensure_future(correspondence.bring(frame))
        process = self._process
        ended = asyncio.ensure_future(process.wait()) if process is not None else bringing
        try:
            await asyncio.wait({bringing, ended}, return_when=asyncio.FIRST_COMPLETED)
            if bringing.done() and self._writer is not None:
                write_frame(self._writer, framing.encode_to_node(bringing.result()))
        finally:
            bringing.cancel()
            ended.cancel()

    def _is_about(self, opened: OpenRound, frame: FromNode, correspondence: Correspondence | None) -> bool:
        """Whether a frame may come from the worker of this task: its code can write to the connection, too."""
        match frame:
            case Heartbeat():
                return True
            case Offer():
                own = len(frame.contributions) == 1 and frame.contributions[0].client == frame.sender
                return own and not frame.partial and (frame.key, frame.sender) == (opened.key, opened.invited[0])
            case Letter() | Awaited():
                return correspondence is not None and correspondence.may(frame)
            case Predicted():
                own = (frame.key, frame.client) == (opened.key, opened.invited[0])
                return own and opened.key.kind is Kind.PREDICT
            case TaskFailed() | Evaluated() | Progress() | LogLine() | Samples():
                return (frame.key, frame.client) == (opened.key, opened.invited[0])
            case _:
                return False

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
        if self._confinement.tool and code > _SIGNALLED:  # how whoever started it for us says it
            code = _SIGNALLED - code
        return f"exit status {code}" if code >= 0 else f"killed by {_signal_name(-code)}"

    async def _stop(self) -> None:
        if self._spawning is not None and not self._spawning.done():
            await asyncio.wait([self._spawning])
        self._kill()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        try:
            if self._process is not None:
                await self._process.wait()
                self._process = None
        finally:  # also where this is cancelled
            self._printed.close()
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        self._beyond = ""

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its own group: commands that it started go with it


def _moved(left: Path, file: Path) -> bool:
    """Whether an ordinary file was there, and lies elsewhere now; it is looked at where no code can change it."""
    with explained("keep an update in", file.parent):
        try:
            left.replace(file)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return False
    mode = file.lstat().st_mode
    if stat.S_ISDIR(mode):
        shutil.rmtree(file, ignore_errors=True)
    elif not stat.S_ISREG(mode):
        file.unlink()
    return stat.S_ISREG(mode)


def _make_room(memory: Path) -> None:
    """Have this folder, newest of those beside it, of which those that were idle for longest go."""
    memory.mkdir(parents=True, exist_ok=True)
    os.utime(memory)
    for idle in sorted(memory.parent.iterdir(), key=lambda each: -each.lstat().st_mtime)[_CODES_KEPT:]:
        shutil.rmtree(idle, ignore_errors=True)


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
