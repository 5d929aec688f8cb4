"""FEDn's server functions as those of a hansa app: one class, in a session's configuration as source text.

Nothing of it runs in the server: what it has is read from its syntax, and `app_of` is called by a package that is made
of it, in the process of its own in which every app's functions run. What the instance holds in its attributes is there
in the next call, as far as JSON and small arrays can say it.
"""

import ast
import base64
import logging
import os
import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from hansa.app import App
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, InputError
from hansa.messages import Candidate, ServerTask, Update, Value
from hansa.packages.package import build

__all__ = ["app_of", "functions_of", "package_of"]

_LONGEST: Final = 256 << 10
"""Characters of source text."""
_CLASS: Final = "ServerFunctions"
_NAMES: Final = {
    "client_selection": "select",
    "client_settings": "configure",
    "aggregate": "aggregate",
    "incremental_aggregate": "aggregate",
}
"""FEDn's functions → those of an app."""
_SOURCE: Final = "server_functions.py"
_APP: Final = f'''"""Server functions of a FEDn session."""

from pathlib import Path

from hansa.compat.fedn.functions import app_of

app = app_of(Path(__file__).with_name("{_SOURCE}").read_text(encoding="utf-8"))
'''
_ARRAY: Final = "__array__"
_SETTINGS: Final = "client_settings"


def functions_of(source: object) -> tuple[str, ...]:
    """Which functions of an app the class has, in hansa's words; raises `InputError`. Nothing of it is run."""
    return tuple(sorted({_NAMES[name] for name in _methods(source) if name in _NAMES}))


def package_of(source: str) -> bytes:
    """A package of hansa's whose app has these functions."""
    with tempfile.TemporaryDirectory(prefix="hansa-fedn-") as folder:
        (Path(folder) / "app.py").write_text(_APP, encoding="utf-8")
        (Path(folder) / _SOURCE).write_text(source, encoding="utf-8")
        return build(folder, name="server-functions")


def app_of(source: str) -> App:
    """The app: to be called in a process of its own, since what it runs is a stranger's."""
    methods = _methods(source)
    app = App()

    if "client_selection" in methods:

        @app.select
        def select(clients: Sequence[Candidate], task: ServerTask) -> list[str]:
            functions = _instance(source, task, clients)
            chosen = functions.client_selection([client.name for client in clients])
            _keep(functions, task)
            return list(chosen)

    if _SETTINGS in methods:

        @app.configure
        def configure(model: Arrays, task: ServerTask) -> dict[str, Value]:
            functions = _instance(source, task)
            told = functions.client_settings(list(model.values()))
            _keep(functions, task)
            return {_SETTINGS: dict(told or {})}

    if "aggregate" in functions_of(source):

        @app.aggregate
        def aggregate(model: Arrays, updates: Iterable[tuple[str, Update]], task: ServerTask) -> dict[str, Array]:
            functions, before = _instance(source, task), list(model.values())
            if "incremental_aggregate" in methods:
                for client, update in updates:
                    functions.incremental_aggregate(client, _trained(model, update), _metadata(update), before)
                after = functions.get_incremental_aggregate_model()
            else:
                after = functions.aggregate(
                    before, {client: [_trained(model, update), _metadata(update)] for client, update in updates}
                )
            _keep(functions, task)
            return _change(model, after)

    return app


class ServerFunctionsBase:
    """What the class is written against."""


class _Attributes:
    """In the place of FEDn's APIClient: there is no network where functions run, and clients' attributes are there."""

    def __init__(self, clients: Sequence[Candidate]) -> None:
        self._clients = {client.name: dict(client.labels) for client in clients}

    def get_current_attributes(self, client_list: Sequence[str]) -> dict[str, Any]:
        """Client → its labels, among which its attributes are."""
        return {
            name: self._clients.get(name, f"Entity with client_id: {name} not found") for name in map(str, client_list)
        }

    def __getattr__(self, name: str) -> Any:
        raise AppError(f"api_client.{name} needs a network, which functions have none of here")


def _methods(source: object) -> frozenset[str]:
    """Of the class; raises `InputError`."""
    if not isinstance(source, str) or len(source) > _LONGEST:
        raise InputError(f"server_functions is source text of at most {_LONGEST:,} characters")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"server_functions is no Python: {error}") from error
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == _CLASS]
    if len(found) != 1:
        raise InputError(f"server_functions must have one class {_CLASS}, and has {len(found)}")
    methods = frozenset(node.name for node in found[0].body if isinstance(node, ast.FunctionDef))
    if not methods & _NAMES.keys():
        raise InputError(f"{_CLASS} has none of {', '.join(_NAMES)}")
    return methods


def _instance(source: str, task: ServerTask, clients: Sequence[Candidate] = ()) -> Any:
    """The object, as an earlier call has left it."""
    random.seed(int(task.rng.integers(2**63)))
    np.random.seed(int(task.rng.integers(2**32)))  # noqa: NPY002 - what the class's own code draws from
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    namespace: dict[str, Any] = {
        "__name__": "server_functions",
        "Dict": dict, "List": list, "Tuple": tuple, "np": np, "os": os, "random": random,
        "ServerFunctionsBase": ServerFunctionsBase, "logger": logging.getLogger("server_functions"),
        "api_client": _Attributes(clients),
    }  # fmt: skip
    exec(compile(source, _SOURCE, "exec"), namespace)  # noqa: S102 - a stranger's code, within the walls of its process
    functions = namespace[_CLASS]()
    for name, value in task.memory.items():
        setattr(functions, name, _restored(value))
    return functions


def _keep(functions: object, task: ServerTask) -> None:
    """Its attributes, for the next call."""
    task.memory.clear()
    task.memory.update({name: _kept(name, value) for name, value in vars(functions).items()})


def _kept(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {_ARRAY: [value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _kept(name, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_kept(name, each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise AppError(f"self.{name} holds a {type(value).__name__}: keep numbers, texts, lists, dictionaries and arrays")


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {_ARRAY}:
            dtype, shape, data = value[_ARRAY]
            return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
        return {key: _restored(each) for key, each in value.items()}
    return [_restored(each) for each in value] if isinstance(value, list) else value


def _trained(model: Arrays, update: Update) -> list[Array]:
    """A client's model, from its change."""
    return [(array + update.arrays[name]).astype(array.dtype) for name, array in model.items()]


def _metadata(update: Update) -> dict[str, float]:
    return {**update.metrics, "num_examples": update.num_examples}


def _change(model: Arrays, after: object) -> dict[str, Array]:
    tensors = list(after) if isinstance(after, Iterable) else []
    if len(tensors) != len(model):
        raise AppError(f"the aggregate has {len(tensors)} tensors, and the model has {len(model)}: return all of them")
    pairs = zip(model.items(), tensors, strict=True)
    return {name: np.asarray(tensor, np.float64) - array for (name, array), tensor in pairs}
