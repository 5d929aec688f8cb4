"""Logging in with a name and a password: throttled, and silent about which names there are."""

import time
from collections.abc import Callable
from typing import Final

from hansa.errors import AuthenticationError, NotFoundError, ThrottledError
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.passwords import Passwords
from hansa.network.controller.people import People
from hansa.network.controller.throttle import Throttle
from hansa.store.records import INSTALLATION, AccountRecord, TokenRecord

__all__ = ["Logins"]

_HOLDS: Final = 12 * 3600.0
"""Seconds for which a login's token holds."""
_WINDOW: Final = 900.0
"""Seconds in which failed attempts are counted."""
_MOST_OF_ACCOUNT: Final = 5
_MOST_OF_ADDRESS: Final = 30
"""Higher: many people can come from one address."""
_UNKNOWN: Final = "(an unknown name)"
"""In the audit record: what was typed may be a password in the wrong place."""
_LONGEST: Final = 100
"""Characters of a name that are remembered: no account has more."""


class Logins:
    """From a name and a password to a token that holds for some hours."""

    def __init__(self, people: People, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds; it never goes back."""
        self._people = people
        self._clock = clock
        self._passwords = Passwords()
        self._by_account = Throttle(_MOST_OF_ACCOUNT, _WINDOW)
        self._by_address = Throttle(_MOST_OF_ADDRESS, _WINDOW)
        self._told = Throttle(1, _WINDOW)
        """Of one that is slowed down one line is kept in the window: the record does not grow with the attempts."""

    async def log_in(self, name: str, password: str, address: str) -> tuple[str, TokenRecord]:
        """A token for a person; address: of the network, where the attempt comes from.

        Raises `AuthenticationError`, the same whatever was wrong, and `ThrottledError` after too many attempts.
        """
        account = await self._proven(name, password, address)
        return await self._people.issue(account.id, called="login", expires_in=_HOLDS, action="login")

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
