"""The engines of a simulation, side by side with a tight PyTorch loop: seconds per round, start-up and memory.

`python benchmarks/simulation_engines.py` measures every workload in every way, each in a fresh process, in turns, and
prints medians; `--device cuda` (or `cpu cuda`) trains on a GPU. `mpi` has as many ranks as there are cores, and needs
mpirun. The last column is the training loss of the last round, which must be that of the loop. On a machine where hansa
is not installed, put `src` on PYTHONPATH, and beside numpy and torch the packages blake3 and ml_dtypes.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent


def installed() -> None:
    """Tell Python of hansa's plug-ins where only its source is there."""
    try:
        version("hansa")
    except PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        folder = Path(tempfile.mkdtemp()) / "hansa-0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hansa\nVersion: {project['version']}\n")
        groups = project["entry-points"].items()
        text = "\n".join(
            f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) for group, points in groups
        )
        (folder / "entry_points.txt").write_text(text)
        sys.path[:0] = [str(ROOT / "src"), str(folder.parent)]


BEGAN = time.perf_counter()
installed()

import numpy as np  # noqa: E402 - after the search path is complete
import torch  # noqa: E402
from simulation_workloads import WORKLOADS, app, examples, write_app  # noqa: E402

import hansa  # noqa: E402

WAYS = ("loop", "inline", "processes", "mpi", "vectorized", "vectorized on all cores", "auto")


def loop(name: str, device: str, rounds: int) -> tuple[list[float], list[float]]:
    """FedAvg by hand: one module, no copies but the mean; seconds and training loss of each round."""
    torch.set_num_threads(1)
    work, images = WORKLOADS[name], len(WORKLOADS[name].shape) > 1
    module = work.module().to(device)
    module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in initial(name).items()})
    if images:
        module = module.to(memory_format=torch.channels_last)
    data = [[torch.from_numpy(part).to(device) for part in examples(work, client)] for client in range(work.clients)]
    parameters = list(module.parameters())
    start = [p.detach().clone() for p in parameters]
    seconds, losses, generator = [], [], np.random.default_rng(0)
    for _ in range(rounds):
        began = time.perf_counter()
        total, seen = torch.zeros((), device=device), 0
        sums = [torch.zeros_like(p) for p in start]
        for x, y in data:
            with torch.no_grad():
                for parameter, first in zip(parameters, start, strict=True):
                    parameter.copy_(first)
            optimizer = torch.optim.SGD(parameters, lr=work.learning_rate)
            for _ in range(work.epochs):
                order = torch.from_numpy(generator.permutation(len(x))).to(device)
                for batch in order.split(work.batch_size):
                    optimizer.zero_grad()
                    loss = torch.nn.functional.cross_entropy(module(x[batch]), y[batch])
                    loss.backward()
                    optimizer.step()
                    total += loss.detach() * len(batch)
                    seen += len(batch)
            with torch.no_grad():
                for mean, parameter, first in zip(sums, parameters, start, strict=True):
                    mean.add_(parameter - first, alpha=1 / len(data))
        for first, mean in zip(start, sums, strict=True):
            first.add_(mean)
        losses.append(float(total) / seen)
        seconds.append(time.perf_counter() - began)
    return seconds, losses


def initial(name: str) -> hansa.Arrays:
    """The model that every way begins with."""
    return app(name).trainer.initial_model(np.random.default_rng(0))


def measure(name: str, device: str, way: str, rounds: int) -> dict[str, object]:
    """One way in this process."""
    chosen = way
    if way == "loop":
        seconds, losses = loop(name, device, rounds)
    else:
        engine, _, cores = way.partition(" ")
        file = engine in {"processes", "auto"} or cores
        result = hansa.simulate(
            write_app(name, device) if file else app(name, device),
            clients=WORKLOADS[name].clients,
            rounds=rounds,
            engine=engine,
            workers=cpus() if cores else None,
            evaluation=hansa.EvaluationRules(every=0),
            initial_model=initial(name),
        )
        seconds = [record.seconds for record in result.rounds]
        losses = [record.metrics["loss"] for record in result.rounds]
        chosen = f"{result.engine}: {result.because}"
    whole = time.perf_counter() - BEGAN
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "seconds": statistics.median(seconds[1:]),
        "best": min(seconds[1:]),
        "start": whole - sum(seconds[1:]),
        "memory": used / 1024,
        "loss": losses[-1],
        "chosen": chosen,
        "rank": 0 if way == "loop" else result.rank,
    }


def cpus() -> int:
    """Cores that this process may use."""
    from hansa.simulation.choice import cores  # noqa: PLC0415 - after the search path is complete

    return cores()


def launcher(way: str) -> list[str]:
    """What starts a way: for mpi as many ranks as there are cores, where mpirun is."""
    if way != "mpi":
        return []
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}") or "mpirun"
    said = subprocess.run([mpirun, "--version"], check=True, capture_output=True, text=True).stdout  # noqa: S603 - a tool
    return [mpirun, *(["--allow-run-as-root"] if "Open MPI" in said else []), "-n", str(cpus())]


def table(
    workloads: list[str], devices: list[str], ways: list[str], rounds: int, repeats: int
) -> list[dict[str, object]]:
    """Measure all in turns, and print them; the ratio is of the best rounds, to the first way on the first device."""
    cells = [(w, d, way) for w in workloads for d in devices for way in ways]
    found: dict[tuple[str, str, str], list[dict[str, object]]] = {cell: [] for cell in cells}
    for _ in range(repeats):
        for workload, device, way in cells:
            command = [
                *launcher(way),
                sys.executable,
                __file__,
                "--one",
                workload,
                device,
                way,
                "--rounds",
                str(rounds),
            ]
            done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - this very file
            if done.returncode:
                print(f"{workload} {device} {way}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            else:
                run = json.loads(done.stdout.splitlines()[-1])
                found[workload, device, way].append(run)
                print(f"{workload} {device} {way}: {run['seconds']:.4f} s", file=sys.stderr, flush=True)
    rows = []
    titles = f"{'way':24} {'median s':>9} {'best s':>9} {'ratio':>7} {'start s':>8} {'MB':>6} {'loss':>8}"
    print(f"{'':2} {'device':6} {titles}")
    for (workload, device, way), runs in found.items():
        if not runs:
            continue
        row = {k: statistics.median(run[k] for run in runs) for k in ("seconds", "start", "memory", "loss")}
        row["best"] = min(run["best"] for run in runs)
        first = found[cells[[cell[0] for cell in cells].index(workload)]]
        ratio = min((run["best"] for run in first), default=float("nan")) / row["best"]
        rows.append(
            {"workload": workload, "device": device, "way": way, **row, "ratio": ratio, "chosen": runs[-1]["chosen"]}
        )
        numbers = f"{row['seconds']:9.4f} {row['best']:9.4f} {ratio:7.1f} {row['start']:8.1f} {row['memory']:6.0f}"
        print(f"{workload:2} {device:6} {way:24} {numbers} {row['loss']:8.4f}")
    return rows


def agreement(workloads: list[str], device: str) -> dict[str, float]:
    """The largest difference of a value of the model between this device and one client after another on the CPU."""
    torch.backends.cudnn.allow_tf32 = False  # matrix products are float32 by default, convolutions are not
    found = {}
    for name in workloads:
        models = [
            hansa.simulate(
                app(name, where),
                clients=min(6, WORKLOADS[name].clients),
                rounds=1,
                engine=engine,
                evaluation=hansa.EvaluationRules(every=0),
                initial_model=initial(name),
            ).model
            for where, engine in (("cpu", "inline"), (device, "inline"), (device, "vectorized"))
        ]
        for way, model in zip(("inline", "vectorized"), models[1:], strict=True):
            found[f"{name} {way}"] = max(float(np.abs(model[k] - models[0][k]).max()) for k in model)
    return found


def main() -> None:
    """Print a table, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--device", nargs="*", default=["cpu"])
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("WORKLOAD", "DEVICE", "WAY"), help="measure one, and print JSON")
    given = parser.parse_args()
    if given.one:
        measured = measure(*given.one, given.rounds)
        if measured["rank"] == 0:
            print(json.dumps(measured))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}, {cpus()} cores")
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name())
    differences = {device: agreement(given.workloads, device) for device in given.device}
    for device, found in differences.items():
        for way, difference in found.items():
            print(f"{device}, {way}: differs from the CPU, one client after another, by at most {difference:.1e}")
    rows = table(given.workloads, given.device, given.ways, given.rounds, given.repeats)
    print(json.dumps({"differences": differences, "rows": rows}))


if __name__ == "__main__":
    main()
