"""What a user writes: functions, gathered in an `App`; and how an app is loaded from a file or a folder."""

import hashlib
import importlib.util
import inspect
import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from traceback import format_exception
from types import CodeType, ModuleType, TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

import numpy as np

from hansa.algorithm import Trainer, Vectorized
from hansa.arrays import Array, Arrays, check_same_structure, is_floating
from hansa.data.examples import Split
from hansa.data.sharing import Shares
from hansa.errors import AppError, ArraysMismatchError, HansaError
from hansa.messages import Candidate, ClientInfo, Metrics, ServerTask, Task, Update, Value
from hansa.protocols.topology import AnyTopology, TimeVarying, Topology
from hansa.protocols.worker import Program
from hansa.training import as_arrays, command
from hansa.training.learning import Learning
from hansa.training.of_model import trainer_of
from hansa.training.settings import settings_of, settled
from hansa.wire import codec

__all__ = ["App", "find_app", "load_app", "remembered", "users_frame", "users_traceback"]

F = TypeVar("F", bound=Callable[..., Any])

_MODULE = "hansa_app_"
"""Apps are modules of this name and a digest of their path, so that none is another's."""

_TAKES = {
    "model": ("rng",),
    "data": ("client",),
    "train": ("model", "task"),
    "evaluate": ("model", "task"),
    "central_evaluate": ("model", "rng"),
    "select": ("clients", "task"),
    "configure": ("model", "task"),
    "aggregate": ("model", "updates", "task"),
    "predict": ("model", "task"),
    "program": ("parties",),
}
"""Role → what its function is called with."""

_MOST_MEMORY = 64 << 10
"""Bytes of JSON that functions beside the server may remember."""

_DATA_KEPT = 512
"""Clients whose data stay in memory; the least recently used go first."""

_TRAINERS_KEPT = 8
"""Trainers made of settings that stay in memory; there is a module in each."""


class App:
    """A federated application: either the user's own functions, or a `Trainer` that brings local training with it.

    ```python
    app = hansa.App()


    @app.model
    def initial_model(rng): ...


    @app.train
    def train(model, task): ...
    ```

    What a function has after `*` are settings of the run, by name (`--set alpha=0.1`), with its defaults:
    `def load(client, *, alpha=0.5)`. See `hansa.training.settings`.
    """

    def __init__(self, trainer: Trainer | Callable[..., Trainer] | None = None) -> None:
        """trainer: for example `hansa.training.torch.TorchTrainer(...)`; None when `@app.train` is given instead.

        Or a function that makes one, whose parameters are settings of the run: `def local(learning_rate=0.1): ...`.
        """
        makes_one = inspect.isroutine(trainer) or isinstance(trainer, partial)
        is_one = not isinstance(trainer, type) and callable(getattr(trainer, "fit", None))
        if trainer is not None and not (is_one or makes_one):
            raise AppError(f"hansa.App takes a trainer, not {trainer!r}: give TorchTrainer(...), NumpyTrainer(...) …")
        self._given = trainer
        self._functions: dict[str, Callable[..., Any]] = {}
        self._settings: dict[str, dict[str, Any]] = {}
        """Role → what its function takes of a run's settings, with the defaults."""
        if makes_one:
            self._settings["trainer"] = settings_of(cast("Callable[..., Trainer]", trainer), positional=True)
        self._made: OrderedDict[str, Trainer] = OrderedDict()
        self._data: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self.path: Path | None = None
        """The file that it was loaded from, or the folder of a hansa.toml."""
        self.source: Path | None = None
        """What was named to load it: a file, or a folder with all that belongs to it."""
        self.clients: int | None = None
        """How many clients it has data of, where it knows."""

    @classmethod
    def of(
        cls, model: Any, data: Any, *, partition: str = "iid", partition_seed: int = 0, **learning: Unpack[Learning]
    ) -> Self:
        """The app of a model and of data, with sensible defaults for all else.

        ```python
        app = hansa.App.of(softmax_regression(64, 10), digits.read(), partition="dirichlet:0.5", learning_rate=0.1)
        ```

        model: a torch module or what makes one, a scikit-learn estimator, a `NumpyModel`, or a trainer
        (`hansa.training.of_model`). data: a `Split` or `(x, y)`, which the clients share by `partition` (a name and a
        number, `hansa.data.partition`), drawn with `partition_seed` whatever the run's seed is; or a list or mapping of
        what each client has. The test part of a `Split` that is shared is evaluated on centrally. learning:
        `hansa.training.learning.Learning`. The partition, its seed, learning_rate, momentum, weight_decay, batch_size,
        epochs and steps are settings of a run.
        """
        shares = Shares(data)
        app = cls(trainer_of(model, lambda: shares.examples, **learning))
        app.clients = shares.clients
        default, drawn = partition, partition_seed

        def share(client: ClientInfo, *, partition: str = default, partition_seed: int = drawn) -> Any:
            return shares.of(client.index, client.total, partition, partition_seed)

        app.data(share)
        if shares.test is not None:
            test = Split(shares.test, shares.test)

            def central(params: Arrays, rng: np.random.Generator) -> Metrics:
                return app.trainer.evaluate(params, Task(ClientInfo("central"), 1, rng, data=test))

            app.central_evaluate(central)
        return app

    def model(self, function: F) -> F:
        """Register `model(rng)` → the initial model: Arrays, a mapping of arrays, a torch module, an estimator."""
        return self._register("model", function)

    def data(self, function: F) -> F:
        """Register `data(client)` → anything; called once per client, and handed to tasks as `task.data`."""
        return self._register("data", function)

    def train(self, function: F) -> F:
        """Register `train(model, task)` → `hansa.Update(new_model, num_examples=…, metrics=…)`."""
        if self._given is not None:
            raise AppError("this app was given a trainer: it trains by itself; drop either @app.train or the trainer")
        return self._register("train", function)

    def evaluate(self, function: F) -> F:
        """Register `evaluate(model, task)` → `hansa.Metrics({...}, num_examples=…)`, on a client's own data."""
        return self._register("evaluate", function)

    def central_evaluate(self, function: F) -> F:
        """Register `central_evaluate(model, rng)` → `hansa.Metrics`, run beside the server after a round."""
        return self._register("central_evaluate", function)

    def select(self, function: F) -> F:
        """Register `select(clients, task)` → the names of those to invite; called beside the server in each round.

        clients: `hansa.messages.Candidate`s by name; task: a `hansa.messages.ServerTask`.
        """
        return self._register("select", function)

    def configure(self, function: F) -> F:
        """Register `configure(model, task)` → settings for clients, over `task.config`; called in each round.

        model: what clients are given; task: a `hansa.messages.ServerTask`.
        """
        return self._register("configure", function)

    def aggregate(self, function: F) -> F:
        """Register `aggregate(model, updates, task)` → the change that the round makes of its clients' changes.

        updates: pairs of a client's name and its `Update`, whose arrays are the change that it has made, by name and
        one in memory at a time; task: a `hansa.messages.ServerTask`.
        """
        return self._register("aggregate", function)

    def selected(self, clients: Sequence[Candidate], task: ServerTask) -> tuple[str, ...]:
        """Whom the app invites, by name; raises `AppError` for others than these clients."""
        given = self.function("select", task.config)(clients, task)
        names = None if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
        if names is None or not all(isinstance(name, str) for name in names):
            raise AppError(f"select() returned {_kind(given)}; return a list of clients' names")
        strangers = sorted(set(names) - {client.name for client in clients})
        if strangers or not names:
            raise AppError(
                f"select() chose {strangers[0] if strangers else 'nobody'}; choose among the {len(clients)} clients "
                "that it was given"
            )
        return tuple(sorted(set(names)))

    def configured(self, model: Arrays, task: ServerTask) -> dict[str, Value]:
        """What the app tells clients in a round, over the run's own settings."""
        given = self.function("configure", task.config)(model, task)
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise AppError(f"configure() returned {_kind(given)}; return a mapping of names to settings")
        try:
            plain: dict[str, Value] = json.loads(json.dumps(dict(given), default=_plain, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AppError(f"configure() returned a setting that cannot be sent: {error}") from error
        return plain

    def aggregated(self, model: Arrays, updates: Iterable[tuple[str, Update]], task: ServerTask) -> Arrays:
        """The change that the app makes of its clients' changes, as it returned it."""
        given = self.function("aggregate", task.config)(model, updates, task)
        if not isinstance(given, Mapping):
            raise AppError(f"aggregate() returned {_kind(given)}; return the change, a mapping of names to arrays")
        return given if isinstance(given, Arrays) else Arrays(given)

    def predict(self, function: F) -> F:
        """Register `predict(model, task)` → what JSON can hold, and arrays: what a model says of a client's data."""
        return self._register("predict", function)

    def program(self, function: F) -> F:
        """Register `program(parties)` → a program and its topology, for example `vertical(…), star(parties)`.

        A session with parties runs it (`hansa session start APP --parties a,b,c`), each party one worker of it.
        """
        return self._register("program", function)

    def program_of(self, parties: int, config: Mapping[str, Any] | None = None) -> tuple[Program, AnyTopology]:
        """What so many parties run, and who of them may speak to whom; raises `AppError`."""
        given = self.function("program", config)(parties)
        match given:
            case (program, Topology() | TimeVarying() as topology) if callable(program):
                return program, topology
            case _:
                raise AppError(f"program() returned {_kind(given)}; return a program and its topology")

    @property
    def trainer(self) -> Trainer:
        """Local training, whoever wrote it, with the settings of each task; the initial model has the defaults."""
        return _AppTrainer(self, {})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a run that its functions name, with their defaults."""
        return {name: default for taken in self._settings.values() for name, default in taken.items()}

    @property
    def reads_config(self) -> bool:
        """Whether something of the app's own, a function or a trainer, may look up settings in `task.config`."""
        roles = {"train", "evaluate", "predict", "select", "configure", "aggregate"}
        if roles & self._functions.keys() or getattr(self._given, "reads_config", False):
            return True
        own = self._given is not None and "trainer" not in self._settings
        return own and not type(self._given).__module__.startswith("hansa.")

    @property
    def makes_model(self) -> bool:
        """Whether the app brings an initial model, by its trainer or by a function."""
        return self._given is not None or "model" in self._functions

    def initial_model(self, rng: np.random.Generator, config: Mapping[str, Any]) -> Arrays:
        """The model of round 0 of a run with these settings."""
        return _AppTrainer(self, config).initial_model(rng)

    def given_trainer(self, config: Mapping[str, Any]) -> Trainer | None:
        """The trainer that the app was given, or the one that its function makes of these settings."""
        if "trainer" not in self._settings:
            return cast("Trainer | None", self._given)
        key = repr([(name, config[name]) for name in self._settings["trainer"] if name in config])
        if key not in self._made:
            made = settled(cast("Callable[..., Trainer]", self._given), self._settings["trainer"], config)()
            if not callable(getattr(made, "fit", None)):
                raise AppError(f"the function that the app was given for a trainer returned {_kind(made)}")
            self._made[key] = made
            while len(self._made) > _TRAINERS_KEPT:
                self._made.popitem(last=False)
        return self._made[key]

    def vectorized(self, model: Arrays, task: Task) -> Vectorized | str:
        """What trains many clients in one computation; or why nothing can, as the end of a sentence.

        model, task: those of one client, to try it.
        """
        given = self.given_trainer(task.config)
        if given is None:
            return "the app has a train function of its own"
        prepare = getattr(given, "vectorized", None)
        if prepare is None:
            return f"{type(given).__name__} trains one client at a time"
        found: Vectorized | str = prepare(model, task)
        return found

    @property
    def evaluates_as_trained(self) -> bool:
        """Whether clients evaluate with the trainer, and not with a function of the app's own."""
        return self._given is not None and "evaluate" not in self._functions

    def check(self) -> None:
        """Raise `AppError` unless there is local training. A run may bring the initial model."""
        if self._given is None:
            self.function("train")

    @property
    def can_evaluate(self) -> bool:
        """Whether clients can evaluate a model."""
        given = self._given is not None and getattr(self._given, "can_evaluate", True)  # commands may lack one
        return "evaluate" in self._functions or given

    @property
    def can_evaluate_centrally(self) -> bool:
        """Whether the app brings an evaluation of its own beside the server."""
        return "central_evaluate" in self._functions

    def evaluate_centrally(
        self, model: Arrays, rng: np.random.Generator, config: Mapping[str, Any] | None = None
    ) -> Metrics:
        """Metrics of the global model on data that the app itself has."""
        return _metrics(self.function("central_evaluate", config)(model, rng), "central_evaluate")

    def predictions(self, model: Arrays, task: Task) -> bytes:
        """What the app predicts with a model on a client's data, as JSON; raises `AppError` where it cannot."""
        given = getattr(self.given_trainer(task.config), "predict", None)
        predict = given if given is not None and not self.has("predict") else self.function("predict", task.config)
        value = predict(model, task)
        if isinstance(value, bytes):  # a command's, which is JSON already
            return value
        try:
            return json.dumps(value, default=_plain, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise AppError(
                f"predict() returned {_kind(value)} that JSON cannot hold ({error}): return numbers, texts, lists, "
                "mappings and arrays of these, without NaN"
            ) from error

    def load_data(self, client: ClientInfo, config: Mapping[str, Any] | None = None) -> Any:
        """The data of a client: what `@app.data` returned for it, remembered; None without such a function."""
        if "data" not in self._functions:
            return None
        asked = [(name, (config or {}).get(name)) for name in self._settings["data"]]
        key = client.name, repr((client.index, client.total, dict(client.settings), asked))
        if key not in self._data:
            self._data[key] = self.function("data", config)(client)
            while len(self._data) > _DATA_KEPT:
                self._data.popitem(last=False)
        self._data.move_to_end(key)
        return self._data[key]

    def function(self, role: str, config: Mapping[str, Any] | None = None) -> Callable[..., Any]:
        """The app's function for a role, with the settings that it names; `AppError` where there is none."""
        if role not in self._functions:
            also = ", or give the app a trainer" if role in {"model", "train", "evaluate", "predict"} else ""
            raise AppError(f"the app has no {role} function: decorate one with @app.{role}{also}")
        return settled(self._functions[role], self._settings[role], config or {})

    def has(self, role: str) -> bool:
        """Whether the app has a function of its own for a role."""
        return role in self._functions

    def _register(self, role: str, function: F) -> F:
        if not callable(function):
            raise AppError(f"@app.{role} decorates a function, without parentheses; it was given {_kind(function)}")
        before = self._functions.get(role)
        if before is not None and not _is_same_cell(before, function):
            raise AppError(f"@app.{role} is given twice: {_name(before)} and {_name(function)}; keep one of them")
        settings = settings_of(function)
        _check_takes(function, role)
        self._functions[role], self._settings[role] = function, settings
        if role == "data":
            self._data.clear()
        return function


class _AppTrainer:
    """The user's functions as a `Trainer`, falling back on the trainer that the app was given."""

    def __init__(self, app: App, config: Mapping[str, Any]) -> None:
        """config: settings for the initial model; every task has its own."""
        self._app = app
        self._config = config

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        given = self._app.given_trainer(self._config)
        if given is not None and not self._app.has("model"):
            return given.initial_model(rng)
        return as_arrays(self._app.function("model", self._config)(rng))

    def fit(self, model: Arrays, task: Task) -> Update:
        given = self._app.given_trainer(task.config)
        update = (self._app.function("train", task.config) if given is None else given.fit)(model, task)
        if not isinstance(update, Update):
            raise AppError(f"train() returned {_kind(update)}; return hansa.Update(new_model, num_examples=n)")
        return replace(update, arrays=_like(model, update.arrays))

    def gradient(self, model: Arrays, task: Task) -> Update:
        given = self._app.given_trainer(task.config)
        if given is None:
            raise AppError("this algorithm needs gradients, which train() does not give: use hansa.App(trainer=…)")
        return given.gradient(model, task)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        given = self._app.given_trainer(task.config)
        if given is not None and not self._app.has("evaluate"):
            return given.evaluate(model, task)
        return _metrics(self._app.function("evaluate", task.config)(model, task), "evaluate")


def find_app(path: str | Path) -> Path:
    """The file that makes an app of this path: an app.py, a hansa.toml, or a folder with one of them."""
    given = Path(path)
    candidates = [given / "hansa.toml", given / "app.py"] if given.is_dir() else [given]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    if given.is_dir():
        raise AppError(f"the folder {given} has neither an app.py nor a hansa.toml; add one, or name the file")
    raise AppError(f"there is no app at {given}: give an app.py, a hansa.toml, or a folder with one of them")


def load_app(path: str | Path) -> App:
    """The `App` of a file or folder; raises `AppError` that says what is missing. The app's own errors pass through."""
    file = find_app(path)
    if file.suffix == ".toml":
        app = App(trainer=command.from_toml(file, save=codec.save, load=codec.load))
        app.path = app.source = file.parent
        return app
    app = _loaded(file)
    app.path, app.source = file, Path(path).resolve()
    return app


def users_frame(error: BaseException) -> TracebackType | None:
    """The first frame in an app's own file; None: it has none."""
    frame = error.__traceback__
    while frame is not None:
        if str(frame.tb_frame.f_globals.get("__name__", "")).startswith(_MODULE):
            return frame
        frame = frame.tb_next
    return None


def users_traceback(error: BaseException) -> str:
    """Of what an app has raised, from its own first frame on; empty for an error of hansa's that says all itself.

    One that hansa raised because of what a party's program did has the traceback of that.
    """
    frame, cause = users_frame(error), error.__cause__
    if frame is None and isinstance(error, HansaError):
        return users_traceback(cause) if cause is not None and users_frame(cause) is not None else ""
    if frame is None:
        return "".join(format_exception(error))
    return "".join(format_exception(type(error), error, frame))


def _loaded(file: Path) -> App:
    name = f"{_MODULE}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_FromSource(name, str(file)))
    if file.suffix != ".py" or spec is None or spec.loader is None:
        raise AppError(f"{file} cannot be loaded: an app is a Python file (app.py) or a hansa.toml")
    module = importlib.util.module_from_spec(spec)
    _prefer(file.parent)
    with ExitStack() as unless_it_loads:
        unless_it_loads.callback(sys.modules.pop, name, None)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        unless_it_loads.pop_all()
    return _app_of(module, file)


def _app_of(module: ModuleType, file: Path) -> App:
    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    if "app" in apps:
        return apps["app"]
    if len(set(map(id, apps.values()))) == 1:
        return next(iter(apps.values()))
    if not apps:
        raise AppError(f"{file} defines no app; add app = hansa.App(), and decorate your functions with it")
    raise AppError(f"{file} defines {len(apps)} apps, {', '.join(apps)}; call the one to run `app`")


class _FromSource(SourceFileLoader):
    """Never from bytecode: that is told from the source by its size and its second, and a program writes faster."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _prefer(folder: Path) -> None:
    """Let an app import what lies beside it, also where an app of another folder has a module of the same name."""
    loaded = {name: _folder(module) for name, module in list(sys.modules.items())}
    others = {place for name, place in loaded.items() if name.startswith(_MODULE)} - {folder, None}
    taken = {name for name, place in loaded.items() if place in others and _is_in(folder, name)} - {"__main__"}
    for name in loaded:
        if name.partition(".")[0] in taken:
            del sys.modules[name]
    path = str(folder)
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)


def _folder(module: object) -> Path | None:
    """The folder from which `import` took a module that is not inside a package."""
    spec = vars(module).get("__spec__") if isinstance(module, ModuleType) else None  # getattr may answer anything
    if not isinstance(spec, ModuleSpec):
        return None
    places = list(spec.submodule_search_locations or ())
    place = places[0] if places else spec.origin if spec.has_location else None
    return Path(place).parent if place else None


def _is_in(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()


def _metrics(value: object, role: str) -> Metrics:
    if not isinstance(value, Metrics):
        raise AppError(f"{role}() returned {_kind(value)}; return hansa.Metrics({{'accuracy': a}}, num_examples=n)")
    return value


def _like(model: Arrays, trained: Arrays) -> Arrays:
    """The trained arrays in the model's order and dtypes; a loss of kind (a float for an integer) is an error."""
    reordered = Arrays({name: trained[name] for name in model if name in trained} | dict(trained.items()))
    check_same_structure(model, reordered, "what train() returned")
    return Arrays({name: _cast(name, reordered[name], model[name].dtype) for name in model})


def _cast(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Floats round to the model's floats; what would lose its kind or wrap around is an error."""
    if array.dtype == dtype:
        return array
    if is_floating(np.empty(0, dtype)):
        with np.errstate(over="ignore"):  # the aggregator names what is not finite
            return array.astype(dtype)
    if is_floating(array) or (dtype == np.bool_):
        raise ArraysMismatchError(
            f"train() returned {name!r} as {array.dtype}, but the model has {dtype}: convert it with .astype, "
            f"or let the initial model have {array.dtype}"
        )
    cast = array.astype(dtype)
    if not np.array_equal(cast, array):
        raise ArraysMismatchError(
            f"train() returned {name!r} with numbers that {dtype}, the model's dtype, cannot hold"
        )
    return cast


def remembered(memory: Mapping[str, Any], function: str) -> dict[str, Value]:
    """What a function of the app leaves for later calls, as it is kept; raises `AppError` for what JSON cannot hold."""
    try:
        text = json.dumps(dict(memory), default=_plain, allow_nan=False)
        kept: dict[str, Value] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise AppError(f"{function}() left what cannot be kept in task.memory: {error}") from error
    if len(text) > _MOST_MEMORY:
        raise AppError(f"{function}() left {len(text):,} bytes in task.memory, which may have {_MOST_MEMORY:,} as JSON")
    return kept


def _plain(value: object) -> Any:
    """What JSON holds of an array, or of a number of one."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is none of them")


def _check_takes(function: Callable[..., Any], role: str) -> None:
    """Raise `AppError` unless a function can be called as its role is."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of something built in, which says nothing of itself
        return
    taken = ", ".join(_TAKES[role])
    try:
        signature.bind(*_TAKES[role])
    except TypeError as error:
        name = _name(function).rpartition(".")[2]
        raise AppError(
            f"@app.{role} decorates {name}{signature}, which cannot be called with ({taken}): write "
            f"def {name}({taken}), and settings of the run after a *"
        ) from error


def _is_same_cell(before: Callable[..., Any], function: Callable[..., Any]) -> bool:
    """Whether a notebook's cell is run again: then the new function takes the place of the old one."""
    return before.__module__ == function.__module__ == "__main__" and _name(before) == _name(function)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
