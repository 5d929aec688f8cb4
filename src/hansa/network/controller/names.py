"""What may name a project, a session, a person or a node."""

from typing import Final

from hansa.errors import ConfigError

__all__ = ["checked_name"]

_LIMIT: Final = 100


def checked_name(text: str, what: str) -> str:
    """A name that is safe in a URL, a log line and a table; raises `ConfigError`. what: a noun for the error."""
    if not 1 <= len(text) <= _LIMIT or not all(letter.isalnum() or letter in "._-" for letter in text):
        raise ConfigError(f"{text[:_LIMIT]!r} cannot name a {what}: use 1 to {_LIMIT} letters, digits, '.', '_' or '-'")
    if not text.isascii() or text.startswith("."):
        raise ConfigError(f"{text!r} cannot name a {what}: use ASCII letters, and no dot first")
    return text
