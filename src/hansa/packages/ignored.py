"""What a package leaves out: the patterns of a `.hansaignore`, one on a line, as in a `.gitignore`.

`*` and `?` stand for letters of one name, `**` for any folders. A pattern with a slash in it, but for one at its end,
is of the path from the folder, any other of a name at any depth; one that ends with a slash is of folders alone; one
that begins with `!` takes in again what an earlier one has left out. Empty lines, and those that begin with `#`, mean
nothing. Other patterns of a `.gitignore` are refused: what they name must not travel in silence.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from hansa.errors import AppError

__all__ = ["IGNORED", "ignored"]

IGNORED: Final = ".hansaignore"
"""The file's name, in the folder that is packed."""
_UNKNOWN: Final = frozenset("[]\\")


def ignored(folder: Path) -> Callable[[str], bool]:
    """Path of a file from the folder, with slashes → whether it is left out. Raises `AppError`."""
    file = folder / IGNORED
    if not file.exists():
        return lambda _path: False
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AppError(f"{file} cannot be read: {error}") from error
    rules = [_rule(line.strip()) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return lambda path: _is_left_out(path, rules)


def _is_left_out(path: str, rules: Iterable[tuple[re.Pattern[str], bool]]) -> bool:
    """The last pattern that is of the file, or of a folder above it, decides."""
    left_out = False
    for pattern, leaves_out in rules:
        if pattern.fullmatch(path):
            left_out = leaves_out
    return left_out


def _rule(line: str) -> tuple[re.Pattern[str], bool]:
    """(what a line is of, whether that is left out). Raises `AppError` for what only a `.gitignore` knows."""
    if set(line) & _UNKNOWN:
        raise AppError(
            f"{IGNORED} has the line {line!r}: of patterns it knows `*`, `?`, `**` and `!` and no brackets or "
            "backslashes; write a line for each name, or nothing of it would be left out"
        )
    pattern = line.removeprefix("!")
    only_folders = pattern.endswith("/")
    parts = pattern.strip("/")
    begins = "" if "/" in pattern.rstrip("/") else "(.*/)?"
    ends = "/.*" if only_folders else "(/.*)?"
    return re.compile(begins + _translated(parts) + ends), not line.startswith("!")


def _translated(pattern: str) -> str:
    made = ""
    for piece in re.findall(r"(?:^|/)\*\*/|/\*\*$|\*\*|\*|\?|[^*?/]+|/", pattern):
        match piece:
            case "**/":
                made += "(.*/)?"
            case "/**/":
                made += "/(.*/)?"
            case "/**":
                made += "/.*"
            case "**":
                made += ".*"
            case "*":
                made += "[^/]*"
            case "?":
                made += "[^/]"
            case _:
                made += re.escape(piece)
    return made
