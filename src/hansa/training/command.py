"""Local training by programs in any language: the commands of a `hansa.toml`.

```toml
name = "digits in C"                       # optional
build = "make"                             # optional: runs once per process, in this folder, before anything else
init = "./softmax init {model_out}"        # writes the initial model; or model = "seed.safetensors", a file
startup = "./softmax fetch {settings.data} {client}"  # optional: once per process and client, before its first task
train = "./softmax train {model_in} {model_out} {metrics_out} {settings.data} {index} {total} {seed}"
evaluate = "./softmax evaluate {model_in} {metrics_out} {settings.data} {index} {total}"  # optional
predict = "./softmax predict {model_in} {prediction_out} {settings.data}"                 # optional

[settings]                                 # optional: what a client uses whose owner sets nothing else
data = "data/digits.txt"
```

A command is a string, split as a shell would, or a list of arguments; no shell ever sees it. It runs in the folder of
the file. Models are safetensors files. `{metrics_out}` is a JSON object of numbers with `num_examples` among them. A
line that a command prints is printed on, and counts as progress; a line `progress 3 10` says how far it is, a line
`metric loss 0.31` or `metric loss 0.31 40` is a number on the way (`Task.log`), here of step 40. A setting of the data
owner is `{settings.NAME}`; `{config}` is a JSON file with all of that and the run's own settings; `{python}` is the
interpreter that runs hansa.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hansa.arrays import Arrays
from hansa.errors import AppError, UserCodeError
from hansa.messages import GradientCorrection, Metrics, Task, Update

__all__ = ["CommandApp", "CommandTrainer", "Load", "Save", "from_toml", "read_toml"]

Save: TypeAlias = Callable[[Arrays, Path], object]
"""Writes a safetensors file."""
Load: TypeAlias = Callable[[Path], Arrays]
"""Reads a safetensors file."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+(?:\.[A-Za-z0-9_-]+)?)\}")
_SETTING = "settings."
_TASK = ("python", "client", "index", "total", "round", "seed", "work", "config")
_MEANINGS: Mapping[str, tuple[str, ...]] = {
    "build": ("python",),
    "init": ("python", "model_out", "seed"),
    "startup": ("python", "client", "index", "total", "config"),
    "train": (*_TASK, "model_in", "model_out", "metrics_out", "proximal", "offset"),
    "evaluate": (*_TASK, "model_in", "metrics_out"),
    "predict": (*_TASK, "model_in", "prediction_out"),
}
"""Command → the placeholders that it may use, beside {settings.NAME} where a client's name may be."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "build": (),
    "init": ("model_out",),
    "startup": (),
    "train": ("model_in", "model_out", "metrics_out"),
    "evaluate": ("model_in", "metrics_out"),
    "predict": ("model_in", "prediction_out"),
}
_SEEDS = 2**31
"""Seeds fit a signed 32-bit integer, the smallest that a random number generator of some language takes."""
_STDERR_KEPT = 8192
"""Bytes from the end of what a failed command wrote to stderr."""


@dataclass(frozen=True, slots=True)
class CommandApp:
    """What a `hansa.toml` says."""

    folder: Path
    """Where commands run."""
    commands: Mapping[str, tuple[str, ...]]
    """build, init, startup, train, evaluate, predict, as far as given → arguments, with placeholders."""
    name: str = ""
    model: Path | None = None
    """The initial model, where it is a file."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of a client whose owner sets nothing else."""


def read_toml(path: Path) -> CommandApp:
    """Read a `hansa.toml`; raises `AppError` that names the file, the key and what it must be."""
    file = path / "hansa.toml" if path.is_dir() else path
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AppError(f"{file} cannot be read as TOML: {error}") from error
    unknown = sorted(set(table) - {"name", "model", "settings", *_MEANINGS})
    if unknown:
        known = ", ".join(("name", "model", *_MEANINGS, "settings"))
        raise AppError(f"{file}: {unknown[0]!r} means nothing here; there are {known}")
    commands = {key: _command(f"{file}: {key}", key, table[key]) for key in _MEANINGS if key in table}
    if "train" not in commands:
        raise AppError(f'{file} has no train command: add train = "./program {{model_in}} {{model_out}} …"')
    if ("init" in commands) == ("model" in table):
        raise AppError(f"{file} must say where the initial model comes from: give an init command or a model file")
    for key in ("name", "model"):
        if not isinstance(table.get(key, ""), str):
            raise AppError(f"{file}: {key} must be a string")
    settings = table.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise AppError(f"{file}: [settings] must be a table of strings")
    folder = file.parent.resolve()
    if "model" in table and not (folder / table["model"]).is_file():
        raise AppError(f"{file}: there is no model file {folder / table['model']}")
    model = folder / table["model"] if "model" in table else None
    return CommandApp(folder, commands, table.get("name", ""), model, settings)


def from_toml(path: Path, *, save: Save, load: Load) -> "CommandTrainer":
    """The trainer of a `hansa.toml`; save and load: how models become safetensors files."""
    return CommandTrainer(read_toml(path), save=save, load=load)


@dataclass(slots=True)
class CommandTrainer:
    """Trains by running commands. Every task has a temporary folder of its own, which is removed after it."""

    app: CommandApp
    save: Save
    load: Load
    _built: bool = field(default=False, init=False)
    _started: set[str] = field(default_factory=set, init=False)
    """Clients whose startup has run."""
    _building: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def reads_config(self) -> bool:
        """Commands get all settings of a run."""
        return True

    @property
    def can_evaluate(self) -> bool:
        """Whether there is an evaluate command."""
        return "evaluate" in self.app.commands

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """What the init command writes, or the model file."""
        if self.app.model is not None:
            return self._loaded(self.app.model, "the app's model")
        with tempfile.TemporaryDirectory(prefix="hansa-") as name:
            out = Path(name) / "model_out.safetensors"
            self._run("init", {"model_out": str(out), "seed": str(rng.integers(_SEEDS))}, "the initial model", None)
            return self._loaded(out, "what init wrote to {model_out}")

    def fit(self, model: Arrays, task: Task) -> Update:
        """Run train; its metrics are those of {metrics_out} without num_examples and `Update.step_sum`."""
        with tempfile.TemporaryDirectory(prefix="hansa-") as name:
            folder = Path(name)
            values = self._files(folder, model, task) | self._correction(folder, task)
            out = folder / "model_out.safetensors"
            self._run("train", values | {"model_out": str(out)}, task.client.name, task)
            metrics = _read_metrics(folder / "metrics.json", "train", task.client.name)
            arrays = self._loaded(out, f"what train wrote to {{model_out}} for {task.client.name}")
        numbers = dict(metrics.values)
        step_sum = numbers.pop("step_sum", 0.0)
        return Update(arrays, metrics.num_examples, numbers, step_sum=step_sum)

    def gradient(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`: there is no command for gradients."""
        del model, task
        raise _no_gradients()

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """Run evaluate."""
        with tempfile.TemporaryDirectory(prefix="hansa-") as name:
            folder = Path(name)
            self._run("evaluate", self._files(folder, model, task), task.client.name, task)
            return _read_metrics(folder / "metrics.json", "evaluate", task.client.name)

    def predict(self, model: Arrays, task: Task) -> bytes:
        """Run predict; what it wrote to {prediction_out}, which is JSON."""
        with tempfile.TemporaryDirectory(prefix="hansa-") as name:
            folder = Path(name)
            out = folder / "prediction.json"
            self._run(
                "predict", self._files(folder, model, task) | {"prediction_out": str(out)}, task.client.name, task
            )
            try:
                document = out.read_bytes()
                json.loads(document)
            except (OSError, ValueError) as error:
                raise UserCodeError(
                    f"{task.client.name}: what predict wrote to {{prediction_out}} is no JSON: {error}"
                ) from error
            return document

    def _files(self, folder: Path, model: Arrays, task: Task) -> dict[str, str]:
        """The values of placeholders, with the files that they name."""
        model_in = folder / "model_in.safetensors"
        self.save(model, model_in)
        files = {"model_in": str(model_in), "metrics_out": str(folder / "metrics.json")}
        return self._values(folder, task, int(task.rng.integers(_SEEDS))) | files

    def _values(self, folder: Path, task: Task, seed: int = 0) -> dict[str, str]:
        """The values of placeholders that say whose task it is."""
        client = task.client
        settings = {**self.app.settings, **client.settings}
        plain: dict[str, Any] = {
            "client": client.name,
            "index": client.index,
            "total": client.total,
            "round": task.round,
            "seed": seed,
            "work": task.work,
        }
        described = {**plain, "settings": settings, "config": task.config}
        config = folder / "config.json"
        config.write_text(json.dumps(described, default=_plain), encoding="utf-8")
        named = {f"{_SETTING}{key}": value for key, value in settings.items()}
        return named | {key: str(value) for key, value in (plain | {"config": config}).items()}

    def _correction(self, folder: Path, task: Task) -> dict[str, str]:
        """{proximal} and {offset}, where the train command asks for them; an error where it should and does not."""
        asked = {key for argument in self.app.commands["train"] for key in _PLACEHOLDER.findall(argument)}
        correction = task.correction or GradientCorrection()
        if correction.proximal and "proximal" not in asked:
            raise AppError("this algorithm adds μ(w − w₀) to gradients: let train take {proximal}, or choose fedavg")
        if correction.offset is not None and "offset" not in asked:
            raise AppError("this algorithm adds an offset to gradients: let train take {offset}, or choose fedavg")
        if (
            correction.anchored
            or correction.frozen
            or correction.contrast
            or correction.sharpness
            or correction.penalty
        ):
            raise _no_gradients()
        path = folder / "offset.safetensors"
        if correction.offset is not None:
            self.save(correction.offset, path)
        return {"proximal": repr(correction.proximal), "offset": str(path) if correction.offset is not None else ""}

    def _loaded(self, path: Path, what: str) -> Arrays:
        if not path.is_file():
            raise UserCodeError(f"{what}: there is no such file ({path.name}); write a safetensors file there")
        return self.load(path)

    def build(self) -> None:
        """Run build, once per process; nothing where there is no such command."""
        with self._building:
            if not self._built and "build" in self.app.commands:
                self._start("build", {}, "the app", None)
            self._built = True

    def startup(self, task: Task) -> None:
        """Run startup for the task's client, once per process; nothing where there is no such command."""
        self.build()
        if task.client.name not in self._started and "startup" in self.app.commands:
            with tempfile.TemporaryDirectory(prefix="hansa-") as name:
                self._start("startup", self._values(Path(name), task), task.client.name, task)
        self._started.add(task.client.name)

    def _run(self, command: str, values: Mapping[str, str], who: str, task: Task | None) -> None:
        self.build()
        if task is not None:
            self.startup(task)
        if command not in self.app.commands:
            raise AppError(f"the app has no {command} command: add one to {self.app.folder / 'hansa.toml'}")
        self._start(command, values, who, task)

    def _start(self, command: str, values: Mapping[str, str], who: str, task: Task | None) -> None:
        known = {"python": sys.executable, **values}
        arguments = tuple(_filled(argument, known, who) for argument in self.app.commands[command])
        _run_command(command, arguments, self.app.folder, who, task)


def _command(where: str, key: str, value: object) -> tuple[str, ...]:
    try:
        arguments = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise AppError(f"{where}: {error} in {value!r}") from error
    if not isinstance(arguments, list) or not arguments or not all(isinstance(part, str) for part in arguments):
        raise AppError(f"{where} must be a command: a string, or a list of strings")
    used = [name for argument in arguments for name in _PLACEHOLDER.findall(argument)]
    allowed = _MEANINGS[key]
    for name in used:
        if name not in allowed and not (name.startswith(_SETTING) and "client" in allowed):
            known = ", ".join(f"{{{each}}}" for each in allowed) or "none"
            raise AppError(f"{where} uses {{{name}}}, which is not known there; it may use: {known}")
    for name in _NEEDED[key]:
        if name not in used:
            raise AppError(f"{where} does not use {{{name}}}: the program must be told where that file is")
    return tuple(arguments)


def _filled(argument: str, values: Mapping[str, str], who: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise AppError(
                f"{who} has no setting {match[1].removeprefix(_SETTING)!r}, which a command in hansa.toml uses as "
                f"{match[0]}: set it on that client"
            )
        return values[match[1]]

    return _PLACEHOLDER.sub(value, argument)


def _run_command(command: str, arguments: tuple[str, ...], folder: Path, who: str, task: Task | None) -> None:
    """Run to the end, passing its lines on; raises `UserCodeError` with the end of its stderr when it fails."""
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own program, without a shell
                arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
            )
        except OSError as error:
            raise AppError(f"the {command} command cannot be started: {arguments[0]}: {error.strerror}") from error
        reached = (0.0, 1.0)
        try:
            for line in _lines(process):
                reached = _pass_on(line, task, reached)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if process.returncode:
            stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_KEPT))
            said = stderr.read().decode(errors="replace").strip()
            last = f": {said.splitlines()[-1]}" if said else "; it wrote nothing to stderr"
            raise UserCodeError(f"{who}: the {command} command {_ended(process.returncode)}{last}", said)


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    for line in process.stdout or ():
        yield line.decode(errors="replace").rstrip()
    process.wait()


def _pass_on(line: str, task: Task | None, reached: tuple[float, float]) -> tuple[float, float]:
    """Print a line, or take note of how far it says the program is; either way the task is alive."""
    match line.split():
        case ["progress", done, total] if _is_number(done) and _is_number(total):
            reached = (float(done), float(total))
        case ["metric", name, value, *step] if task is not None and _is_measured(value, step):
            task.log({name: float(value)}, int(step[0]) if step else None)
        case _:
            print(line, flush=True)  # noqa: T201 - what user code prints goes where its prints go
    if task is not None:
        task.progress(*reached)
    return reached


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def _is_measured(value: str, step: list[str]) -> bool:
    is_number = re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|nan|[+-]?inf", value) is not None
    return is_number and (not step or (len(step) == 1 and step[0].isdecimal()))


def _ended(returncode: int) -> str:
    if returncode > 0:
        return f"exited with {returncode}"
    return f"was ended by {signal.Signals(-returncode).name}"


def _plain(value: object) -> object:
    """JSON for what configurations hold beside dicts and lists."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | np.ndarray):
        return list(value)
    if isinstance(value, np.generic):
        return value.item()
    raise AppError(f"task.config holds a {type(value).__name__}, which cannot be written as JSON for a command")


def _read_metrics(path: Path, command: str, who: str) -> Metrics:
    must = f"{who}: {command} must write a JSON object of numbers with num_examples to {{metrics_out}}"
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserCodeError(f"{must}; it wrote no file") from None
    except ValueError as error:
        raise UserCodeError(f"{must}; what it wrote is not JSON: {error}") from error
    if not isinstance(numbers, dict) or not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in numbers.values()
    ):
        raise UserCodeError(f"{must}; it wrote {json.dumps(numbers)[:200]}")
    if not isinstance(numbers.get("num_examples"), int):
        raise UserCodeError(f"{must}; num_examples is missing or no whole number in {json.dumps(numbers)[:200]}")
    num_examples = numbers.pop("num_examples")
    return Metrics(numbers, num_examples)


def _no_gradients() -> AppError:
    return AppError("this algorithm needs gradients, which an app of commands does not give: choose fedavg or fedprox")
