"""Apps that come through the API as source: packaged, drawn from and simulated here, in confined processes."""

import asyncio
import json
import math
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from hansa.errors import AppError, ConflictError, HansaError, InputError, RunFailedError
from hansa.experiments.sessions import SimulatedSession, simulated_round
from hansa.messages import RunSpec
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.confined import ConfinedProcess, beside_server, running
from hansa.network.controller.controller import Controller
from hansa.network.controller.names import checked_name
from hansa.network.files import opened
from hansa.packages.package import build, read
from hansa.simulation import RoundRecord as SimulatedRound
from hansa.simulation.pipes import spec_to
from hansa.store.documents import spec_from_json
from hansa.store.records import ModelRecord, PackageRecord, SessionRecord, SessionState
from hansa.wire import codec

__all__ = ["MOST_CLIENTS", "Apps", "example"]

MOST_CLIENTS: Final = 1000
"""Virtual clients of a simulation on the server."""
_MOST_SOURCE: Final = 1 << 20
_PATIENCE: Final = 120.0
"""Seconds in which an app has to give its initial model."""
_MOST_AT_ONCE: Final = 2
_MOST_SAID: Final = 4 << 20
"""Bytes of what a process says that gives an initial model."""
_TAIL: Final = 2000
"""Characters of what a failed process said last that are told."""
_ROUND: Final = TypeAdapter(SimulatedRound)


def example() -> Path:
    """The handwritten digits: of the wheel, or of the checkout that this package is run from."""
    here = Path(str(files("hansa")))
    places = (here / "cli" / "digits.py", here.parents[1] / "examples" / "digits" / "app.py")
    for place in places:
        if place.is_file():
            return place
    raise AppError("the example app was not installed; bring one of your own")


@dataclass(slots=True)
class _Simulation:
    project: str
    task: "asyncio.Task[None] | None" = None
    """None: it is about to begin."""
    by: str = ""
    """Who stops it; empty: nobody."""


class Apps:
    """What the server does with the code of an app. Only packages that are stored are run, confined as on clients."""

    def __init__(self, controller: Controller) -> None:
        """controller: keeps packages, models and sessions, and says how code is confined."""
        self._controller = controller
        self._running: dict[str, _Simulation] = {}
        self._drawing = 0
        """Initial models that are being drawn."""

    async def package(self, project: str, source: bytes, name: str, by: str) -> PackageRecord:
        """A package of one file of Python; name: of the app. Raises `AppError`."""
        if len(source) > _MOST_SOURCE:
            raise InputError(f"an app of one file has at most {_MOST_SOURCE:,} bytes: build a package of the folder")

        def pack() -> bytes:
            with tempfile.TemporaryDirectory(prefix="hansa-app-") as folder:
                file = Path(folder) / "app.py"
                file.write_bytes(source)
                return build(file, name=name)

        return await self._controller.artifacts.add_package(project, await asyncio.to_thread(pack), by)

    async def example(self, project: str, by: str) -> PackageRecord:
        """A package of the example."""
        source = await asyncio.to_thread(example().read_bytes)
        return await self.package(project, source, "digits", by)

    async def draw(self, project: str, package: str, spec: RunSpec, by: str) -> tuple[ModelRecord, RunSpec]:
        """The initial model of a package's app, as a model of the project, and the spec as it suits the app."""
        checked_name(spec.name, "session")
        await self._controller.walls.need(project, by)
        if self._drawing >= _MOST_AT_ONCE:
            raise ConflictError(f"{_MOST_AT_ONCE} apps are giving their initial models on this server: try again soon")
        self._drawing += 1
        try:
            async with self._process(project, package, spec, _PATIENCE) as (process, out):
                said = await self._drawn(process)
                model = await asyncio.to_thread(_left, out)
                seed = await self._controller.artifacts.add_model(project, model, f"{spec.name}-seed", by)
                return seed, _suited(said, project)
        except RunFailedError as error:
            raise AppError(f"the app gave no initial model: {error}") from error
        finally:
            self._drawing -= 1

    async def _drawn(self, process: ConfinedProcess) -> bytes:
        """What it says, once it has ended well. Raises `RunFailedError`."""
        ending = asyncio.ensure_future(process.wait())
        try:
            said = await _read(process, _MOST_SAID)
            if await ending:
                raise RunFailedError(_last_words(process))
        finally:
            ending.cancel()
        return said

    # ── simulations ──────────────────────────────────────────────────────────────────────────────────────────────

    async def simulate(self, project: str, package: str, spec: RunSpec, clients: int, by: str) -> SessionRecord:
        """A session that is simulated here from now on, with virtual clients."""
        checked_name(spec.name, "session")
        await self._controller.walls.need(project, by)
        if len(self._running) >= _MOST_AT_ONCE:
            raise ConflictError(f"{_MOST_AT_ONCE} simulations are running on this server: wait, or stop one")
        controller, number = self._controller, uuid.uuid4().hex[:12]
        place = self._running[number] = _Simulation(project)  # from now on: of two at once one may be too many
        controller.quotas.simulating[project] += 1
        try:
            await controller.quotas.need_session(project, controller.tree(project).running - 1, by)
            await controller.store.get(PackageRecord, project, package)
            begun = await SimulatedSession.begin(
                controller.store, controller.objects, session=number, project=project, spec=spec, clients=clients,
                engine="simulation on the server", at=time.time(),
            )  # fmt: skip
            await controller.people.note(audit_line(project, by, "session.simulate", number, detail=spec.name))
            controller.journal.notify()
            work = self._simulate(begun, package, spec, clients, by)
            place.task = asyncio.create_task(work, name=f"simulation {number}")
        finally:
            if place.task is None:
                self._over(number)
        place.task.add_done_callback(lambda _: self._over(number))
        return begun.session

    def _over(self, number: str) -> None:
        self._controller.quotas.simulating[self._running.pop(number).project] -= 1

    def simulates(self, project: str, session: str) -> bool:
        """Whether this session is simulated here now."""
        found = self._running.get(session)
        return found is not None and found.project == project and found.task is not None

    async def stop(self, session: str, by: str) -> None:
        """End a simulation."""
        found = self._running.get(session)
        if found is not None and found.task is not None:
            found.by = by
            await self._controller.people.note(audit_line(found.project, by, "session.stop", session))
            found.task.cancel()
            await asyncio.wait([found.task])

    async def aclose(self) -> None:
        """End every simulation."""
        for session in list(self._running):
            await self.stop(session, SERVER)

    async def _simulate(self, begun: SimulatedSession, package: str, spec: RunSpec, clients: int, by: str) -> None:
        project = begun.session.project
        try:
            async with self._process(project, package, spec, None, str(clients)) as (process, out):
                await self._rounds(begun, process)
                model = codec.decode(await asyncio.to_thread(_left, out))
            size = codec.size(model)
            done = f"all {spec.rounds} rounds are committed"
            async with self._controller.quotas.storing(project, begun.session.model or "", size, by):
                await begun.end(SessionState.FINISHED, done, time.time(), model)
        except asyncio.CancelledError:
            found = self._running.get(begun.session.id)
            await begun.end(SessionState.STOPPED, f"stopped by {found.by if found else SERVER}", time.time())
        except (HansaError, OSError) as error:
            await begun.end(SessionState.FAILED, str(error), time.time())
        self._controller.journal.notify()

    async def _rounds(self, begun: SimulatedSession, process: ConfinedProcess) -> None:
        """Store what it tells, round by round, until it has ended well. Raises `RunFailedError`."""
        ending = asyncio.ensure_future(process.wait())
        try:
            while line := await _line(process):
                await begun.round(_told(line, begun.session), time.time())
                self._controller.journal.notify()
            if await ending:
                raise RunFailedError(_last_words(process))
        finally:
            ending.cancel()

    @asynccontextmanager
    async def _process(
        self, project: str, package: str, spec: RunSpec, wall: float | None, *more: str
    ) -> AsyncIterator[tuple[ConfinedProcess, Path]]:
        """(a confined process at work on the package's app, the file that it writes); it ends with the block."""
        await self._controller.store.get(PackageRecord, project, package)
        archive = b"".join([chunk async for chunk in self._controller.objects.read(package)])
        limits = beside_server(wall, self._controller.memory)
        with tempfile.TemporaryDirectory(prefix="hansa-app-") as scratch:
            place, folder = Path(scratch), Path(scratch) / "own"
            folder.mkdir()
            app = await asyncio.to_thread(read(archive).unpack, place / "app")
            (place / "run").mkdir()
            given, out = place / "run" / "spec.json", folder / "model.safetensors"
            given.write_text(json.dumps(spec_to(spec)), encoding="utf-8")  # as an argument it may be too long
            arguments = [
                *(sys.executable, "-P", "-m", "hansa.experiments.trial", str(app), str(given), str(out)),
                *(limits.encode(), *more),
            ]
            async with running(
                self._controller.walls.confinement, limits, arguments,
                folder=folder, readable=(place / "app", place / "run"), printed=place / "said", speaks=True,
            ) as process:  # fmt: skip
                yield process, out


async def _line(process: ConfinedProcess) -> bytes:
    """The next line that it says; empty at its end. Raises `RunFailedError` for one without an end."""
    assert process.process.stdout is not None  # noqa: S101 - it was asked for
    try:
        return await process.process.stdout.readline()
    except ValueError as error:
        raise RunFailedError("the app's process says lines without an end: it was ended") from error


async def _read(process: ConfinedProcess, most: int) -> bytes:
    """All that it says. Raises `RunFailedError` for more than so many bytes."""
    assert process.process.stdout is not None  # noqa: S101 - it was asked for
    said = bytearray()
    while piece := await process.process.stdout.read(1 << 16):
        said += piece
        if len(said) > most:
            raise RunFailedError(f"its process says more than {most:,} bytes, and was ended")
    return bytes(said)


def _told(line: bytes, session: SessionRecord) -> SimulatedRound:
    """A round that it tells: the app's code may have written the line. Raises `RunFailedError`."""
    if b"\\u0000" in line:  # which some databases refuse
        raise RunFailedError("the app's process told of a round with NUL in a name: it was ended")
    try:
        done = _ROUND.validate_python(asdict(simulated_round(json.loads(line))))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunFailedError("the app's process told of a round that is none: it was ended") from error
    if done.round != session.round + 1 or done.round > session.spec.rounds or not 0 <= done.seconds < math.inf:
        raise RunFailedError(f"the app's process told of round {done.round} after round {session.round}: it was ended")
    return done


def _suited(said: bytes, project: str) -> RunSpec:
    """The spec that it says. Raises `RunFailedError`."""
    try:
        return spec_from_json(json.loads(said) | {"project": project})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, HansaError) as error:
        raise RunFailedError("its process said what is no run") from error


def _left(out: Path) -> memoryview:
    """The file that it was to write. Raises `RunFailedError`."""
    try:
        return opened(out)
    except OSError as error:
        raise RunFailedError(f"it left no model that can be read ({error.strerror})") from error


def _last_words(process: ConfinedProcess) -> str:
    return process.words()[-_TAIL:].rpartition("\n")[2] or "it ended without a word"
