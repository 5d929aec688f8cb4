"""The Studio for simulations of this machine: a server of its own that nobody else reaches, and that keeps nothing."""

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from hansa.api.server import ApiServer
from hansa.arrays import Arrays
from hansa.experiments.sessions import SimulatedSession, show_record
from hansa.messages import RunSpec
from hansa.settings import GivenSettings
from hansa.simulation import RoundRecord
from hansa.simulation.record import Record
from hansa.store.records import SessionState
from hansa.ui import ROOT, Studio

__all__ = ["Followed", "LocalStudio"]

T = TypeVar("T")

_PROJECT: Final = "simulations"
_OPERATOR: Final = "you"


class LocalStudio:
    """A whole server in a thread, on the loopback interface, over an empty store; `with` opens and closes it.

    Its methods are called from the thread that simulates, one at a time.
    """

    def __init__(self, port: int = 0) -> None:
        """port: of the loopback interface; 0: any free one."""
        self._port = port
        self._folder = tempfile.TemporaryDirectory(prefix="hansa-studio-")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="studio", daemon=True)
        self._server: ApiServer

    def __enter__(self) -> Self:
        """Open it; raises `InputError` for a port that is taken."""
        self._thread.start()
        try:
            self._server = self._run(ApiServer.open(self._settings(), Studio))
        except BaseException:  # whatever it was, the thread ends with it
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Close it, and remove what it kept."""
        try:
            self._run(self._server.aclose())
        finally:
            self._end()

    def link(self) -> str:
        """An address that logs a browser of this machine in, once and within ten minutes."""
        operator = self._run(self._server.controller.people.operator(_OPERATOR))
        code, _ = self._run(self._server.controller.logins.make_code(operator.id))
        return f"{self._server.url}{ROOT}#code={code}"

    def show(self, records: Sequence[Record]) -> int:
        """Show past simulations; how many there are, each counted once. Raises `InputError` for a damaged one."""
        control = self._server.controller
        made = [self._run(show_record(control.store, control.objects, _PROJECT, record)) for record in records]
        return sum(session is not None for session in made)

    def follow(self, spec: RunSpec, clients: int, engine: str) -> "Followed":
        """Show a simulation that begins now."""
        control = self._server.controller
        session = self._run(
            SimulatedSession.begin(
                control.store,
                control.objects,
                session=uuid.uuid4().hex[:12],
                project=_PROJECT,
                spec=spec,
                clients=clients,
                engine=engine,
                at=time.time(),
            )
        )
        return Followed(session, self._told)

    def _settings(self) -> GivenSettings:
        return GivenSettings(
            data=Path(self._folder.name), host="127.0.0.1", port=self._port, grpc_port=0, tls="off", project=_PROJECT
        )

    def _told(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it written, and seen by whoever looks."""
        self._run(work)
        self._loop.call_soon_threadsafe(self._server.controller.journal.notify)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()


class Followed:
    """A simulation under way, as the Studio shows it; one that leaves its `with` by an error has failed."""

    def __init__(self, session: SimulatedSession, write: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """write: does what is to be done in the store."""
        self._session = session
        self._write = write

    def __enter__(self) -> Self:
        """It has begun."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Say that it failed, if it did."""
        if error is not None and self._session.session.state is SessionState.RUNNING:
            state = SessionState.STOPPED if isinstance(error, KeyboardInterrupt) else SessionState.FAILED
            self._write(self._session.end(state, f"{type(error).__name__}: {error}".rstrip(": "), time.time()))

    def round(self, done: RoundRecord) -> None:
        """A round is over."""
        self._write(self._session.round(done, time.time()))

    def finished(self, model: Arrays) -> None:
        """All that there was to do is done. model: the last one, to be downloaded."""
        done, asked = self._session.session.round, self._session.session.spec.rounds
        cause = f"all {asked} rounds are committed" if done == asked else f"{done} of {asked} rounds are committed"
        self._write(self._session.end(SessionState.FINISHED, cause, time.time(), model))
