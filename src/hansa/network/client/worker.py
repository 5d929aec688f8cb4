"""The process that runs user code: `python -m hansa.network.client.worker`. It reads tasks and answers with frames.

It is a process of its own so that code that raises, exits, crashes or hangs takes nothing else with it. It ends when
its agent does.
"""

import argparse
import json
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hansa.app import App, load_app, users_traceback
from hansa.arrays import Arrays
from hansa.errors import AppError, HansaError, StorageUnavailableError, WireError
from hansa.messages import ClientInfo, Contribution, Kind, Log, RunSpec, Sample, Task
from hansa.network.client.limits import NO_LIMITS, Limits
from hansa.network.client.memory import Memory
from hansa.network.client.outbox import leave
from hansa.network.client.party import Party
from hansa.network.client.pipe import FramePipe
from hansa.network.heap import give_back
from hansa.run import Run, resolve
from hansa.store.disk import explained
from hansa.wire import codec, framing, packing
from hansa.wire.frames import (
    CENTRAL,
    Blob,
    Evaluated,
    FromNode,
    Heartbeat,
    Letter,
    LogLine,
    Offer,
    OpenRound,
    Predicted,
    Progress,
    RoundKey,
    Samples,
    TaskFailed,
)
from hansa.wire.limits import MAX_DOCUMENT

__all__ = ["Worker", "main"]

T = TypeVar("T")

_LOOK = 500
"""Milliseconds between two looks whether the agent is still there."""

_REPORTS_PER_SECOND = 5

_MOST_AT_ONCE = 500
"""Logged numbers in one frame."""

_PAUSE = 0.5
"""Seconds after which a disk that has refused a write is asked again."""


@dataclass(slots=True)
class _Current:
    """The task in hand."""

    key: RoundKey
    client: str
    reported_at: float = 0.0


class _Logged:
    """What a task has logged, told a few times a second, and the rest before its result."""

    def __init__(self, key: RoundKey, client: str, send: Callable[[FromNode], None]) -> None:
        self._key = key
        self._client = client
        self._send = send
        self._held: list[Sample] = []
        self._told_at = time.monotonic()

    def take(self, sample: Sample) -> None:
        self._held.append(sample)
        if len(self._held) >= _MOST_AT_ONCE or time.monotonic() - self._told_at >= 1 / _REPORTS_PER_SECOND:
            self.tell()

    def tell(self, *, dropped: int = 0) -> None:
        if self._held:
            self._send(Samples(self._client, tuple(self._held), self._key))
        self._held, self._told_at = [], time.monotonic()
        if dropped:
            line = f"task.log was given {Log.MOST + dropped:,} numbers, and keeps {Log.MOST:,} of one task"
            self._send(LogLine(self._key, self._client, line, "warning"))


class Worker:
    """One app, one client, one task at a time."""

    def __init__(
        self, pipe: FramePipe, app_path: Path, info: ClientInfo, objects: Path, memory: Memory, *, out: Path
    ) -> None:
        """objects: the folder in which models lie by digest; out: that in which updates and letters are left."""
        self._pipe = pipe
        self._app_path = app_path
        self._info = info
        self._objects = objects
        self._memory = memory
        self._out = out
        self._app: App | None = None
        self._current: _Current | None = None
        self._run: Run | None = None

    def serve(self) -> None:
        """Answer tasks until the agent is gone; a heartbeat says that the app has been loaded."""
        self._warm_up()
        self._send(Heartbeat())
        while (raw := self._pipe.read()) is not None:
            frame = framing.decode_to_node(raw)
            if isinstance(frame, OpenRound):
                self._work(frame)
                give_back()

    def _warm_up(self) -> None:
        """Load the app before the first task; whatever is wrong with it is said when a task needs it."""
        try:
            self._loaded()
        except BaseException:  # noqa: BLE001 - the app's code may raise anything: the task reports it
            self._app = None

    def _loaded(self) -> App:
        if self._app is None:
            self._app = load_app(self._app_path)
        return self._app

    def _work(self, opened: OpenRound) -> None:
        client = opened.invited[0]
        self._current = _Current(opened.key, client)
        try:
            answer = self._answer(opened, client)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too: reported
            answer = _failure(opened.key, client, error)
        self._current = None
        try:
            self._send(answer)
        except WireError as error:  # for example more metrics than a frame may hold
            self._send(TaskFailed(opened.key, client, f"the result cannot be sent: {error}"))

    def _answer(self, opened: OpenRound, client: str) -> FromNode:
        app = self._loaded()
        if opened.key.kind is Kind.PROGRAM:
            return self._party(opened).run(app)
        run = self._resolved(opened.spec)
        model = self._model(opened.model)
        number = opened.key.round
        if client == CENTRAL:
            metrics = run.central_metrics(app, model, number)
            return Evaluated(opened.key, client, metrics.num_examples, metrics.values)
        counted = next((each for each in opened.counted if each.client == client), None)
        memory = self._memory.recall(opened.key, counted)
        task = run.task(app, self._info, number, opened.key.kind, memory=memory)
        task.progress = self._progress
        logged = _Logged(opened.key, client, self._send)
        task.log = Log(logged.take, time.time)
        try:
            if opened.key.kind is Kind.TRAIN:
                return self._trained(opened, run, app, model, task)
            if opened.key.kind is Kind.PREDICT:
                return _predicted(opened.key, app, model, task)
            return _evaluated(opened.key, run, app, model, task)
        finally:
            logged.tell(dropped=task.log.dropped)

    def _party(self, opened: OpenRound) -> Party:
        return Party(
            opened,
            self._info,
            self._objects,
            self._out,
            send=self._send,
            receive=self._letter,
            write=lambda write: self._patiently(opened.key, write),
            diary=lambda: self._memory.diary(opened.key.run),
        )

    def _letter(self) -> Letter:
        """What the agent says next; it says nothing else while a party awaits a letter."""
        raw = self._pipe.read()
        frame = framing.decode_to_node(raw) if raw is not None else None
        if not isinstance(frame, Letter):
            raise SystemExit("the agent is gone")
        return frame

    def _resolved(self, spec: RunSpec) -> Run:
        """The run of the task in hand; most tasks are of the same one."""
        if self._run is None or self._run.spec != spec:
            self._run = resolve(spec)
        return self._run

    def _trained(self, opened: OpenRound, run: Run, app: App, model: Arrays, task: Task) -> Offer:
        update = run.train(app, model, task, private=True)
        name = self._info.name
        contribution = Contribution(name, update.num_examples, update.metrics)
        parts = packing.pack(update)
        left = self._patiently(opened.key, lambda: leave(parts, self._out, opened.key))
        memory = update.memory
        if memory is not None:
            self._patiently(opened.key, lambda: self._memory.keep(opened.key, left.digest, memory))
        return Offer(opened.key, name, left, (contribution,))

    def _model(self, blob: Blob) -> Arrays:
        if blob.inline or not blob.size:
            return codec.decode(blob.inline)
        return codec.load(self._objects / blob.digest)

    def _patiently(self, key: RoundKey, write: Callable[[], T]) -> T:
        """Write as soon as the disk does its part: nothing that was learned is lost to one that is full for a while."""
        said = ""
        while True:
            try:
                with explained("keep an update in", self._out):
                    return write()
            except StorageUnavailableError as error:
                if str(error) != said:
                    self._send(LogLine(key, self._info.name, str(error), "warning"))
                said = str(error)
                self._send(Progress(key, self._info.name, "disk", 0, 0))
                time.sleep(_PAUSE)

    def _progress(self, done: float, total: float) -> None:
        current, now = self._current, time.monotonic()
        if current is not None and now - current.reported_at >= 1 / _REPORTS_PER_SECOND:
            current.reported_at = now
            self._send(Progress(current.key, current.client, current.key.kind.value, float(done), float(total)))

    def _send(self, frame: FromNode) -> None:
        self._pipe.write(framing.encode_from_node(frame))


def _end_with_the_agent(connection: socket.socket) -> None:
    """End this process, and the commands that the app has started, as soon as the agent that started it is gone."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)  # nothing to read is waited for: a hang-up is always told
    while not (happened := poll.poll(_LOOK)):  # not for ever: it would hold open what user code may close
        pass
    if happened[0][1] & select.POLLNVAL:  # closed here: the agent sees that, and ends this process
        return
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(0)


def _evaluated(key: RoundKey, run: Run, app: App, model: Arrays, task: Task) -> Evaluated:
    metrics = run.evaluate(app, model, task)
    return Evaluated(key, task.client.name, metrics.num_examples, metrics.values)


def _predicted(key: RoundKey, app: App, model: Arrays, task: Task) -> Predicted:
    document = app.predictions(model, task)
    if len(document) > MAX_DOCUMENT:
        raise AppError(
            f"predict() returned {len(document):,} bytes of JSON, and may return {MAX_DOCUMENT:,}: return less"
        )
    return Predicted(key, task.client.name, document)


def _failure(key: RoundKey, client: str, error: BaseException) -> TaskFailed:
    """What the session is told: the error in one line, and the traceback from the user's code on."""
    if isinstance(error, SystemExit):
        return TaskFailed(key, client, f"the app called sys.exit({error.code!r}) instead of returning a result")
    said = str(error) if isinstance(error, HansaError) else "".join(traceback.format_exception_only(error)).strip()
    return TaskFailed(key, client, said, users_traceback(error))


def client_info(text: str) -> ClientInfo:
    """A `ClientInfo` from JSON: {"name", "index", "total", "settings"}."""
    fields: Mapping[str, object] = json.loads(text)
    return ClientInfo(**fields)  # type: ignore[arg-type]  # written by the agent on the other end


def main() -> None:
    """Serve the agent that started this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--app", type=Path, required=True)
    parser.add_argument("--client", type=client_info, required=True)
    parser.add_argument("--objects", type=Path, required=True)
    parser.add_argument("--memory", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limits", type=Limits.decode, default=NO_LIMITS)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's: it ends this process in order
    given.limits.apply()
    connection = socket.socket(fileno=given.fd)
    threading.Thread(target=_end_with_the_agent, args=(connection,), daemon=True, name="end-with-the-agent").start()
    memory = Memory(given.memory)
    Worker(FramePipe(connection), given.app, given.client, given.objects, memory, out=given.out).serve()


if __name__ == "__main__":
    main()
