"""An app is found and loaded from a file, a folder or a hansa.toml, and its own errors keep their lines."""

import errno
import importlib
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hansa.app import App, find_app, load_app
from hansa.arrays import Arrays
from hansa.errors import AppError
from hansa.messages import ClientInfo, Task
from hansa.simulation import simulate
from hansa.wire import codec

APP = """
import hansa
app = hansa.App()

@app.model
def initial_model(rng):
    return {"w": [%s]}
"""


@pytest.fixture(autouse=True)
def _imports_end_with_the_test() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def weight(app: App) -> float:
    return float(app.trainer.initial_model(np.random.default_rng(0))["w"][0])


# ── found ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_and_the_folder_that_it_lies_in_are_the_same_app(tmp_path: Path) -> None:
    file = write(tmp_path / "app.py", APP % "1.0")
    assert find_app(file) == find_app(tmp_path) == find_app(str(tmp_path)) == file.resolve()
    assert load_app(tmp_path).path == file.resolve()


def test_an_app_may_have_any_name_when_the_file_is_named(tmp_path: Path) -> None:
    assert weight(load_app(write(tmp_path / "my experiment.py", APP % "2.0"))) == 2.0


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"no app at .*missing\.py: give an app\.py, a hansa\.toml, or a folder"):
        load_app(tmp_path / "missing.py")


def test_a_folder_without_an_app_is_named(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"the folder .* has neither an app\.py nor a hansa\.toml"):
        load_app(tmp_path)


def test_a_file_of_another_kind_is_no_app(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"model\.safetensors cannot be loaded: an app is a Python file"):
        load_app(write(tmp_path / "model.safetensors", ""))


# ── one app in a file ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_without_an_app_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"app\.py defines no app; add app = hansa\.App\(\)"):
        load_app(write(tmp_path / "app.py", "import hansa\n"))


def test_two_apps_in_a_file_are_named_unless_one_is_called_app(tmp_path: Path) -> None:
    two = "import hansa\nfirst = hansa.App()\nsecond = hansa.App()\n"
    with pytest.raises(AppError, match=r"defines 2 apps, first, second; call the one to run `app`"):
        load_app(write(tmp_path / "app.py", two))
    app = load_app(write(tmp_path / "app.py", two + "app = second\nsecond.train(print)\n"))
    app.check()


def test_an_app_may_have_any_name_in_its_file_and_two_of_them(tmp_path: Path) -> None:
    load_app(write(tmp_path / "app.py", "import hansa\nmine = also_mine = hansa.App()\nmine.train(print)\n")).check()


# ── the user's own errors ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_syntax_error_keeps_the_users_line(tmp_path: Path) -> None:
    file = write(tmp_path / "app.py", "import hansa\n\napp = hansa.App(\n")
    with pytest.raises(SyntaxError) as caught:
        load_app(file)
    assert (caught.value.filename, caught.value.lineno) == (str(file.resolve()), 3)


def test_an_error_while_loading_keeps_its_line_and_leaves_nothing_half_loaded(tmp_path: Path) -> None:
    file = write(tmp_path / "app.py", "import hansa\napp = hansa.App()\n1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError) as caught:
        load_app(file)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == (str(file.resolve()), 3, "1 / 0")
    assert not [name for name in set(sys.modules) - before if name.startswith("hansa_app")]


def test_an_error_in_the_apps_file_is_not_taken_for_a_missing_app(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_app(write(tmp_path / "app.py", "import no_such_module\n"))


# ── imports ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_app_imports_what_lies_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "weights_beside.py", "W = 3.0\n")
    assert weight(load_app(write(tmp_path / "app.py", "from weights_beside import W\n" + APP % "W"))) == 3.0


@pytest.mark.parametrize("sibling", ["parts_beside.py", "parts_beside/__init__.py", "parts_beside/inner.py"])
def test_apps_of_two_folders_each_import_their_own_of_the_same_name(tmp_path: Path, sibling: str) -> None:
    module = "parts_beside.inner" if sibling.endswith("inner.py") else "parts_beside"
    for folder, value in (("one", 1.0), ("two", 2.0)):
        write(tmp_path / folder / sibling, f"W = {value}\n")
        write(tmp_path / folder / "app.py", f"from {module} import W\n" + APP % "W")
    assert [weight(load_app(tmp_path / folder)) for folder in ("one", "two", "one")] == [1.0, 2.0, 1.0]


def test_modules_that_are_none_or_answer_as_they_like_do_not_disturb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(ModuleType):
        def __getattr__(self, name: str) -> object:
            return 7

    monkeypatch.setitem(sys.modules, "odd_module", Odd("odd_module"))
    monkeypatch.setitem(sys.modules, "no_module", None)
    monkeypatch.setitem(sys.modules, "an_object", object())
    load_app(write(tmp_path / "one" / "app.py", APP % "1.0"))
    assert weight(load_app(write(tmp_path / "two" / "app.py", APP % "2.0"))) == 2.0


def test_a_module_that_no_other_app_brought_is_imported_once(tmp_path: Path) -> None:
    write(tmp_path / "shared_state.py", "calls = []\n")
    file = write(tmp_path / "app.py", "import shared_state\nshared_state.calls.append(1)\n" + APP % "1.0")
    load_app(file)
    load_app(file)
    assert sys.modules["shared_state"].calls == [1, 1]


def test_a_file_that_is_written_anew_in_the_same_second_is_read_anew(tmp_path: Path) -> None:
    assert [weight(load_app(write(tmp_path / "app.py", APP % f"{k}.0"))) for k in range(5)] == [0, 1, 2, 3, 4]


def test_apps_of_the_same_file_name_do_not_become_one(tmp_path: Path) -> None:
    one = load_app(write(tmp_path / "one" / "app.py", APP % "1.0"))
    two = load_app(write(tmp_path / "two" / "app.py", APP % "2.0"))
    assert (weight(one), weight(two)) == (1.0, 2.0)


def test_dataclasses_of_an_app_know_their_module(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass W:\n    w: float\n"
    assert weight(load_app(write(tmp_path / "app.py", text + APP % "W(4.0).w"))) == 4.0


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import json, struct, sys

def read(path):
    raw = open(path, "rb").read()
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    return {name: struct.unpack("<d", raw[8 + size:][slice(*t["data_offsets"])])[0] for name, t in header.items()}

def write(path, tensors):
    spans = {name: [8 * k, 8 * k + 8] for k, name in enumerate(tensors)}
    header = {name: {"dtype": "F64", "shape": [1], "data_offsets": span} for name, span in spans.items()}
    text = json.dumps(header).encode()
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(tensors)}d", *tensors.values()))

match sys.argv[1:]:
    case ["init", out]:
        write(out, {"w": 1.0, "b": 0.0})
    case ["train", model, out, metrics, index]:
        got = read(model)
        write(out, {"b": got["b"] + 1, "w": got["w"] * 2 + int(index)})  # in another order than the model's
        json.dump({"num_examples": 3, "loss": 0.5}, open(metrics, "w"))
"""
TOML = """
init = "{python} program.py init {model_out}"
train = "{python} program.py train {model_in} {model_out} {metrics_out} {index}"
"""


def program(folder: Path) -> Path:
    write(folder / "program.py", PROGRAM)
    return write(folder / "hansa.toml", TOML)


def test_a_hansa_toml_is_an_app_and_wins_over_an_app_py_beside_it(tmp_path: Path) -> None:
    file = program(tmp_path)
    write(tmp_path / "app.py", "1 / 0\n")
    assert find_app(tmp_path) == file.resolve()
    app = load_app(tmp_path)
    assert (app.path, app.can_evaluate) == (tmp_path.resolve(), False)


def test_a_program_may_write_its_tensors_in_any_order(tmp_path: Path) -> None:
    app = load_app(program(tmp_path))
    model = app.trainer.initial_model(np.random.default_rng(0))
    update = app.trainer.fit(model, Task(ClientInfo("c", 5, 9), 1, np.random.default_rng(0)))
    assert update.arrays == Arrays({"w": [7.0], "b": [1.0]})
    assert (update.num_examples, update.metrics) == (3, {"loss": 0.5})


def test_a_program_is_simulated_as_any_app(tmp_path: Path) -> None:
    result = simulate(program(tmp_path), clients=2, rounds=2)
    assert {name: array.tolist() for name, array in result.model.items()} == {"w": [5.5], "b": [2.0]}
    assert result.model_hash == codec.digest(result.model)


def test_modules_beside_an_app_are_imported_anew_once_one_of_them_was_changed(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    write(tmp_path / "nets" / "__init__.py", "from nets.sizes import SIZE\n")
    write(tmp_path / "same.py", "")
    file = write(
        tmp_path / "app.py",
        "import hansa, nets, same\napp = hansa.App()\napp.model(lambda rng: {'w': [nets.SIZE], 'id': [id(same)]})\n",
    )

    def loaded() -> Arrays:
        return load_app(file).trainer.initial_model(np.random.default_rng(0))

    sizes = write(tmp_path / "nets" / "sizes.py", "SIZE = 1.0\n")
    first = loaded()
    assert loaded() == first
    write(sizes, "SIZE = 22.0\n")
    assert (first["w"].tolist(), loaded()["w"].tolist()) == ([1.0], [22.0])


def test_a_module_that_a_notebook_imported_before_is_imported_anew_where_it_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("noted", "steady"):
        write(tmp_path / f"{name}.py", "ONE = 1.0\n")
    noted, steady = (importlib.import_module(name) for name in ("noted", "steady"))
    model = "lambda rng: {'w': [noted.ONE], 'id': [id(steady)]}"
    app = f"import hansa, noted, steady\napp = hansa.App()\napp.model({model})\n"
    assert loaded_model(write(tmp_path / "app.py", app))["id"] == [id(steady)]
    assert sys.modules["noted"] is noted

    write(tmp_path / "noted.py", "ONE = 22.0\n")
    other = write(tmp_path / "other.py", app)  # the first load of this one
    assert loaded_model(other)["w"] == [22.0]


def loaded_model(file: Path) -> dict[str, list[float]]:
    model = load_app(file).trainer.initial_model(np.random.default_rng(0))
    return {name: array.tolist() for name, array in model.items()}


def test_a_module_beside_an_app_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "app.py", "import hansa, secret\napp = hansa.App()\n")
    secret = write(tmp_path / "secret.py", "")

    def refused(path: Path) -> bytes:
        if path == secret:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        with path.open("rb") as file:
            return file.read()

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(AppError, match=r"secret\.py cannot be read \(Permission denied\), and the app needs it"):
        load_app(file)


def test_a_module_that_was_changed_within_a_second_is_not_taken_from_its_bytecode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = write(
        tmp_path / "app.py", "import hansa, rate\napp = hansa.App()\napp.model(lambda rng: {'w': [rate.ONE]})\n"
    )
    module = tmp_path / "rate.py"

    def loaded(text: str, written: float, taken: float) -> list[float]:
        """written, taken: in a second of its own, when the text was, and when its bytecode is to have been."""
        write(module, text)
        os.utime(module, ns=(int((1.7e9 + written) * 1e9),) * 2)
        found = load_app(file).trainer.initial_model(np.random.default_rng(0))["w"].tolist()
        os.utime(cache_from_source(str(module)), ns=(int((1.7e9 + taken) * 1e9),) * 2)
        return found

    assert loaded("ONE = 1.0\n", 0.1, 0.2) == [1.0]
    assert loaded("ONE = 2.0\n", 0.5, 0.6) == [2.0]


def test_loading_an_app_of_functions_loads_no_framework(tmp_path: Path) -> None:
    file = write(tmp_path / "app.py", APP % "1.0")
    program = f"import sys; from hansa.app import load_app; load_app({str(file)!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "sklearn", "grpc", "sqlalchemy", "fastapi"} & set(loaded)
