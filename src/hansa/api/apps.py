"""Apps that come through the API as source: packaged, drawn from and simulated here, in confined processes."""

import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from hansa.errors import AppError, ConflictError, HansaError, InputError, RunFailedError
from hansa.experiments.sessions import SimulatedSession, simulated_round
from hansa.messages import RunSpec
from hansa.network.controller.controller import Controller
from hansa.packages.package import build, read
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
_TAIL: Final = 2000
"""Characters of what a failed process said last that are told."""


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
    task: "asyncio.Task[None]"
    project: str
    by: str = ""
    """Who stops it; empty: nobody."""


class Apps:
    """What the server does with the code of an app. Only packages that are stored are run, confined as on clients."""

    def __init__(self, controller: Controller) -> None:
        """controller: keeps packages, models and sessions, and says how code is confined."""
        self._controller = controller
        self._running: dict[str, _Simulation] = {}

    async def package(self, project: str, source: bytes, name: str, by: str) -> PackageRecord:
        """A package of one file of Python; name: of the app. Raises `AppError`."""
        if len(source) > _MOST_SOURCE:
            raise InputError(f"an app of one file has at most {_MOST_SOURCE:,} bytes: build a package of the folder")

        def pack() -> bytes:
            with tempfile.TemporaryDirectory(prefix="hansa-app-") as folder:
                file = Path(folder) / "app.py"
                file.write_bytes(source)
                return build(file, name=name)

        return await self._controller.add_package(project, await asyncio.to_thread(pack), by)

    async def example(self, project: str, by: str) -> PackageRecord:
        """A package of the example."""
        source = await asyncio.to_thread(example().read_bytes)
        return await self.package(project, source, "digits", by)

    async def draw(self, project: str, package: str, spec: RunSpec, by: str) -> tuple[ModelRecord, RunSpec]:
        """The initial model of a package's app, as a model of the project, and the spec as it suits the app."""
        async with self._process(project, package, spec) as (process, out):
            try:
                said, _ = await asyncio.wait_for(process.communicate(), _PATIENCE)
            except TimeoutError:
                raise AppError(f"the app gave no initial model within {_PATIENCE:.0f} seconds") from None
            if process.returncode:
                raise AppError(f"the app gave no initial model: {await _last_words(out)}")
            model = await asyncio.to_thread(out.read_bytes)
            suited = spec_from_json(json.loads(said) | {"project": project})
        return await self._controller.add_model(project, model, f"{spec.name}-seed", by), suited

    # ── simulations ──────────────────────────────────────────────────────────────────────────────────────────────

    async def simulate(self, project: str, package: str, spec: RunSpec, clients: int) -> SessionRecord:
        """A session that is simulated here from now on, with virtual clients."""
        if len(self._running) >= _MOST_AT_ONCE:
            raise ConflictError(f"{_MOST_AT_ONCE} simulations are running on this server: wait, or stop one")
        controller, number = self._controller, uuid.uuid4().hex[:12]
        begun = await SimulatedSession.begin(
            controller.store, controller.objects, session=number, project=project, spec=spec, clients=clients,
            engine="simulation on the server", at=time.time(),
        )  # fmt: skip
        controller.journal.notify()
        task = asyncio.create_task(self._simulate(begun, package, spec, clients), name=f"simulation {number}")
        self._running[number] = _Simulation(task, project)
        task.add_done_callback(lambda _: self._running.pop(number, None))
        return begun.session

    def simulates(self, project: str, session: str) -> bool:
        """Whether this session is simulated here now."""
        found = self._running.get(session)
        return found is not None and found.project == project

    async def stop(self, session: str, by: str) -> None:
        """End a simulation."""
        found = self._running.get(session)
        if found is not None:
            found.by = by
            found.task.cancel()
            await asyncio.wait([found.task])

    async def aclose(self) -> None:
        """End every simulation."""
        for session in list(self._running):
            await self.stop(session, "the end of the server")

    async def _simulate(self, begun: SimulatedSession, package: str, spec: RunSpec, clients: int) -> None:
        journal, project = self._controller.journal, begun.session.project
        try:
            async with self._process(project, package, spec, str(clients)) as (process, out):
                assert process.stdout is not None  # noqa: S101 - it was asked for
                async for line in process.stdout:
                    await begun.round(simulated_round(json.loads(line)), time.time())
                    journal.notify()
                if await process.wait():
                    raise RunFailedError(await _last_words(out))
                model = codec.decode(await asyncio.to_thread(out.read_bytes))
            done = f"all {spec.rounds} rounds are committed"
            await begun.end(SessionState.FINISHED, done, time.time(), model)
        except asyncio.CancelledError:
            found = self._running.get(begun.session.id)
            await begun.end(SessionState.STOPPED, f"stopped by {found.by if found else 'the server'}", time.time())
        except HansaError as error:
            await begun.end(SessionState.FAILED, str(error), time.time())
        journal.notify()

    @asynccontextmanager
    async def _process(
        self, project: str, package: str, spec: RunSpec, *more: str
    ) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
        """(a confined process at work on the package's app, the file that it writes); it ends with the block."""
        await self._controller.store.get(PackageRecord, project, package)
        archive = b"".join([chunk async for chunk in self._controller.objects.read(package)])
        with tempfile.TemporaryDirectory(prefix="hansa-app-") as scratch:
            folder = Path(scratch)
            app = await asyncio.to_thread(read(archive).unpack, folder / "app")
            (folder / "home").mkdir()
            out = folder / "model.safetensors"
            rules = self._controller.confinement
            command: Sequence[str] = rules.command(
                [sys.executable, "-P", "-m", "hansa.experiments.trial", str(app), json.dumps(spec_to(spec)), str(out),
                 *more],
                writable=(folder,), readable=(),
            )  # fmt: skip
            with (folder / "said").open("wb") as said:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=said,
                    env=dict(rules.environment(folder / "home")), start_new_session=True, limit=1 << 26,
                )  # fmt: skip
            try:
                yield process, out
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def _last_words(out: Path) -> str:
    said = await asyncio.to_thread((out.parent / "said").read_text, errors="replace")
    return said[-_TAIL:].strip().rpartition("\n")[2] or "it ended without a word"
