"""What no line of hansa does, whoever asks: unpickle, load code by a name from the wire, start a shell, fetch a URL."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "hansa"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "_generated" not in path.parts)

UNPICKLES = frozenset(
    {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle"}
)
RUNS_TEXT = frozenset({"eval", "exec", "__import__"})
LOADS_OBJECTS = frozenset({"torch.load", "np.load", "numpy.load", "torch.jit.load", "joblib.load"})
STARTS_A_SHELL = frozenset(
    {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"}
)
FETCHES = frozenset({"urllib.request", "requests", "aiohttp", "http.client", "urllib3", "ftplib"})
CALLS_OUT = frozenset({"api/transport.py", "network/controller/openid.py"})
"""The Python client of the REST API, and the OpenID provider that the operator has set."""
RUNS_CODE = frozenset({"compat/fedn/functions.py"})
"""Part of an app, in the process of a package's code: a FEDn session's functions come as text."""
BY_NAME = frozenset({"__init__.py"})
"""The front page, whose names are a closed table."""


def flaws(text: str, where: str) -> Iterator[str]:
    """What a module does that it may not."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names):
                yield from _imports([alias.name for alias in names], where)
            case ast.ImportFrom(module=str(module), names=names):
                yield from _imports([module, *(f"{module}.{alias.name}" for alias in names)], where)
            case ast.Call(func, keywords=keywords):
                yield from _calls(ast.unparse(func), keywords, where)
            case _:
                pass


def _imports(names: list[str], where: str) -> Iterator[str]:
    for name in names:
        if name.partition(".")[0] in UNPICKLES:
            yield f"imports {name}"
        if any(name == each or name.startswith(f"{each}.") for each in FETCHES):
            yield f"fetches with {name}"
        if name.partition(".")[0] == "httpx" and where not in CALLS_OUT:
            yield f"fetches with {name}"


def _calls(name: str, keywords: list[ast.keyword], where: str) -> Iterator[str]:
    if name in LOADS_OBJECTS | STARTS_A_SHELL or (name in RUNS_TEXT and where not in RUNS_CODE):
        yield f"calls {name}"
    if name.rpartition(".")[2] == "import_module" and where not in BY_NAME:
        yield f"calls {name}"
    for keyword in keywords:
        if keyword.arg in {"shell", "allow_pickle"} and not (
            isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        ):
            yield f"calls {name} with {keyword.arg}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_module_unpickles_runs_text_starts_a_shell_or_fetches(path: Path) -> None:
    where = str(path.relative_to(SOURCE))
    assert list(flaws(path.read_text(encoding="utf-8"), where)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "import yaml",
        "from urllib import request",
        "import urllib.request as fetch",
        "import httpx",
        "x = eval('1')",
        "import torch\ntorch.load('x')",
        "np.load(file, allow_pickle=True)",
        "read(file, allow_pickle=flag)",
        "os.system('ls')",
        "subprocess.run(line, shell=True)",
        "importlib.import_module(message.kind)",
    ],
)
def test_each_of_these_would_be_found(text: str) -> None:
    assert list(flaws(text, "somewhere.py"))
