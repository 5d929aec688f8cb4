"""A FEDn client as a party of `hansa.protocols.aligned`: the forward and backward passes that it is asked for.

Its bottom is with it, and only it knows how far that is trained. So the program is not run from its beginning again
where this server was away: what was read and what was sent is written down, and it goes on from there.
"""

import asyncio
import json
import shutil
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3

from hansa.arrays import Array, is_floating
from hansa.compat.fedn.errand import Answer, Errand, Gradients
from hansa.compat.fedn.formats import read_one, write_one
from hansa.compat.fedn.split import AGGREGATOR, HELPER
from hansa.errors import ConflictError, InputError, UserCodeError, WireError
from hansa.network.client.correspondence import Correspondence
from hansa.network.client.outbox import letter_file
from hansa.programs.encoding import decode, encode
from hansa.protocols.aligned import Pass
from hansa.protocols.split import Slope
from hansa.protocols.vertical import Finished, Output
from hansa.store.disk import explained, make_directory, write_whole
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import Awaited, Blob, Evaluated, Letter, OpenRound
from hansa.wire.limits import MAX_LETTER

__all__ = ["PREFIX", "Passes"]

PREFIX: Final = "pass-"
"""How the id of a pass begins, which its client is told in the place of a model's."""
_LEAD: Final = 0
_SESSIONS_KEPT: Final = 4
"""Of one client, that did not end in order: they may be resumed."""


@dataclass(frozen=True, slots=True)
class _Place:
    """How far a session is."""

    read: int = 0
    """Letters of the lead that are done with."""
    sent: int = 0
    """Outputs; the last of them may not have arrived."""
    rounds: int = 0
    """Backward passes that are done."""
    fetched: bool = False
    """The client has the gradients of the letter that is next."""


class Passes:
    """One client in one session."""

    def __init__(
        self,
        opened: OpenRound,
        client_id: str,
        work: Path,
        ask: Callable[[Errand], Awaitable[Answer]],
        told: Callable[[int], Mapping[str, object]],
    ) -> None:
        """work: the folder of the client's agent; ask: has the client do an errand; told: what it is told of a round.

        Raises `UserCodeError` for a session in which it is to lead.
        """
        self._key = opened.key
        self._name = opened.invited[0]
        self._number = opened.spec.parties.index(self._name)
        if self._number == _LEAD:
            raise UserCodeError(f"{self._name} is a FEDn client, which has no labels: name it second or later")
        self._client_id = client_id
        self._objects = work / "objects"
        self._folder = work / "passes" / sha256(opened.key.run.encode()).hexdigest()[:32]
        self._ask = ask
        self._told = told
        self._place = _Place()

    async def run(self, correspondence: Correspondence) -> Evaluated:
        """Until the lead says that all is done; raises `UserCodeError` for what its client cannot take part in."""
        await asyncio.to_thread(self._open)
        correspondence.resume(_LEAD, read=self._place.read, sent=max(0, self._place.sent - 1))
        try:
            if self._place.sent:
                await self._send(correspondence)
            while await self._done(await self._next(correspondence), correspondence):
                pass
        except ConflictError as error:
            raise UserCodeError(
                f"what was said in this session is lost, and {self._name} cannot go back ({error}): start another"
            ) from error
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        return Evaluated(self._key, self._name, 1, {})

    # ── letters ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _next(self, correspondence: Correspondence) -> Pass | Slope | Finished:
        letter = await correspondence.bring(Awaited(self._key, _LEAD, self._number, self._place.read))
        frame = letter.blob.inline or await asyncio.to_thread(letter_file(self._objects, letter).read_bytes)
        try:
            message = decode(frame)
        except WireError as error:
            raise UserCodeError(self._unable(str(error))) from error
        if not isinstance(message, Pass | Slope | Finished):
            raise UserCodeError(self._unable(f"it was sent a {type(message).__name__}"))
        return message

    async def _done(self, message: Pass | Slope | Finished, correspondence: Correspondence) -> bool:
        """Do what a letter asks for; False: that was the last one."""
        place = self._place
        match message:
            case Pass(testing):
                frame = encode(Output(await self._forward(testing=testing)))
                if len(frame) > MAX_LETTER:
                    said = f"the output of {self._name} has {len(frame):,} bytes; {MAX_LETTER:,} may travel"
                    raise UserCodeError(said)
                await asyncio.to_thread(self._write, "output", frame)
                await self._keep(replace(place, read=place.read + 1, sent=place.sent + 1))
                await self._send(correspondence)
            case Slope(values):
                await self._backward(values)
                await self._keep(_Place(place.read + 1, place.sent, place.rounds + 1))
            case Finished():
                return False
        return True

    async def _send(self, correspondence: Correspondence) -> None:
        """The last output."""
        frame = await asyncio.to_thread((self._folder / "output").read_bytes)
        blob = Blob(blake3(frame).hexdigest(), len(frame), frame if len(frame) <= INLINE_LIMIT else b"")
        letter = Letter(self._key, self._number, _LEAD, self._place.sent - 1, blob)
        if not blob.inline:
            with explained("keep a letter in", self._objects):
                await asyncio.to_thread(letter_file(self._objects, letter).write_bytes, frame)
        await correspondence.take(letter)

    def _unable(self, why: str) -> str:
        return f"{self._name} is a FEDn client, which takes part in hansa.distributed.aligned_vertical alone: {why}"

    # ── the client ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _forward(self, *, testing: bool) -> Array:
        number = self._place.rounds if testing else self._place.rounds + 1
        answer = await self._ask(self._errand(number, task="forward", is_sl_inference=str(testing)))
        try:
            return await asyncio.to_thread(self._output_of, answer)
        except InputError as error:
            raise UserCodeError(f"the output of {self._name} cannot be used: {error}") from error
        finally:
            answer.drop()

    async def _backward(self, slope: Array) -> None:
        file = self._folder / "gradients"
        await asyncio.to_thread(self._write_gradients, file, slope)

        async def fetched() -> None:
            await self._keep(replace(self._place, fetched=True))

        gradients = Gradients(file, fetched, self._place.fetched)
        answer = await self._ask(self._errand(self._place.rounds + 1, gradients, task="backward"))
        if answer.metadata.get("error"):
            raise UserCodeError(f"the backward pass of {self._name} failed: {answer.metadata['error']}")

    def _errand(self, number: int, gradients: Gradients | None = None, **more: str) -> Errand:
        """One that is asked again after a restart has the same id, so that an answer to either is one to both."""
        model = PREFIX + sha256(f"{self._key.run}/{self._place.read}".encode()).hexdigest()
        told = {**self._told(number), "aggregator": AGGREGATOR, "helper_type": HELPER, "model_id": model, **more}
        return Errand(str(uuid.uuid4()), self._key, self._key.run, model, HELPER, json.dumps(told), gradients)

    def _output_of(self, answer: Answer) -> Array:
        if answer.file is None:
            raise InputError("it came without a file")
        with answer.file.open("rb") as file:
            output: Array = read_one(file, MAX_LETTER)
        if output.ndim != 2 or not is_floating(output) or not np.isfinite(output).all():  # noqa: PLR2004 - a matrix
            raise InputError(f"it has the shape {output.shape} of {output.dtype}: finite numbers, one row a record")
        return output

    # ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        with explained("keep what a FEDn client has sent in", self._folder):
            make_directory(self._folder)
            place = self._folder / "place"
            if place.exists():
                self._place = _Place(**json.loads(place.read_text()))
            others = sorted(self._folder.parent.iterdir(), key=lambda each: each.stat().st_mtime)
            for old in [each for each in others if each != self._folder][: -_SESSIONS_KEPT + 1]:
                shutil.rmtree(old, ignore_errors=True)

    async def _keep(self, place: _Place) -> None:
        self._place = place
        await asyncio.to_thread(self._write, "place", json.dumps(asdict(place)).encode())

    def _write(self, name: str, data: bytes) -> None:
        with explained("keep what a FEDn client has sent in", self._folder):
            write_whole(self._folder / name, data)

    def _write_gradients(self, file: Path, slope: Array) -> None:
        with explained("keep gradients in", self._folder), file.open("wb") as out:
            write_one(out, self._client_id, slope)
