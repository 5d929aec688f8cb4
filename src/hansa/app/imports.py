"""What an app imports of the modules beside its file: they belong to it, as its own text does.

It is found in their text, and not by running it; what is imported by a name that is only known then is not found.
"""

import ast
import importlib.util
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

from hansa.errors import AppError

__all__ = ["forget_changed", "imported_names", "modules_beside"]

Stamp: TypeAlias = "tuple[int, int]"
"""When a file was written, in ns, and its bytes."""

_BYTECODE: Final = struct.Struct("<4s3I")
"""How a file of bytecode begins (PEP 552): magic number, flags, and the seconds and bytes of its source."""


def modules_beside(app: Path) -> Mapping[str, Path]:
    """Path from the app's folder, with slashes → file, of all modules there that the app's file needs.

    What is no Python imports nothing. Raises `AppError` for a file that cannot be read.
    """
    found: dict[str, Path] = {}
    left = [(app, "")]
    while left:
        file, package = left.pop()
        with _readable(file):
            for name in imported_names(file, package):
                for relative, parent in _places(app.parent, name):
                    module = app.parent / relative
                    if relative not in found and module != app:
                        found[relative] = module
                        left.append((module, parent))
    return dict(sorted(found.items()))


def imported_names(file: Path, package: str) -> tuple[str, ...]:
    """Names of modules that a file of this package may import; some are of things in modules. package: empty for none.

    Raises `OSError` where it cannot be read.
    """
    status = file.stat()
    return _imported(file, (status.st_mtime_ns, status.st_size), package)


def forget_changed(app: Path) -> None:
    """Have the modules beside an app imported anew where any of them was written since the last call for this app.

    At the first call: since somebody else imported it, as far as its bytecode tells. Raises as `modules_beside`.
    """
    stamps = {}
    for file in modules_beside(app).values():
        with _readable(file):
            stamps[file] = _stamp(file)
    before = _seen.get(app, {})
    loaded = {name: getattr(getattr(module, "__spec__", None), "origin", None) for name, module in sys.modules.items()}
    there = set(loaded.values())
    changed = [
        file
        for file, stamp in stamps.items()
        if (before[file] != stamp if file in before else str(file) in there and _is_not_its_bytecodes(file, stamp))
    ]
    for file in stamps:
        _forget_bytecode(file)
    if changed:
        own = {str(file) for file in {*before, *stamps}}
        for name in [name for name, origin in loaded.items() if origin in own]:
            del sys.modules[name]
    _seen[app] = stamps


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Raise `AppError` for what the system does not let be read."""
    try:
        yield
    except OSError as error:
        raise AppError(
            f"{error.filename or file} cannot be read ({error.strerror or error}), and the app needs it: see that this "
            "user may read it"
        ) from error


def _is_not_its_bytecodes(module: Path, stamp: Stamp) -> bool:
    """Whether its text is another than the one of which Python has kept the bytecode when it was imported."""
    try:
        with Path(importlib.util.cache_from_source(str(module))).open("rb") as file:
            _, flags, seconds, size = _BYTECODE.unpack(file.read(_BYTECODE.size))
    except (OSError, struct.error):  # there is none: nothing tells
        return False
    mtime, length = stamp
    return not flags and (seconds, size) != (mtime // 10**9 & 0xFFFFFFFF, length & 0xFFFFFFFF)


def _forget_bytecode(module: Path) -> None:
    """Python takes a module's bytecode for as new as its text where both are of one second and one size."""
    bytecode = Path(importlib.util.cache_from_source(str(module)))
    with suppress(OSError):  # there is none, or it is not ours to remove
        if bytecode.stat().st_mtime_ns < module.stat().st_mtime_ns:
            bytecode.unlink()


_seen: dict[Path, dict[Path, Stamp]] = {}


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _places(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """The files of a module and of the packages above it, and the package in which each of them imports."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        here, dotted = "/".join(parts[:length]), ".".join(parts[:length])
        if (folder / here / "__init__.py").is_file():
            yield f"{here}/__init__.py", dotted
        elif (folder / f"{here}.py").is_file():
            yield f"{here}.py", dotted.rpartition(".")[0]


@cache
def _imported(file: Path, _stamp: Stamp, package: str) -> tuple[str, ...]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ()
    return tuple(_names(tree, package))


def _names(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and (not package or node.level > package.count(".") + 1):  # it would be refused
                continue
            start = importlib.util.resolve_name("." * node.level, package) if node.level else ""
            source = ".".join(filter(None, (start, node.module)))
            yield source
            yield from (f"{source}.{each.name}" for each in node.names)
