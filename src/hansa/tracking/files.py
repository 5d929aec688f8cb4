"""Trackers that write a file, which is up to date after each round: comma-separated values, or JSON lines."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from hansa.errors import ConfigError
from hansa.messages import RunSpec
from hansa.store.disk import explained

__all__ = ["CsvFile", "JsonLines"]


class _File:
    """A new file, in place of an older one."""

    def __init__(self, target: str) -> None:
        """target: its path."""
        if not target:
            raise ConfigError("a tracker that writes a file needs its path, for example csv:out.csv")
        self._path = Path(target)
        self._file: TextIO | None = None

    def _open(self) -> None:
        with explained("write", self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")

    def _write(self, text: str) -> None:
        if self._file is not None:
            with explained("write", self._path):
                self._file.write(text)
                self._file.flush()

    def end(self, *, failed: bool) -> None:
        """See `hansa.tracking.Tracker`."""
        del failed
        if self._file is not None:
            self._file.close()


class CsvFile(_File):
    """`csv:PATH`: a line per number, `round,metric,value`: metrics may begin to be measured at any round."""

    def begin(self, spec: RunSpec, clients: int) -> None:
        """See `hansa.tracking.Tracker`."""
        del spec, clients
        self._open()
        self._write("round,metric,value\n")

    def round(self, number: int, metrics: Mapping[str, float]) -> None:
        """See `hansa.tracking.Tracker`."""
        self._write("".join(f"{number},{_quoted(name)},{value!r}\n" for name, value in metrics.items()))


class JsonLines(_File):
    """`jsonl:PATH`: an object per line, first the run, then each round; null for what is not finite."""

    def begin(self, spec: RunSpec, clients: int) -> None:
        """See `hansa.tracking.Tracker`."""
        self._open()
        self._write(json.dumps({"run": asdict(spec), "clients": clients}) + "\n")

    def round(self, number: int, metrics: Mapping[str, float]) -> None:
        """See `hansa.tracking.Tracker`."""
        plain = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._write(json.dumps({"round": number, **plain}) + "\n")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(sign in name for sign in ',"\n\r') else name
