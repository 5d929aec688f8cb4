"""A gate that cannot fail guards nothing: each is shown something bad here."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

VIOLATIONS = {
    "layers": ("arrays.py", "from hansa.messages import Update"),
    "network": ("network/client/__init__.py", "import hansa.network.combiner"),
    "acyclic": ("errors.py", "from hansa.arrays import Arrays"),
    "pure": ("rounds/__init__.py", "import time"),
    "generated": ("store/__init__.py", "import hansa.wire._generated"),
    "generated-fedn": ("cli/up.py", "import hansa.compat.fedn._generated"),
    "front-page": ("run.py", "import hansa"),
    "settings": ("run.py", "import hansa.settings"),
    "testing": ("run.py", "import hansa.testing"),
    "torch": ("run.py", "import torch"),
    "jax": ("run.py", "import jax"),
    "xgboost": ("run.py", "import xgboost"),
    "formats": ("run.py", "import h5py"),
    "mpi": ("run.py", "import mpi4py"),
    "ray": ("run.py", "import ray"),
    "traces": ("store/lines.py", "import opentelemetry.trace"),
    "sql": ("run.py", "import sqlalchemy"),
    "web": ("run.py", "import fastapi"),
}
"""One line per contract that breaks it: contract id → (module, line)."""


@pytest.fixture(scope="module")
def gates(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("gates")


def test_the_code_passes_its_gates(gates: ModuleType) -> None:
    assert list(gates.broad_except_findings(gates.SOURCE)) == []
    assert list(gates.closure_findings(gates.loaded_by("hansa.algorithms.fedavg"))) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("except:", ""),
        ("except Exception:", ""),
        ("except BaseException as error:  # noqa: BLE001", ""),
        (
            "except (ValueError, Exception):  # noqa: BLE001 - a plug-in may raise anything",
            "a plug-in may raise anything",
        ),
        ("except builtins.Exception:  # the outermost loop reports", "the outermost loop reports"),
    ],
)
def test_every_spelling_of_a_broad_except_is_found_with_its_reason(gates: ModuleType, line: str, reason: str) -> None:
    (broad,) = gates.broad_excepts(f"try:\n    work()\n{line}\n    report()\n")
    assert (broad.line, broad.reason) == (3, reason)


def test_a_suppressed_exception_is_a_broad_except(gates: ModuleType) -> None:
    assert len(gates.broad_excepts("with contextlib.suppress(Exception):\n    work()\n")) == 1


def test_an_expected_error_is_not_broad(gates: ModuleType) -> None:
    assert gates.broad_excepts("try:\n    work()\nexcept (OSError, ValueError):\n    report()\n") == []


def test_broad_excepts_are_refused_without_a_reason_and_beyond_their_rate(gates: ModuleType, tmp_path: Path) -> None:
    body = "try:\n    work()\nexcept Exception:{}\n    report()\n"
    (tmp_path / "plain.py").write_text(body.format(""))
    (tmp_path / "reasoned.py").write_text(body.format("  # the outermost loop reports"))
    without_reason, rate = gates.broad_except_findings(tmp_path)
    assert "plain.py:3" in without_reason
    assert rate.startswith("2 broad excepts in 8 lines")
    assert gates.allowed_broad_excepts(10_000) == 3


def test_an_import_closure_of_nine_modules_is_refused(gates: ModuleType) -> None:
    assert list(gates.closure_findings([f"hansa.m{i}" for i in range(8)])) == []
    (finding,) = gates.closure_findings([f"hansa.m{i}" for i in range(9)])
    assert finding.startswith("FedAvg loads 9 modules, 8 are allowed")


def test_every_import_contract_breaks_when_it_is_violated(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, line in VIOLATIONS.values():
        with (tmp_path / "src" / "hansa" / module).open("a") as file:
            file.write(f"\n{line}\n")
    (tmp_path / "src" / "hansa" / "drawer.py").write_text('"""A room that nobody drew."""\n')

    output = _lint_imports(tmp_path)

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["id"] for contract in contracts} == set(VIOLATIONS)
    for contract in contracts:
        assert f"{contract['name']} BROKEN" in output
    assert "hansa.drawer" in output


def _lint_imports(folder: Path) -> str:
    """The output of lint-imports on another copy of the source, as one line of plain words."""
    script = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [script, "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(folder / "src"), "NO_COLOR": "1", "COLUMNS": "500", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return re.sub(r"\s+", " ", done.stdout)
