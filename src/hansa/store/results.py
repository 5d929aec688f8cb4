"""Folders that hold what runs of an app came to: no part of the app, also where they lie in its folder."""

from pathlib import Path
from typing import Final

from hansa.store.disk import explained, make_directory, write_whole

__all__ = ["are_results", "mark_results"]

_MARK: Final = ".hansa-results"


def mark_results(folder: Path) -> None:
    """Say of a folder that it holds such; it is made where it is not there. Raises `StorageError`."""
    if not are_results(folder):
        with explained("write", folder / _MARK):
            make_directory(folder)
            write_whole(folder / _MARK, b"What runs of an app came to; packages of the app leave it out.\n", 0o644)


def are_results(folder: Path) -> bool:
    """Whether it was said of a folder."""
    return (folder / _MARK).is_file()
