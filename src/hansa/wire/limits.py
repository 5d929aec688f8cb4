"""How much a peer may say at once: bounds on what decoding can allocate."""

from typing import Final

from hansa.errors import WireError

__all__ = [
    "MAX_DEPTH",
    "MAX_DOCUMENT",
    "MAX_ENTRIES",
    "MAX_FRAME",
    "MAX_ITEMS",
    "MAX_LETTER",
    "MAX_NAME",
    "MAX_TEXT",
    "check_length",
]

MAX_FRAME: Final = 16 * 1024 * 1024
"""Bytes of a frame: a partial sum's offer with some 50,000 contributions, each of them signed."""
MAX_DOCUMENT: Final = 1 << 20
"""Bytes of one prediction."""
MAX_LETTER: Final = 1 << 30
"""Bytes of a letter between two parties of a program."""
MAX_ITEMS: Final = 100_000
"""Members of a list."""
MAX_ENTRIES: Final = 1_000
"""Entries of a mapping, and values of a whole configuration."""
MAX_DEPTH: Final = 16
"""Lists and mappings inside each other in a configuration."""
MAX_NAME: Final = 4_096
"""Characters of a name, an address or a key."""
MAX_TEXT: Final = 65_536
"""Characters of text for people."""


def check_length(length: int, limit: int, where: str) -> None:
    """Raise `WireError` for a length beyond its limit. where: the field, as Class.field."""
    if length > limit:
        raise WireError(f"{where} has the length {length}, more than {limit}")
