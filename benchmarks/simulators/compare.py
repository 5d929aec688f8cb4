"""hansa's simulation beside other simulators and loops by hand: `make bench-simulators`.

The environments of the others are made once, under `--environments`. Every way is a program of its own (`run_*.py`),
and all are run in turns, A B C A B C …, with the same data, initial model, batch size, epochs and learning rate. Each
hands over its final model, and all models are evaluated by the same code on the same data. A way that cannot be
installed or fails has a row that says why. Prints a table in Markdown for each workload.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil
from environments import BrokenError, interpreter, last_words, prepare
from job import JOBS, make
from table import Measured, row, table

HERE = Path(__file__).parent

sys.path.append(str(HERE.parent))  # where the modules are

Array: TypeAlias = npt.NDArray[Any]

Plan: TypeAlias = "Mapping[str, tuple[int, tuple[Array, Array]]]"
"""For each workload, rounds and the data on which final models are evaluated."""

ROUNDS = {"L": 30, "S": 30, "F": 4, "C": 3}
"""By default; the first does not count, for it warms up."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one library plays the rounds."""

    name: str
    environment: str
    program: str
    settings: dict[str, str] = field(default_factory=dict)
    """For each workload, where the program has several ways."""
    one_core: str = ""
    """Workloads for which it is given one core, where that is the faster way."""
    ranks: bool = False
    """Whether torchrun starts a rank for each core."""


WAYS = (
    Way("hansa", "hansa", "hansa", {"L": "vectorized", "S": "vectorized", "F": "processes", "C": "processes"}),
    Way("hansa, JAX", "hansa", "hansa", dict.fromkeys("LSFC", "jax vectorized"), "FC"),
    Way("hansa, auto", "hansa", "hansa", dict.fromkeys("LSFC", "auto")),
    Way("PyTorch loop", "hansa", "loop"),
    Way("JAX by hand", "jax", "jax", {"L": "vmap", "S": "vmap", "F": "map", "C": "map"}),
    Way("pfl-research", "pfl", "pfl"),
    Way("pfl-research, a rank a core", "pfl", "pfl", ranks=True),
    Way("FedJAX", "fedjax", "fedjax"),
    Way("FedLab", "fedlab", "fedlab"),
    Way("FedML", "fedml", "fedml"),
    Way("Flower", "flower", "flower"),
)


class FailedError(Exception):
    """A run did not end well; the message is its last line."""


class Memory(threading.Thread):
    """Looks at a process and all that it started, every so often: what they hold, shared pages counted once."""

    def __init__(self, pid: int, every: float) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._every = every
        self._done = threading.Event()
        self.megabytes = 0.0

    def run(self) -> None:
        """Until it is told to end."""
        while not self._done.wait(self._every):
            self.megabytes = max(self.megabytes, sum(map(_held, family(self._process))) / 2**20)

    def end(self) -> float:
        """The peak."""
        self._done.set()
        self.join()
        return self.megabytes


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and its descendants, as far as they live."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _held(process: psutil.Process) -> int:
    try:
        held = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(held, "pss", held.rss))


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs have in common."""

    environments: Path
    folder: Path
    cores: int
    timeout: float

    def command(self, way: Way, workload: str, rounds: int) -> list[str]:
        """What starts a run, but for the time of its start."""
        python = str(interpreter(self.environments, way.environment))
        launched = [python]
        if way.ranks:
            launched += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.cores)]
        cores = 1 if workload in way.one_core else self.cores
        files = [str(self.folder / f"{workload}.npz"), str(self.folder / "model.npz")]
        command = [*launched, str(HERE / f"run_{way.program}.py"), *files, "--rounds", str(rounds)]
        return [*command, "--cores", str(cores), "--setting", way.settings.get(workload, "")]

    def measure(self, way: Way, workload: str, rounds: int, data: tuple[Array, Array]) -> Measured:
        """One run; raises `FailedError`. data: (x, y) on which the final model is evaluated."""
        (self.folder / "model.npz").unlink(missing_ok=True)
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(  # noqa: S603 - a program of this folder
                [*self.command(way, workload, rounds), "--began", str(began)],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=self._environment(),
                start_new_session=True,
            )
            watch = Memory(process.pid, 0.5)  # more often, and it takes a core from those who use all
            watch.start()
            try:
                output, _ = process.communicate(timeout=self.timeout)
            except subprocess.TimeoutExpired:
                _kill(process)
                raise FailedError(f"not done after {self.timeout:.0f} s") from None
            except BaseException:
                _kill(process)
                raise
            finally:
                megabytes = watch.end()
            said.seek(0)
            told = [line for line in output.splitlines() if line.startswith('{"first"')]
            if process.returncode or not told:
                raise FailedError(f"failed: {last_words(said.read())}")
        found = json.loads(told[-1])
        with np.load(self.folder / "model.npz") as file:
            loss, accuracy = evaluated(workload, dict(file), data)
        return Measured(found["first"], found["seconds"], megabytes, loss, accuracy, found["about"])

    def _environment(self) -> dict[str, str]:
        """No reports to makers, and no files of theirs in the user's home."""
        home = self.environments / "home"
        home.mkdir(parents=True, exist_ok=True)
        ours = {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}", "HOME": str(home)}
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "WANDB_MODE": "disabled"}
        return {**os.environ, **ours, **quiet}  # noqa: TID251 - a child's


def _kill(process: subprocess.Popen[str]) -> None:
    for each in family(psutil.Process(process.pid)):
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.communicate()


def evaluated(workload: str, model: dict[str, Array], data: tuple[Array, Array]) -> tuple[float, float]:
    """(loss, accuracy) of a model."""
    import torch  # noqa: PLC0415 - it takes a second to load
    from simulation_modules import module  # noqa: PLC0415 - as above

    net = module(workload)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in model.items()})
    x, y = (torch.from_numpy(each) for each in data)
    with torch.no_grad():
        outputs = net(x)
    loss = torch.nn.functional.cross_entropy(outputs, y)
    return float(loss), float((outputs.argmax(1) == y).double().mean())


def initial_model(workload: str) -> dict[str, Array]:
    """The same in each call."""
    import torch  # noqa: PLC0415 - it takes a second to load
    from simulation_modules import module  # noqa: PLC0415 - as above

    torch.manual_seed(1)
    return {name: tensor.numpy() for name, tensor in module(workload).state_dict().items()}


class Results:
    """What was measured, and what could not be."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], list[Measured]] = {}
        """By workload and way."""
        self.failed: dict[tuple[str, str], str] = {}
        """Why."""

    def table(self, workload: str, ways: Sequence[Way], initial: float) -> str:
        """initial: the loss before the first round."""
        shape = JOBS[workload]
        title = (
            f"{shape.title}, {shape.clients} clients with {shape.examples} examples, batches of {shape.batch_size}, "
            f"{shape.epochs} epoch{'s' if shape.epochs > 1 else ''}"
        )
        keys = [(workload, way.name) for way in ways]
        rows = [row(key[1], self.runs[key]) if key in self.runs else (key[1], self.failed[key]) for key in keys]
        return table(workload, title, rows, initial)

    def json(self) -> str:
        """Every run."""
        runs = {" ".join(key): [asdict(run) for run in runs] for key, runs in self.runs.items()}
        return json.dumps({"runs": runs, "failed": {" ".join(key): why for key, why in self.failed.items()}})


def prepared(bench: Bench, ways: Sequence[Way], workloads: Sequence[str], results: Results) -> None:
    """Make the environments; note what cannot be."""
    for environment in dict.fromkeys(way.environment for way in ways):
        try:
            prepare(bench.environments, environment)
        except BrokenError as error:
            names = [way.name for way in ways if way.environment == environment]
            why = f"cannot be installed: {error}"
            results.failed |= {(workload, name): why for workload in workloads for name in names}


def played(bench: Bench, ways: Sequence[Way], plan: Plan, results: Results) -> None:
    """Run every way of every workload once; note what fails, which is not tried again."""
    for workload, (rounds, data) in plan.items():
        for way in ways:
            key = workload, way.name
            if key in results.failed:
                continue
            try:
                found = bench.measure(way, workload, rounds, data)
            except FailedError as error:
                results.failed[key] = str(error)
                told = str(error)
            else:
                results.runs.setdefault(key, []).append(found)
                told = f"{np.median(found.seconds):.4f} s, loss {found.loss:.4f}"
            print(f"{workload} {way.name}: {told}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # noqa: TID251 - where caches are
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--only", nargs="+", choices=[way.name for way in WAYS], metavar="WAY", help="by name")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each way")
    parser.add_argument("--rounds", type=int, help=f"in each process; by default {ROUNDS}")
    parser.add_argument("--clients", type=int, help="fewer or more of them than the workload has")
    parser.add_argument("--cores", type=int, default=len(psutil.Process().cpu_affinity() or [0]))
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one process may take")
    parser.add_argument("--environments", type=Path, default=cache / "hansa-bench", help="where they are, or are made")
    parser.add_argument("--json", type=Path, help="where every run goes")
    given = parser.parse_args()
    if (given.rounds or 2) < 2:  # noqa: PLR2004 - the first round warms up
        parser.error("--rounds is at least 2")
    return given


def main() -> None:
    """Print a table for each workload."""
    given = arguments()
    ways = [way for way in WAYS if not given.only or way.name in given.only]
    results, plan, initial = Results(), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given.environments.absolute(), Path(folder), given.cores, given.timeout)
        prepared(bench, ways, given.workloads, results)
        for workload in given.workloads:
            if given.clients:
                JOBS[workload] = replace(JOBS[workload], clients=given.clients)
            model = initial_model(workload)
            job, *data = make(workload, model)
            job.write(bench.folder / f"{workload}.npz")
            plan[workload] = given.rounds or ROUNDS[workload], (data[0], data[1])
            initial[workload], _ = evaluated(workload, model, plan[workload][1])
        for _ in range(given.repeats):
            played(bench, ways, plan, results)
    if given.json:
        given.json.write_text(results.json())
    print(f"{platform.platform()}, Python {platform.python_version()}, {given.cores} cores, medians of {given.repeats}")
    for workload in given.workloads:
        print(f"\n{results.table(workload, ways, initial[workload])}")


if __name__ == "__main__":
    main()
