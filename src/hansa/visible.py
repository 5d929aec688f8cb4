"""Text of strangers as a person may see it: nothing in it moves a cursor, hides a word or begins a line of its own.

Labels of a client, the reason of a failure, what an app prints: all of it reaches terminals and logs of somebody else,
where control characters would be obeyed (ECMA-48), and marks of direction would show words in another order.
"""

from typing import Final

__all__ = ["in_json", "visible"]

_CONTROLS: Final = frozenset((*range(0x20), *range(0x7F, 0xA0)))
_DIRECTIONS: Final = frozenset((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
_BREAKS: Final = frozenset((0x2028, 0x2029))
_SURROGATES: Final = range(0xD800, 0xE000)
_LINES: Final = frozenset(map(ord, "\n\t"))


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - two digits and no more


_WORDS: Final = {code: _escaped(code) for code in (*_CONTROLS, *_DIRECTIONS, *_BREAKS, *_SURROGATES)}
_PARAGRAPHS: Final = {code: escaped for code, escaped in _WORDS.items() if code not in _LINES}
_JSON: Final = {code: f"\\u{code:04x}" for code in _WORDS if code >= 0x20}  # noqa: PLR2004 - JSON escapes those below


def visible(text: str, *, lines: bool = False) -> str:
    """The text with control characters and marks of direction as escapes, such as the letters x1b after a backslash.

    lines: newlines and tabs stay, for what may have several lines.
    """
    return text.translate(_PARAGRAPHS if lines else _WORDS)


def in_json(document: str) -> str:
    """A JSON document with the same characters as escapes of JSON, so that it means the same."""
    return document.translate(_JSON)
