"""Passwords: hashed with argon2id (RFC 9106), in a thread, a few at once."""

import asyncio
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from hansa.errors import InputError

__all__ = ["Passwords"]

_SHORTEST: Final = 10
_LONGEST: Final = 1000
"""Characters: a longer one would only be work for the server."""
_AT_ONCE: Final = 2
"""Each takes 64 MiB for as long as it runs."""


class Passwords:
    """Makes hashes, and compares passwords with them, in the same time whether there is an account or not."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        """hasher: None: with the parameters that the library's release recommends; a hash names its own."""
        self._hasher = hasher or PasswordHasher()
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def hash(self, password: str) -> str:
        """What is kept of a password; raises `InputError` for one that is too short or too long."""
        if not _SHORTEST <= len(password) <= _LONGEST:
            raise InputError(f"a password has {_SHORTEST} to {_LONGEST} characters; this one has {len(password)}")
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, password.encode("utf-8", "surrogatepass"))

    async def matches(self, kept: str, password: str) -> bool:
        """Whether a password is the one that was hashed. kept: empty where there is none, which takes as long."""
        async with self._turn:
            return await asyncio.to_thread(self._verify, kept, password)

    def _verify(self, kept: str, password: str) -> bool:
        typed = password[:_LONGEST].encode("utf-8", "surrogatepass")
        if not kept:
            self._hasher.hash(typed)
            return False
        try:
            return self._hasher.verify(kept, typed)
        except (VerificationError, InvalidHashError):
            return False
