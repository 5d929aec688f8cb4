"""What a user writes: functions, gathered in an `App`."""

import inspect
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack, cast

import numpy as np

from hansa.algorithm import Trainer, Vectorized
from hansa.app.returned import as_metrics, kind_of, like, to_json
from hansa.app.roles import check_takes, is_same_cell, name_of
from hansa.app.tracebacks import noting_names
from hansa.arrays import Arrays
from hansa.data.examples import Examples, Split
from hansa.data.sharing import Shares
from hansa.errors import AppError
from hansa.messages import Candidate, ClientInfo, Metrics, ServerTask, Task, Update, Value
from hansa.protocols.topology import AnyTopology, TimeVarying, Topology
from hansa.protocols.worker import Program
from hansa.training import as_arrays
from hansa.training.learning import Learning
from hansa.training.of_model import trainer_of
from hansa.training.settings import settings_of, settled

__all__ = ["App"]

F = TypeVar("F", bound=Callable[..., Any])

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
        self._test: Examples | None = None
        """What the trainer evaluates on centrally, where `of` was given it."""

    @classmethod
    def of(
        cls,
        model: Any,
        data: Any,
        *,
        partition: str = "iid",
        partition_seed: int = 0,
        test_fraction: float = 0.0,
        **learning: Unpack[Learning],
    ) -> Self:
        """The app of a model and of data, with sensible defaults for all else.

        ```python
        app = hansa.App.of(softmax_regression(64, 10), digits.read(), partition="dirichlet:0.5", learning_rate=0.1)
        ```

        model: a torch module or what makes one, a scikit-learn estimator, a `NumpyModel`, or a trainer
        (`hansa.training.of_model`). data: a `Split` or `(x, y)`, which the clients share by `partition` (a name and a
        number, `hansa.data.partition`), drawn with `partition_seed` whatever the run's seed is; or a list or mapping of
        what each client has. The test part of a `Split` that is shared is evaluated on centrally; what
        `@app.central_evaluate` measures, too, is added to that. test_fraction: 0 ≤ f < 1 of the examples that a client
        gets of a partition are for its own testing, and not for training; with 0 clients evaluate on those that they
        train on. learning: `hansa.training.learning.Learning`. The partition, its seed, the fraction, learning_rate,
        momentum, weight_decay, batch_size, epochs and steps are settings of a run.
        """
        shares = Shares(data)
        app = cls(trainer_of(model, lambda: shares.examples, **learning))
        app.clients = shares.clients
        default, drawn, held_out = partition, partition_seed, test_fraction

        def share(
            client: ClientInfo,
            *,
            partition: str = default,
            partition_seed: int = drawn,
            test_fraction: float = held_out,
        ) -> Any:
            return shares.of(client.index, client.total, partition, partition_seed, test_fraction)

        app.data(share)
        app._test = shares.test
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
            raise AppError(f"select() returned {kind_of(given)}; return a list of clients' names")
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
            raise AppError(f"configure() returned {kind_of(given)}; return a mapping of names to settings")
        text = to_json(dict(given), lambda flaw: f"configure() returned a setting that cannot be sent: {flaw}")
        told: dict[str, Value] = json.loads(text)
        return told

    def aggregated(self, model: Arrays, updates: Iterable[tuple[str, Update]], task: ServerTask) -> Arrays:
        """The change that the app makes of its clients' changes, as it returned it."""
        given = self.function("aggregate", task.config)(model, updates, task)
        if not isinstance(given, Mapping):
            raise AppError(f"aggregate() returned {kind_of(given)}; return the change, a mapping of names to arrays")
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
                raise AppError(f"program() returned {kind_of(given)}; return a program and its topology")

    @property
    def trainer(self) -> Trainer:
        """Local training, whoever wrote it, with the settings of each task; the initial model has the defaults."""
        return _AppTrainer(self, {})

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a run that its functions name, with their defaults."""
        return {name: default for taken in self._settings.values() for name, default in taken.items()}

    def settings_for(self, role: str) -> dict[str, Any]:
        """Those of its function for one role."""
        return dict(self._settings.get(role, {}))

    @property
    def reads_config(self) -> bool:
        """Whether something of the app's own, a function or a trainer, may look up settings in `task.config`."""
        roles = {"train", "evaluate", "predict", "select", "configure", "aggregate"}
        if roles & self._functions.keys():
            return True
        trainer = self.given_trainer({})
        own = trainer is not None and not type(trainer).__module__.startswith("hansa.")
        return own or bool(getattr(trainer, "reads_config", False))

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
                raise AppError(f"the function that the app was given for a trainer returned {kind_of(made)}")
            self._made[key] = made
            while len(self._made) > _TRAINERS_KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
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
        return "central_evaluate" in self._functions or self._test is not None

    def evaluate_centrally(
        self, model: Arrays, rng: np.random.Generator, config: Mapping[str, Any] | None = None
    ) -> Metrics:
        """Metrics of the global model on data that the app itself has."""
        found = None
        if self._test is not None:
            task = Task(ClientInfo("central"), 1, rng, data=Split(self._test, self._test), config=config or {})
            found = self.trainer.evaluate(model, task)
            if "central_evaluate" not in self._functions:
                return found
        own = as_metrics(self.function("central_evaluate", config)(model, rng), "central_evaluate")
        return own if found is None else Metrics({**found.values, **own.values}, own.num_examples)

    def predictions(self, model: Arrays, task: Task) -> bytes:
        """What the app predicts with a model on a client's data, as JSON; raises `AppError` where it cannot."""
        given = getattr(self.given_trainer(task.config), "predict", None)
        predict = given if given is not None and not self.has("predict") else self.function("predict", task.config)
        value = predict(model, task)
        if isinstance(value, bytes):  # a command's, which is JSON already
            return value
        return to_json(
            value,
            lambda flaw: (
                f"predict() returned {kind_of(value)} that JSON cannot hold ({flaw}): return numbers, texts, lists, "
                "mappings and arrays of these, without NaN"
            ),
        ).encode()

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
            raise AppError(f"@app.{role} decorates a function, without parentheses; it was given {kind_of(function)}")
        before = self._functions.get(role)
        if before is not None and not is_same_cell(before, function):
            raise AppError(f"@app.{role} is given twice: {name_of(before)} and {name_of(function)}; keep one of them")
        settings = settings_of(function)
        check_takes(function, role)
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
        with noting_names():
            update = (self._app.function("train", task.config) if given is None else given.fit)(model, task)
        if not isinstance(update, Update):
            raise AppError(f"train() returned {kind_of(update)}; return hansa.Update(new_model, num_examples=n)")
        return replace(update, arrays=like(model, update.arrays))

    def gradient(self, model: Arrays, task: Task) -> Update:
        given = self._app.given_trainer(task.config)
        if given is None:
            raise AppError("this algorithm needs gradients, which train() does not give: use hansa.App(trainer=…)")
        return given.gradient(model, task)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        given = self._app.given_trainer(task.config)
        if given is not None and not self._app.has("evaluate"):
            return given.evaluate(model, task)
        with noting_names():
            return as_metrics(self._app.function("evaluate", task.config)(model, task), "evaluate")
