"""A package's lock file: the requirements of an app, each with its one version and the hashes of its files.

It is what `pip-compile --generate-hashes` and `uv pip compile --generate-hashes` write, and nothing that would let a
package choose where a site installs from: no option, no address, no path, no other file.
"""

import re
from collections.abc import Iterator
from typing import Final

from hansa.errors import AppError

__all__ = ["check_lock"]

_LINE: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*"  # a name
    r"(\[[A-Za-z0-9._, -]+\])?"  # extras
    r"\s*==\s*[A-Za-z0-9.!+_-]+"  # one version
    r"(\s*;((?!--)[\w.,'\"()<>=!~+ -])*)?"  # an environment marker
    r"(\s+--hash=sha(256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128}))+"
)


def check_lock(content: bytes, name: str) -> tuple[str, ...]:
    """The requirements of a lock file, without hashes. Raises `AppError` that quotes the first line that is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise AppError(f"{name} is not text: {error}") from error
    found = []
    for line in _lines(text):
        if not _LINE.fullmatch(" ".join(line.split())):  # of a run of spaces the pattern would try every share
            raise AppError(
                f"{name} holds {line[:200]!r}; a lock file has lines NAME==VERSION --hash=sha256:… and nothing else, "
                "as `pip-compile --generate-hashes` writes it: where packages come from is the site's to say"
            )
        found.append(line.partition("--hash=")[0].strip())
    return tuple(found)


def _lines(text: str) -> Iterator[str]:
    """Logical lines: without comments, those that end in a backslash joined with the next."""
    pending = ""
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).rstrip()
        pending += line.removesuffix("\\")
        if not line.endswith("\\"):
            if pending.strip():
                yield pending.strip()
            pending = ""
    if pending.strip():
        yield pending.strip()
