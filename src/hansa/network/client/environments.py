"""Virtual environments from the lock files of packages: built once, kept by the digest of the lock file.

Only wheels are installed, each with a hash of the lock file: installing runs no code of theirs. Where they come from is
the owner's pip configuration. What the owner's own environment has (hansa, PyTorch) is there too, behind them.
"""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Final

from blake3 import blake3

from hansa.errors import UserCodeError
from hansa.settings import environment_for_user_code
from hansa.store.disk import explained, make_directory, sync_directory

__all__ = ["environment_with", "python_of"]

_KEPT: Final = 8
"""Environments that stay; the one that was used least recently goes first."""
_STAMP: Final = "complete"
"""The file without which an environment is half built, and is built again."""
_PATIENCE: Final = 3600.0
"""Seconds for pip."""


def environment_with(lock: bytes, folder: Path) -> Path:
    """An environment with these requirements, built in the folder unless it is there.

    Raises `UserCodeError` with what pip said, and `StorageError`.
    """
    interpreter = f"{sys.version}\n{sys.base_prefix}\n{sys.prefix}\n".encode()
    place = folder / blake3(interpreter + lock).hexdigest()[:32]
    with explained("build the environment of a package in", place):
        if not (place / _STAMP).exists():
            _build(lock, place)
            _forget(folder, place)
        os.utime(place / _STAMP)
    return place


def _build(lock: bytes, place: Path) -> None:
    """Build it where it stays, as scripts name its path; the stamp is the last that is written."""
    shutil.rmtree(place, ignore_errors=True)
    make_directory(place)
    venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False).create(place)
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary) / "requirements.lock"
        requirements.write_bytes(lock)
        _pip_install(python_of(place), requirements)
    ours = [path for path in (*site.getsitepackages(), sysconfig.get_path("purelib")) if Path(path).is_dir()]
    purelib = Path(sysconfig.get_path("purelib", "venv", {"base": str(place), "platbase": str(place)}))
    lines = [f"import site; site.addsitedir({path!r})" for path in dict.fromkeys(ours)]
    (purelib / "zz_hansa_behind.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sync_directory(place)
    (place / _STAMP).touch()
    sync_directory(place)


def _pip_install(python: Path, requirements: Path) -> None:
    command = [
        *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "-r", str(requirements)),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - pip, without a shell
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            env=environment_for_user_code(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserCodeError(f"the package's requirements were not installed in {_PATIENCE:g} seconds") from error
    if done.returncode:
        said = done.stderr.strip()
        errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-1:]
        raise UserCodeError(
            f"the package's requirements cannot be installed here: {' '.join(errors)[:1000] or 'pip said nothing'}; "
            "its lock file must have a wheel for this Python and machine, and name every dependency",
            said,
        )


def python_of(place: Path) -> Path:
    """The interpreter of an environment."""
    return place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _forget(folder: Path, newest: Path) -> None:
    def used(place: Path) -> float:
        stamp = place / _STAMP
        return stamp.stat().st_mtime if stamp.exists() else 0.0

    others = sorted((place for place in folder.iterdir() if place.is_dir() and place != newest), key=used)
    for place in others[: max(0, len(others) - _KEPT + 1)]:
        shutil.rmtree(place, ignore_errors=True)
