"""An app's functions beside the server: each call in a process of its own, within walls, and within time and memory.

What comes back is checked again: the process runs a stranger's code, and may have written anything.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import structlog

from hansa.arrays import Arrays
from hansa.errors import RunFailedError, WireError
from hansa.messages import Candidate, Update, Value
from hansa.network.client.limits import Limits
from hansa.network.controller.central import CentralEvaluation
from hansa.network.controller.function import CALL, ERROR, MODEL, RESULT, RESULT_ARRAYS
from hansa.store.disk import explained
from hansa.store.documents import spec_to_json
from hansa.store.records import SessionRecord
from hansa.wire import codec

__all__ = ["DEFAULT_LIMITS", "AppFunctions"]

_log = structlog.get_logger(__name__)

DEFAULT_LIMITS: Final = Limits(wall=60.0, memory=8 << 30)
"""Of one call, where nobody says it."""

_LARGEST: Final = 4 << 20
"""Bytes of an answer that is no model."""
_SHOWN: Final = 4096
"""Bytes of what a call has printed that are told."""


_PRINTED: Final = "printed"


@dataclass(frozen=True, slots=True)
class _Call:
    function: str
    number: int
    """The round."""
    told: Mapping[str, Any] = field(default_factory=dict)
    model: Arrays | None = None
    updates: Iterable[tuple[str, Update]] = ()


class AppFunctions:
    """Calls select, configure and aggregate of sessions' packages. Every failure is a `RunFailedError`."""

    def __init__(self, central: CentralEvaluation, limits: Limits = DEFAULT_LIMITS) -> None:
        """central: has the packages, and says how they are confined; limits: of one call."""
        self._central = central
        self._limits = limits

    async def select(self, session: SessionRecord, number: int, clients: Sequence[Candidate]) -> tuple[str, ...]:
        """Whom the app invites, by name."""
        told = [[client.name, dict(client.labels)] for client in clients]
        names = await self._call(session, _Call("select", number, {"clients": told}))
        known = {client.name for client in clients}
        chosen = names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
        if not chosen or not known.issuperset(chosen):
            raise _failed(_Call("select", number), "it chose others than the clients that it was given")
        return tuple(sorted(set(chosen)))

    async def configure(self, session: SessionRecord, number: int, model: Arrays) -> Mapping[str, Value]:
        """What the app tells clients, over the run's own settings."""
        settings = await self._call(session, _Call("configure", number, model=model))
        if not isinstance(settings, dict):
            raise _failed(_Call("configure", number), "it gave no settings")
        return {**session.spec.config, **settings}

    async def aggregate(
        self, session: SessionRecord, number: int, model: Arrays, updates: Iterator[tuple[str, Update]]
    ) -> Arrays:
        """The change that the app makes of its clients' changes."""
        made = await self._call(session, _Call("aggregate", number, model=model, updates=updates))
        if not isinstance(made, Arrays):
            raise _failed(_Call("aggregate", number), "it gave no change")
        return made

    async def _call(self, session: SessionRecord, call: _Call) -> Any:
        if session.package is None:
            raise _failed(call, "the session has no package that could hold it")
        code = await self._central.code(session.package)
        folder = await asyncio.to_thread(self._central.folder, f"function-{session.id}")
        try:
            with explained("lay out a call in", folder):
                app = await asyncio.to_thread(code.placed, folder)
                await asyncio.to_thread(_lay_out, folder, session, call)
            printed = await self._run(app, folder, call)
            return await asyncio.to_thread(_result, folder, call, printed)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _run(self, app: Path, folder: Path, call: _Call) -> str:
        """The end of what it printed, once it has ended; raises where it takes too long."""
        rules = self._central.confinement
        size = 0 if call.model is None else call.model.nbytes
        limits = replace(self._limits, file_size=max(_LARGEST, 4 * size + _LARGEST))  # of what it prints too
        arguments = [
            *(sys.executable, "-m", "hansa.network.controller.function"),
            *("--app", str(app), "--folder", str(folder), "--limits", limits.encode()),
        ]
        with (folder / _PRINTED).open("w+b") as output:
            process = await asyncio.create_subprocess_exec(
                *rules.command(arguments, writable=(folder,), readable=()),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env=rules.environment(folder),
            )  # fmt: skip
            try:
                async with asyncio.timeout(limits.wall):
                    await process.wait()
            except TimeoutError as error:
                raise _failed(call, f"it took longer than {limits.wall:g} seconds, and was ended") from error
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            output.seek(max(0, output.seek(0, os.SEEK_END) - _SHOWN))
            printed = output.read().decode(errors="replace").strip()
        for line in printed.splitlines():
            _log.info("the app printed", function=call.function, round=call.number, line=line)
        return printed


def _lay_out(folder: Path, session: SessionRecord, call: _Call) -> None:
    if call.model is not None:
        codec.save(call.model, folder / MODEL)
    listed = []
    for place, (client, update) in enumerate(call.updates):
        name = f"update-{place}.safetensors"
        codec.save(update.arrays, folder / name)
        listed.append([client, update.num_examples, dict(update.metrics), name])
    told = {"function": call.function, "round": call.number, "spec": spec_to_json(session.spec), "updates": listed}
    (folder / CALL).write_text(json.dumps({**told, **call.told}), encoding="utf-8")


def _result(folder: Path, call: _Call, printed: str) -> Any:
    """What a call has left. Raises `RunFailedError`, with the traceback of the app's code."""
    try:
        if (folder / ERROR).exists():
            told = json.loads(_read(folder / ERROR))
            raise _failed(call, str(told["message"])[:_SHOWN], str(told["traceback"])[-_SHOWN:])
        if (folder / RESULT_ARRAYS).is_file() and not (folder / RESULT_ARRAYS).is_symlink():
            return codec.decode((folder / RESULT_ARRAYS).read_bytes())
        return json.loads(_read(folder / RESULT))
    except FileNotFoundError as error:
        raise _failed(call, "its process ended without a result", printed) from error
    except (OSError, ValueError, TypeError, KeyError, WireError) as error:
        raise _failed(call, f"what it left cannot be read: {error}") from error


def _read(file: Path) -> str:
    """A small file that is no link: what lies elsewhere is none of a call's business."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as opened:
        content = opened.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    return content.decode()


def _failed(call: _Call, why: str, said: str = "") -> RunFailedError:
    return RunFailedError(f"the app's {call.function} failed in round {call.number}: {why}" + f"\n{said}" * bool(said))
