"""What a worker ends with: its result as a file that any tool reads, and the numbers in it; and its last word.

A result is a registered message. Its file is a safetensors file with the tensors of `encoding`: a field is a tensor of
its name, a field of `Arrays` one tensor for each, as `model/layer.weight`. The file is called as the message is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hansa.arrays import Arrays
from hansa.errors import InputError, WireError
from hansa.programs.encoding import decode, head, named
from hansa.protocols.message import NAME, message

__all__ = ["SUFFIX", "End", "file_name", "load", "numbers"]

SUFFIX: Final = ".safetensors"


@message("program.end")
@dataclass(frozen=True, slots=True)
class End:
    """A worker's last word, on the network: it has ended, and what it has read by then."""

    read: np.ndarray
    """Messages by sender, shape (workers,), int64."""
    metrics: Arrays
    """Numbers of its result that may be told, each of shape ()."""


def file_name(frame: bytes | memoryview) -> str:
    """How the file of an encoded result is called, for example `split.top.safetensors`; raises `WireError`."""
    name, _ = named(frame)
    if not NAME.fullmatch(name):
        raise WireError(f"a result is called {name[:80]!r}, which no message can be")
    return name + SUFFIX


def load(path: str | Path) -> Any:
    """A worker's result from its file, which must be called as the network has called it.

    Raises `WireError` where it holds something else, `InputError` for another name.
    """
    file = Path(path)
    if file.suffix != SUFFIX:
        raise InputError(f"{file} is not called NAME{SUFFIX}, after the message that it holds")
    return decode(head(file.stem) + file.read_bytes())


def numbers(result: Any) -> Mapping[str, float]:
    """The numbers in a result, by field: an int, a float, and the last of a series, for example of losses."""
    found: dict[str, float] = {}
    for name in getattr(result, "__dataclass_fields__", ()):
        match getattr(result, name):
            case bool():
                pass
            case int() | float() as number:
                found[name] = float(number)
            case np.ndarray(dtype=np.dtype(kind="f"), shape=(length,)) as series if length:
                found[name] = float(series[-1])
            case _:
                pass
    return found
