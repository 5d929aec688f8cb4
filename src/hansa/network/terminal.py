"""Text of strangers where people read it, a terminal or a log: it moves no cursor, hides nothing and forges no line."""

import re
from typing import Final

__all__ = ["harmless", "in_a_line"]

_ALWAYS: Final = "\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
"""Control characters but for tabs, ends of lines and ESC; and those that turn the direction of text."""
_HARMFUL: Final = re.compile(rf"[{_ALWAYS}]|\x1b(?!\[[0-9;]*m)")
_HARMFUL_IN_A_LINE: Final = re.compile(f"[{_ALWAYS}\x1b]")
_UNDER: Final = "\n    "


def harmless(text: str) -> str:
    r"""The text with what a terminal would obey written out (`\x1b`), but for colours and ends of lines."""
    return _HARMFUL.sub(_written_out, text)


def in_a_line(text: str) -> str:
    """The same for a log: without colours, and with further lines indented below the first, so that none is its own."""
    return _HARMFUL_IN_A_LINE.sub(_written_out, text).replace("\n", _UNDER)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
