"""The engine of a simulation: which one, how many workers it has, and where they are."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hansa.app import App, modules_beside
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError
from hansa.run import Run
from hansa.simulation.attacks import Attackers
from hansa.simulation.choice import START, Choice, choose, cores
from hansa.simulation.clients import VirtualClients
from hansa.simulation.fold import Engine, Folding, Inline
from hansa.simulation.here import Here
from hansa.simulation.pipes import spec_to
from hansa.simulation.places import Link, Place
from hansa.simulation.processes import Processes, loading
from hansa.simulation.profile import Profile
from hansa.simulation.vectorized import Stacked, Vectorization
from hansa.simulation.worker import Serving
from hansa.simulation.workers import Workers

__all__ = ["SPREAD", "EngineName", "Made", "Workload", "early", "made", "picked"]

EngineName = Literal["inline", "processes", "vectorized", "auto", "mpi", "ray"]

SPREAD = ("processes", "mpi", "ray")
"""What trains in other processes, so that a client's failure is its own by default."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is simulated."""

    app: App
    run: Run
    clients: VirtualClients
    attackers: Attackers | None
    from_file: bool
    """Whether the app is what its file says: it was loaded by name, and nobody can have changed it."""

    def folding(self, *, tolerate: bool) -> Folding:
        """A sum. tolerate: failures of user code."""
        return Folding(self.app, self.run, self.clients, tolerate_failures=tolerate, attackers=self.attackers)

    @property
    def attack(self) -> str:
        """As `Attack.parse` reads it."""
        return "" if self.attackers is None else str(self.attackers.attack)

    @property
    def can_travel(self) -> bool:
        """Whether other processes can be told of it."""
        try:
            spec_to(self.run.spec)
        except ConfigError:
            return False
        return self.from_file and self.app.path is not None


@dataclass(frozen=True, slots=True)
class Made:
    """An engine that was made."""

    engine: Engine
    profile: Profile
    """Of what it does in this process."""
    vectorization: Vectorization | None = None
    """What trains many clients at once, where it is to."""

    def in_fact(self, choice: Choice) -> Choice:
        """What the choice came to: clients that cannot train at once have trained one after another."""
        if self.vectorization is None or self.vectorization.obstacle is None:
            return choice
        return Choice("processes" if choice.workers > 1 else "inline", choice.workers, self.vectorization.obstacle)


def picked(
    engine: EngineName,
    workers: int | None,
    workload: Workload,
    start: Arrays | None,
    invited: Callable[[], Sequence[str]],
) -> Choice:
    """What trains, with how many workers.

    start: the initial model; None: the app's; invited: who trains in the first round, of whom "auto" tries some.
    """
    match engine:
        case "inline":
            return Choice("inline", 1)
        case "vectorized":
            return Choice("vectorized", workers or 0)
        case "processes":
            return Choice("processes", workers or cores())
        case "mpi" | "ray":
            return Choice(engine, workers or 0)
        case "auto":
            most = 1 if workload.app.path is None else workers or cores()
            choice = _by_trial(workload, start, invited(), most)
            free = choice.engine == "vectorized" and choice.workers == 1 and workers is None
            return replace(choice, workers=0) if free else choice
        case _:
            raise ConfigError(f"engine is {engine!r}; there is: inline, processes, vectorized, auto, mpi, ray")


def _by_trial(workload: Workload, start: Arrays | None, invited: Sequence[str], most: int) -> Choice:
    run, folding = workload.run, workload.folding(tolerate=False)
    broadcast = run.algorithm.broadcast(run.start(run.initial_model(workload.app) if start is None else start))
    folding.begin(1, broadcast, run.configured(workload.app, broadcast, 1, {}))
    return choose(folding, Vectorization(workload.app, folding, cores()), invited, run.spec.rounds, most)


def early(engine: EngineName, app: object, workers: int | None) -> AbstractContextManager[deque[Link]]:
    """Worker processes that are needed for certain, and load the app while this process does."""
    here = 1 if engine == "vectorized" else 0
    count = (workers or (0 if here else cores())) - here if engine in ("processes", "vectorized") else 0
    if count < 1 or not isinstance(app, str | Path) or not Path(app).exists():
        return nullcontext(deque())
    return loading(app, count)


def made(
    choice: Choice,
    workload: Workload,
    started: deque[Link],
    ranks: Callable[[Serving], Place] | None,
    *,
    tolerate: bool,
) -> Made:
    """The engine that was chosen.

    started: what `early` gave; ranks: the place of "mpi", with what works here; tolerate: failures of user code.
    """
    app, folding = workload.app, workload.folding(tolerate=tolerate)
    if choice.engine == "inline":
        return Made(Inline(folding), folding.profile)
    threads = 1 if choice.workers else cores()
    if choice.engine == "vectorized" and (choice.workers or (threads if workload.can_travel else 1)) == 1:
        vectorization = Vectorization(app, folding, threads)
        return Made(Stacked(folding, vectorization), folding.profile, vectorization)
    local = workload.folding(tolerate=True)  # of the worker in this process
    local.profile = folding.profile
    together = Vectorization(app, local, threads) if choice.engine == "vectorized" else None
    serving = Serving(local, together)
    engine = Workers(
        _place(choice, app, started, serving, together) if ranks is None else ranks(serving),
        app.path,
        workload.run.spec,
        folding,
        clients=len(workload.clients),
        tolerate=tolerate,
        vectorization=together,
        attack=workload.attack,
    )
    return Made(engine, folding.profile, together)


def _place(
    choice: Choice, app: App, started: deque[Link], serving: Serving, vectorization: Vectorization | None
) -> Place:
    """Where the workers are. serving: what works in this process, where one does."""
    if app.path is None:
        raise AppError(
            "worker processes load the app from its file, and this one was made in memory: "
            'save it as app.py and call hansa.simulate("app.py", …), or use engine="inline"'
        )
    if choice.engine == "ray":
        from hansa.simulation.ray import Cluster  # noqa: PLC0415 - it takes seconds to load

        return Cluster(choice.workers or None)
    if vectorization is None:
        return Processes(choice.workers, started)
    here, together, path, before = Here(serving), vectorization, app.path, _looks(app.path)

    def pays() -> bool:
        return here.seconds >= START and together.gains_by_cores and _looks(path) == before

    return Processes(choice.workers or cores(), started, here, None if choice.workers else pays)


def _looks(app: Path) -> Mapping[Path, tuple[int, int]] | None:
    """By what an app is known to have been changed since: others would load another one. None: it has gone."""
    try:
        files = [app, *(modules_beside(app).values() if app.suffix == ".py" else ())]
        return {file: (stat.st_mtime_ns, stat.st_size) for file in files for stat in [file.stat()]}
    except OSError:
        return None
