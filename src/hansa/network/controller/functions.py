"""An app's functions beside the server: each call in a process of its own, within walls, and within time and memory.

What comes back is checked again: the process runs a stranger's code, and may have written anything.
"""

import asyncio
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from hansa.app import remembered
from hansa.arrays import Arrays
from hansa.errors import AppError, RunFailedError, WireError
from hansa.messages import Candidate, Update, Value
from hansa.network.client.limits import Limits
from hansa.network.controller.central import CentralEvaluation
from hansa.network.controller.confined import beside_server, running
from hansa.network.controller.function import CALL, ERROR, MEMORY, MODEL, RESULT, RESULT_ARRAYS
from hansa.network.files import opened
from hansa.store.disk import explained
from hansa.store.documents import spec_to_json
from hansa.store.records import SessionRecord
from hansa.wire import codec

__all__ = ["DEFAULT_LIMITS", "DEFAULT_MEMORY", "AppFunctions"]

_log = structlog.get_logger(__name__)

DEFAULT_MEMORY: Final = 8 << 30
DEFAULT_LIMITS: Final = beside_server(60.0, DEFAULT_MEMORY)
"""Of one call, where nobody says it."""

_LARGEST: Final = 4 << 20
"""Bytes of an answer that is no model."""
_SHOWN: Final = 4096
"""Characters of what a call says of its failure that are told."""
_PRINTED: Final = "printed"


@dataclass(frozen=True, slots=True)
class _Call:
    function: str
    number: int
    """The round."""
    told: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Value] = field(default_factory=dict)
    model: Arrays | None = None
    updates: Iterable[tuple[str, Update]] = ()


class AppFunctions:
    """Calls select, configure and aggregate of sessions' packages. Every failure is a `RunFailedError`.

    memory: what the functions of a session have left for later calls; it is changed in place when a call has succeeded.
    """

    def __init__(self, central: CentralEvaluation, limits: Limits = DEFAULT_LIMITS) -> None:
        """central: has the packages, and says how they are confined; limits: of one call."""
        self._central = central
        self.limits = limits

    async def select(
        self, session: SessionRecord, number: int, clients: Sequence[Candidate], memory: dict[str, Value]
    ) -> tuple[str, ...]:
        """Whom the app invites, by name."""
        told = [[client.name, dict(client.labels)] for client in clients]
        names, kept = await self._call(session, _Call("select", number, {"clients": told}, memory))
        known = {client.name for client in clients}
        chosen = names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
        if not chosen or not known.issuperset(chosen):
            raise _failed(_Call("select", number), "it chose others than the clients that it was given")
        _replace(memory, kept)
        return tuple(sorted(set(chosen)))

    async def configure(
        self, session: SessionRecord, number: int, model: Arrays, memory: dict[str, Value]
    ) -> Mapping[str, Value]:
        """What the app tells clients, over the run's own settings."""
        settings, kept = await self._call(session, _Call("configure", number, memory=memory, model=model))
        if not isinstance(settings, dict):
            raise _failed(_Call("configure", number), "it gave no settings")
        _replace(memory, kept)
        return {**session.spec.config, **settings}

    async def aggregate(
        self,
        session: SessionRecord,
        number: int,
        model: Arrays,
        updates: Iterator[tuple[str, Update]],
        memory: dict[str, Value],
    ) -> Arrays:
        """The change that the app makes of its clients' changes."""
        made, kept = await self._call(session, _Call("aggregate", number, memory=memory, model=model, updates=updates))
        if not isinstance(made, Arrays):
            raise _failed(_Call("aggregate", number), "it gave no change")
        _replace(memory, kept)
        return made

    async def _call(self, session: SessionRecord, call: _Call) -> tuple[Any, dict[str, Value]]:
        """(what it returns, what functions remember from now on)."""
        if session.package is None:
            raise _failed(call, "the session has no package that could hold it")
        code = await self._central.code(session.package)
        place = await asyncio.to_thread(self._central.folder, f"function-{session.id}")
        folder = place / "call"
        try:
            with explained("lay out a call in", folder):
                folder.mkdir()
                app = await asyncio.to_thread(code.placed, place)
                await asyncio.to_thread(_lay_out, folder, session, call)
            printed = await self._run(app, folder, call)
            return await asyncio.to_thread(_result, folder, call, printed)
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    async def _run(self, app: Path, folder: Path, call: _Call) -> str:
        """The end of what it printed, once it has ended; raises where it uses more than it may."""
        arguments = [
            *(sys.executable, "-m", "hansa.network.controller.function"),
            *("--app", str(app), "--folder", str(folder), "--limits", self.limits.encode()),
        ]
        printed, readable = folder.with_name(_PRINTED), (folder.with_name("app"),)
        confinement = self._central.confinement
        async with running(
            confinement, self.limits, arguments, folder=folder, readable=readable, printed=printed
        ) as process:
            try:
                await process.wait()
            except RunFailedError as error:
                raise _failed(call, str(error)) from error
            words = process.words()
        for line in words.splitlines():
            _log.info("the app printed", function=call.function, round=call.number, line=line)
        return words


def _lay_out(folder: Path, session: SessionRecord, call: _Call) -> None:
    if call.model is not None:
        codec.save(call.model, folder / MODEL)
    listed = []
    for place, (client, update) in enumerate(call.updates):
        name = f"update-{place}.safetensors"
        codec.save(update.arrays, folder / name)
        listed.append([client, update.num_examples, dict(update.metrics), name])
    told = {"function": call.function, "round": call.number, "spec": spec_to_json(session.spec), "updates": listed}
    (folder / CALL).write_text(json.dumps({**told, **call.told, "memory": dict(call.memory)}), encoding="utf-8")


def _result(folder: Path, call: _Call, printed: str) -> tuple[Any, dict[str, Value]]:
    """(result, memory) of a call. Raises `RunFailedError`, with the traceback of the app's code."""
    try:
        if (folder / ERROR).exists():
            told = json.loads(_read(folder / ERROR))
            raise _failed(call, str(told["message"])[:_SHOWN], str(told["traceback"])[-_SHOWN:])
        arrays = folder / RESULT_ARRAYS
        made = codec.decode(opened(arrays)) if arrays.exists() else json.loads(_read(folder / RESULT))
        return made, remembered(json.loads(_read(folder / MEMORY)), call.function)
    except FileNotFoundError as error:
        raise _failed(call, "its process ended without a result", printed) from error
    except (AppError, OSError, ValueError, TypeError, KeyError, RecursionError, WireError) as error:
        raise _failed(call, f"what it left cannot be read: {error}") from error


def _replace(memory: dict[str, Value], kept: Mapping[str, Value]) -> None:
    memory.clear()
    memory.update(kept)


def _read(file: Path) -> str:
    """A small file that is no link: what lies elsewhere is none of a call's business."""
    content = opened(file)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    return bytes(content).decode()


def _failed(call: _Call, why: str, said: str = "") -> RunFailedError:
    return RunFailedError(f"the app's {call.function} failed in round {call.number}: {why}" + f"\n{said}" * bool(said))
