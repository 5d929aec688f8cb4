"""Logging in with a name and a password: throttled, and silent about which names there are."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hansa.errors import AuthenticationError, NotFoundError, ThrottledError
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.passwords import Passwords
from hansa.network.controller.people import People
from hansa.network.controller.throttle import Throttle
from hansa.store.records import INSTALLATION, AccountRecord, TokenRecord
from hansa.wire.tokens import Identity

__all__ = ["HOLDS", "Logins"]

HOLDS: Final = 12 * 3600.0
"""Seconds for which a login's token holds."""
_CODE_HOLDS: Final = 600.0
"""Seconds in which a code is to be used."""
_MOST_CODES: Final = 1000
"""Codes that are waited for at once; the oldest are forgotten first."""
_WINDOW: Final = 900.0
"""Seconds in which failed attempts are counted."""
_MOST_OF_ACCOUNT: Final = 5
_MOST_OF_ADDRESS: Final = 30
"""Higher: many people can come from one address."""
_UNKNOWN: Final = "(an unknown name)"
"""In the audit record: what was typed may be a password in the wrong place."""
_LONGEST: Final = 100
"""Characters of a name that are remembered: no account has more."""


@dataclass(frozen=True, slots=True)
class _Code:
    name: str
    """Whom it logs in."""
    until: float
    """On the clock."""
    asked_with: Identity | None


class Logins:
    """From a name and a password to a token that holds for some hours."""

    def __init__(
        self, people: People, clock: Callable[[], float] = time.monotonic, passwords: Passwords | None = None
    ) -> None:
        """clock: seconds; it never goes back. passwords: how they are hashed; None: as is recommended."""
        self._people = people
        self._clock = clock
        self._passwords = passwords or Passwords()
        self._by_account = Throttle(_MOST_OF_ACCOUNT, _WINDOW)
        self._by_address = Throttle(_MOST_OF_ADDRESS, _WINDOW)
        self._told = Throttle(1, _WINDOW)
        """Of one that is slowed down one line is kept in the window: the record does not grow with the attempts."""
        self._codes: dict[str, _Code] = {}
        """By their hashes, oldest first."""

    async def log_in(self, name: str, password: str, address: str) -> tuple[str, TokenRecord]:
        """A token for a person; address: of the network, where the attempt comes from.

        Raises `AuthenticationError`, the same whatever was wrong, and `ThrottledError` after too many attempts.
        """
        account = await self._proven(name, password, address)
        return await self._people.issue(account.id, called="login", expires_in=HOLDS, action="login")

    async def make_code(self, name: str, asked_with: Identity | None = None) -> tuple[str, float]:
        """(a code that logs this person in once, the POSIX time until which it does): for a browser of theirs.

        asked_with: the holder of a token, with which the code ends, and what it logs in; None: the server itself asks.
        """
        code, now = secrets.token_urlsafe(24), self._clock()
        self._codes = {key: kept for key, kept in self._codes.items() if kept.until > now}
        while len(self._codes) >= _MOST_CODES:
            del self._codes[next(iter(self._codes))]
        self._codes[_hashed(code)] = _Code(name, now + _CODE_HOLDS, asked_with)
        by = SERVER if asked_with is None else name
        await self._people.note(audit_line(INSTALLATION, by, "login.code", name))
        return code, time.time() + _CODE_HOLDS

    async def log_in_by_code(self, code: str, address: str) -> tuple[str, TokenRecord]:
        """A token for whom a code was made for; raises `AuthenticationError` for one that is spent or too old."""
        now = self._clock()
        if (wait := self._by_address.wait(address, now)) > 0:
            raise ThrottledError(f"there were too many attempts to log in: wait {wait:.0f} seconds", wait=wait)
        self._by_address.count(address, now)
        found = self._codes.pop(_hashed(code), None)
        lasts = await self._lasts(found) if found is not None and found.until > now else 0.0
        if found is None or lasts <= 0:
            who = found.name if found is not None else _UNKNOWN
            await self._people.note(audit_line(INSTALLATION, who, "login", who, outcome="failed", detail=address))
            raise AuthenticationError(
                "this link to log in was used already, is older than ten minutes, or whoever made it is logged out: "
                "`hansa studio` makes another"
            )
        self._by_address.forgive(address)
        return await self._people.issue(found.name, called="studio", expires_in=lasts, action="login")

    async def _lasts(self, code: "_Code") -> float:
        """Seconds for which a login by this code holds; 0: it logs nobody in (any more)."""
        try:
            if (await self._people.account(code.name)).disabled:
                return 0.0
            return HOLDS if code.asked_with is None else (await self._people.bounds(code.asked_with)).login(HOLDS)
        except (AuthenticationError, NotFoundError):
            return 0.0

    async def change_password(self, name: str, current: str, new: str, address: str, keep: str) -> AccountRecord:
        """Another password for who knows the current one; keep: the id of the token that goes on to hold."""
        await self._proven(name, current, address)
        return await self.set_password(name, new, keep, by=name)

    async def set_password(self, name: str, new: str, keep: str = "", by: str = SERVER) -> AccountRecord:
        """Another password, whatever the current one is; what was logged in with that is logged out."""
        return await self._people.keep_password(name, await self._passwords.hash(new), keep, by)

    async def create_account(
        self, name: str, password: str, *, admin: bool = False, by: str = SERVER, subject: tuple[str, str] | None = None
    ) -> AccountRecord:
        """A person who may log in. password: empty: not until they are given one; subject: see `People`."""
        hashed = await self._passwords.hash(password) if password else ""
        return await self._people.create_account(name, admin=admin, password=hashed, by=by, subject=subject)

    async def _proven(self, name: str, password: str, address: str) -> AccountRecord:
        """The account, when it is enabled and the password is its own."""
        keys = ((self._by_account, name[:_LONGEST]), (self._by_address, address))
        now = self._clock()
        wait = max(throttle.wait(key, now) for throttle, key in keys)
        if wait > 0:
            await self._note_throttled(name[:_LONGEST], address, now)
            raise ThrottledError(
                f"there were too many attempts to log in: wait {wait:.0f} seconds, then try again", wait=wait
            )
        for throttle, key in keys:
            throttle.count(key, now)
        try:
            account = await self._people.account(name)
        except NotFoundError:
            account = None
        kept = "" if account is None or account.disabled else account.password
        if not await self._passwords.matches(kept, password) or account is None:
            who = account.id if account is not None else _UNKNOWN
            await self._people.note(audit_line(INSTALLATION, who, "login", who, outcome="failed", detail=address))
            raise AuthenticationError("name and password do not fit together, or the account is disabled")
        self._by_account.clear(name)
        self._by_address.forgive(address)
        return account

    async def _note_throttled(self, name: str, address: str, now: float) -> None:
        """Keep which of the two was tried too often."""
        slowed = self._by_account.wait(name, now) > 0
        key = f"name {name}" if slowed else f"address {address}"
        if self._told.wait(key, now) > 0:
            return
        self._told.count(key, now)
        try:
            who = (await self._people.account(name)).id
        except NotFoundError:
            who = _UNKNOWN
        why = f"{address}: throttled, too many attempts {'with this name' if slowed else 'from this address'}"
        await self._people.note(audit_line(INSTALLATION, who, "login", who, outcome="refused", detail=why))


def _hashed(code: str) -> str:
    """What is kept of a code."""
    return hashlib.sha256(code.encode()).hexdigest()
