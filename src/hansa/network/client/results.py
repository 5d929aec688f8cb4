"""What a party's program has left to it: a file in the client's own folder, which goes nowhere else."""

import re
from pathlib import Path
from typing import Final

from hansa.errors import WireError
from hansa.network.files import opened
from hansa.programs.encoding import named
from hansa.programs.ending import file_name
from hansa.store.disk import explained, make_directory, write_whole

__all__ = ["keep_result", "result_in", "results_of"]

_RESULTS: Final = "results"
"""The folder in a client's own, with one folder for each session."""

_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""A server may name a session as it likes, and people look for its results by that name."""


def results_of(work: Path, session: str) -> Path:
    """Where a session's results are kept. work: the client's folder; raises `WireError` for what could be a path."""
    if not _SESSION.fullmatch(session):
        raise WireError(f"a session is called {session[:80]!r}, which names no folder: no result of it could be kept")
    return work / _RESULTS / session


def result_in(left: Path) -> tuple[str, memoryview] | None:
    """(how its file is called, a safetensors file) of the encoded result that a worker process has left; None: none.

    Raises `WireError` for a name that no message has.
    """
    try:
        frame = opened(left)
    except FileNotFoundError:
        return None
    return file_name(frame), named(frame)[1]


def keep_result(left: Path, folder: Path) -> Path | None:
    """Keep a result in a session's folder; returns the file. Raises `StorageError`."""
    with explained("keep a result in", folder):
        found = result_in(left)
        if found is None:
            return None
        name, tensors = found
        make_directory(folder)
        write_whole(folder / name, tensors)
        return folder / name
