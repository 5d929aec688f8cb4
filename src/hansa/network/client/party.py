"""A party of a program, in a worker process: it runs the program's worker, and pulls each letter when it is awaited.

So nothing waits in this process, and what is sent goes on before the next step: a pipe that is full holds the worker.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from hansa.app import App
from hansa.errors import AppError, UserCodeError, WireError
from hansa.messages import ClientInfo
from hansa.network.client.diary import Diary
from hansa.network.client.outbox import letter_file, update_file
from hansa.programs.crew import Crew
from hansa.programs.encoding import decode
from hansa.programs.ending import numbers
from hansa.protocols.worker import Receive
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import Awaited, Blob, Evaluated, FromNode, Letter, OpenRound, TaskFailed

__all__ = ["Party"]


class Party:
    """One run of one party."""

    def __init__(
        self,
        opened: OpenRound,
        info: ClientInfo,
        objects: Path,
        out: Path,
        *,
        send: Callable[[FromNode], None],
        receive: Callable[[], Letter],
        write: Callable[[Callable[[], None]], None],
        diary: Callable[[], Diary],
    ) -> None:
        """objects, out: where letters lie that have come, and that are left; send, receive: to and from the agent.

        write: calls what writes a file, until the disk has taken it; diary: opens that of this party, once it has a
        secret.
        """
        self._opened = opened
        self._info = info
        self._objects = objects
        self._out = out
        self._send = send
        self._receive = receive
        self._write = write
        self._open_diary = diary
        self._diary: Diary | None = None
        self._number = opened.spec.parties.index(opened.invited[0])
        self._sent: defaultdict[int, int] = defaultdict(int)
        self._read: defaultdict[int, int] = defaultdict(int)

    def run(self, app: App) -> Evaluated:
        """The numbers of its result, which is left as a file (`update_file`), encoded."""
        spec, number = self._opened.spec, self._number
        program, topology = app.program_of(len(spec.parties), spec.config)
        if topology.size != len(spec.parties):
            raise AppError(
                f"the session has {len(spec.parties)} parties, and the app's program is for {topology.name} with "
                f"{topology.size} workers; make them as many"
            )
        settings, secret = self._info.settings, self._secret
        crew = Crew(
            (number,),
            program,
            topology,
            spec.seed,
            self._post,
            settings=settings,
            secret=secret,
            has_sent=self._has_sent,
            tell=self._tell,
        )
        try:
            while not crew.advance():
                waits = crew.waits(number)
                if waits is None:
                    raise AssertionError("a worker neither waits nor has ended")
                crew.deliver(waits.sender, number, self._bring(waits))
        finally:
            crew.close()
        result = crew.ended[number].result
        if result:
            file = update_file(self._out, self._opened.key)
            self._write(lambda: _written(file, result))
        return Evaluated(self._opened.key, self._opened.invited[0], 1, numbers(decode(result)) if result else {})

    def _post(self, sender: int, receiver: int, frame: bytes) -> None:
        blob = Blob(blake3(frame).hexdigest(), len(frame), frame if len(frame) <= INLINE_LIMIT else b"")
        diary = self._diary
        if diary is not None:
            self._write(lambda: diary.note(receiver, blob.digest))
        letter = Letter(self._opened.key, sender, receiver, self._sent[receiver], blob)
        if not blob.inline:
            self._write(lambda: _written(letter_file(self._out, letter), frame))
        self._sent[receiver] += 1
        self._send(letter)

    def _has_sent(self, receiver: int, frame: bytes) -> bool:
        return self._diary is not None and self._diary.foresees(receiver, blake3(frame).hexdigest())

    def _tell(self, failed: UserCodeError) -> None:
        name = self._opened.invited[0]
        self._send(TaskFailed(self._opened.key, name, str(failed), failed.traceback, goes_on=True))

    def _secret(self) -> bytes:
        """That of an earlier run of this party, if there was any."""
        if self._diary is None:
            self._write(self._open)
        if self._diary is None:
            raise AssertionError("the disk has taken it, and it is not open")
        return self._diary.secret

    def _open(self) -> None:
        self._diary = self._open_diary()

    def _bring(self, waits: Receive) -> bytes:
        """The next letter of a sender, once it is there."""
        key, sender = self._opened.key, waits.sender
        self._send(Awaited(key, sender, self._number, self._read[sender], dispensable=waits.dispensable))
        letter = self._receive()
        if (letter.sender, letter.receiver, letter.number) != (sender, self._number, self._read[sender]):
            raise WireError(f"letter {letter.number} of party {letter.sender} has come, and it is not the one awaited")
        self._read[sender] += 1
        if letter.blob.inline:
            return letter.blob.inline
        return letter_file(self._objects, letter).read_bytes()


def _written(file: Path, data: bytes) -> None:
    file.write_bytes(data)
