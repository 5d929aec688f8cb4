"""What a network holds after many rounds with clients that come and go, beside what it held before them."""

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from faults.checker import check
from faults.lab import OVER, Lab, laboratory
from faults.points import CONTROLLER
from faults.proxy import Weather
from faults.workload import CLIENTS, KEPT, spec_of

__all__ = ["WARM_UP", "Held", "Report", "baseline", "figures"]

SIZE = 30_000
"""Values of the model: 120 kB, which do not travel inline."""
WARM_UP = 150
"""Rounds after which pools of threads and caches have their size."""
ENOUGH = 5
"""Updates that close a round: it waits for nobody who is away."""
_EVERY = 1.0
"""Seconds between two things that happen to clients."""
_AWAY = 0.7
"""Seconds for which clients are cut off: less than the silence, so that some notice and some do not."""
_QUIET = 4.0
"""Seconds after a session in which connections that were cut are missed, and closed: more than the silence."""
STEADY = tuple(f"client-{i}" for i in range(CLIENTS // 2))
"""Clients that are cut off and never killed, so that they have something to pile up."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one process has."""

    rss: int
    """Bytes of memory."""
    files: int
    """Open file descriptors."""
    threads: int
    tasks: int
    """Of asyncio; 0 where there is no loop."""


@dataclass(frozen=True, slots=True)
class Report:
    """Before and after; files that nodes keep, and the record, apart."""

    rounds: int
    seconds: float
    happened: dict[str, int]
    """What was done to clients, by kind."""
    before: dict[str, Held]
    after: dict[str, Held]
    kept_before: dict[str, tuple[int, int]]
    """(files, bytes) of each folder that is no part of the record."""
    kept_after: dict[str, tuple[int, int]]
    objects: int
    """Objects that the rounds have added to the controller's store."""
    database: int
    """Bytes that they have added to its database."""
    flaws: tuple[str, ...]


def baseline(rounds: int, warm_up: int) -> Report:
    """Run a session to get everything going, look, run the one that counts, and look again."""
    with (
        tempfile.TemporaryDirectory(prefix="hansa-lab-") as folder,
        laboratory(Path(folder), size=SIZE) as lab,
    ):
        lab.ready()
        flapping(lab, "warm-up", warm_up)
        before, kept_before = held(lab), kept(lab)
        objects, database = _record(lab)
        begun = time.monotonic()
        happened = flapping(lab, "counts", rounds)
        seconds = time.monotonic() - begun
        after, kept_after = held(lab), kept(lab)
        more, larger = _record(lab)
        return Report(
            rounds=rounds,
            seconds=seconds,
            happened=happened,
            before=before,
            after=after,
            kept_before=kept_before,
            kept_after=kept_after,
            objects=more - objects,
            database=larger - database,
            flaws=tuple(check(lab.history(), lab.app, lab.replays)),
        )


def flapping(lab: Lab, name: str, rounds: int) -> dict[str, int]:
    """One session, in which clients are killed, cut off and reset all the time; it is quiet at the end."""
    rng = random.Random(rounds)  # noqa: S311 - a schedule, not a secret
    done = {"killed": 0, "cut off": 0, "reset": 0}
    session = lab.begin(spec_of(name, quorum=ENOUGH, enough=ENOUGH, rounds=rounds, lease=5.0, every=20))
    while lab.ask(lambda api: api.sessions.get(session.id)).state not in OVER:
        what = rng.choice(list(done))
        done[what] += 1
        door = lab.proxies[rng.choice(lab.combiners)]
        match what:
            case "killed":
                lab.kill(rng.choice([client for client in lab.clients if client not in STEADY]))
            case "cut off":
                door.change(Weather(up=False, down=False))
                time.sleep(_AWAY)
                door.change(Weather())
            case _:
                door.reset()
        time.sleep(_EVERY)
    lab.calm()
    time.sleep(_QUIET)
    lab.ready()
    time.sleep(_QUIET)
    return done


def held(lab: Lab) -> dict[str, Held]:
    """Of each process that was not killed, and of the worker of each such client."""
    found = {}
    for name in (CONTROLLER, *lab.combiners, *STEADY):
        running = lab.nodes[name].process
        assert running is not None
        process = psutil.Process(running.pid)
        found[name] = _held(process, lab.tasks(name))
        for child in process.children():
            found[f"{name}, its worker"] = _held(child, 0)
    return found


def _held(process: psutil.Process, tasks: int) -> Held:
    return Held(process.memory_info().rss, process.num_fds(), process.num_threads(), tasks)


def kept(lab: Lab) -> dict[str, tuple[int, int]]:
    """(files, bytes) of each node's folder, of temporary files, and of what the controller had not finished."""
    folders = [*(lab.folder / "work").iterdir(), lab.folder / "tmp", lab.folder / "data" / "objects" / "incoming"]
    return {str(folder.relative_to(lab.folder)): _size(folder) for folder in sorted(folders)}


def _size(folder: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return len(sizes), sum(sizes)


def _record(lab: Lab) -> tuple[int, int]:
    objects, _ = _size(lab.folder / "data" / "objects")
    return objects, sum(path.stat().st_size for path in (lab.folder / "data").glob("hansa.db*") if path.is_file())


def figures(report: Report) -> Iterator[str]:
    """For a person, a line at a time."""
    did = ", ".join(f"{count} {what}" for what, count in report.happened.items())
    yield f"{report.rounds} rounds in {report.seconds:.0f} s; clients: {did}"
    yield f"{'':24}{'memory, MB':>18}{'files':>12}{'threads':>12}{'tasks':>12}"
    for name, was in report.before.items():
        now = report.after[name]
        yield (
            f"{name:24}{was.rss / 1e6:9.1f}{now.rss / 1e6:9.1f}{was.files:6}{now.files:6}"
            f"{was.threads:6}{now.threads:6}{was.tasks:6}{now.tasks:6}"
        )
    yield f"{'':24}{'files on disk':>18}{'kB':>16}"
    for name, (count, size) in report.kept_before.items():
        now_count, now_size = report.kept_after[name]
        yield f"{name:24}{count:9}{now_count:9}{size / 1e3:8.0f}{now_size / 1e3:8.0f}"
    yield (
        f"the record: {report.objects} more objects, the newest {KEPT} rounds kept; "
        f"{report.database / report.rounds / 1e3:.2f} kB of database a round"
    )
    yield from report.flaws or ("no violation",)
