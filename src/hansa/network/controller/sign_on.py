"""Logging in by an OpenID provider: from a login that a person began, to an account that is bound to who they are.

An account is found by issuer and subject alone, which the provider never gives to anybody else; never by a name or an
e-mail address, which it may. What is under way is remembered here: if the server ends meanwhile, one begins again.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import structlog

from hansa.errors import AuthenticationError, ConfigError, ConflictError, HansaError, InputError, ThrottledError
from hansa.network.controller.audit import audit_line
from hansa.network.controller.groups import Groups
from hansa.network.controller.openid import Device, Pending, Provider
from hansa.network.controller.people import People
from hansa.network.controller.throttle import Throttle
from hansa.store.records import INSTALLATION, AccountRecord, TokenRecord

__all__ = ["CALLBACK", "STUDIO", "Begun", "BegunOnDevice", "SignOn", "SignOnRules"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

CALLBACK: Final = "/callback"
"""The path of the redirect to a person's own machine (RFC 8252, section 7.3)."""
STUDIO: Final = "/ui/"
"""The path of the redirect to the Studio."""
_ACTION: Final = "login.oidc"
_HOLDS: Final = 12 * 3600.0
"""Seconds for which a login's token holds."""
_UNDER_WAY: Final = 600.0
"""Seconds in which a login in the browser is to be finished."""
_MOST: Final = 1000
"""Logins under way; the oldest are forgotten first."""
_ATTEMPTS: Final = 30
_WINDOW: Final = 900.0
"""Seconds in which one address may begin so many logins; those that succeed do not count."""
_SLOWER: Final = 5.0
"""Seconds by which RFC 8628 has a question come later."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]+")
_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class SignOnRules:
    """What becomes of somebody whom the provider knows."""

    create: bool = False
    """Whether who has no account gets one; else an administrator links or makes it."""
    name_claim: str = "preferred_username"
    """What a new account is called."""
    groups_claim: str = "groups"
    groups: Groups = field(default_factory=Groups)
    redirect: str = ""
    """The Studio's address, to which browsers may come back beside a person's own machine; empty: none."""

    def __post_init__(self) -> None:
        """Refuse a redirect that is not the Studio's address, or by which a code would travel in the clear."""
        if self.redirect and not _is_studio(self.redirect):
            raise ConfigError(
                f"HANSA_OIDC_REDIRECT is {self.redirect!r}: give the Studio's address as browsers know it, "
                f"https://HOST:PORT{STUDIO}"
            )


@dataclass(frozen=True, slots=True)
class Begun:
    """A login in the browser that is under way."""

    authorization_url: str
    state: str
    expires_in: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class BegunOnDevice:
    """A login on another device that is under way."""

    handle: str
    """What the one who waits asks with; it is not the provider's code, which stays here."""
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: float
    """Seconds."""
    interval: float
    """Seconds between two questions."""


@dataclass(frozen=True, slots=True)
class _Browser:
    redirect: str
    challenge: str
    nonce: str
    until: float


@dataclass(frozen=True, slots=True)
class _OnDevice:
    device: Device
    until: float
    next_at: float


class SignOn:
    """From a login at the provider to a token of this network."""

    def __init__(
        self,
        people: People,
        provider: Provider,
        rules: SignOnRules,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds; it never goes back."""
        self._people = people
        self._provider = provider
        self._rules = rules
        self._clock = clock
        self._browsers: OrderedDict[str, _Browser] = OrderedDict()
        self._devices: OrderedDict[str, _OnDevice] = OrderedDict()
        self._by_address = Throttle(_ATTEMPTS, _WINDOW)
        self._told = Throttle(1, _WINDOW)

    @property
    def issuer(self) -> str:
        """Of the provider."""
        return self._provider.registration.issuer

    @property
    def redirect(self) -> str:
        """The Studio's address, where the provider may send browsers back to; empty: it may not."""
        return self._rules.redirect

    async def begin(self, redirect: str, challenge: str, address: str) -> Begun:
        """Where the browser is to go. challenge: of PKCE, S256.

        redirect: back to the person's own machine, or to the Studio.

        Whoever finishes it shows what the challenge was made from, so a code that somebody else sees is of no use to
        them. Raises `InputError` for a redirect to anywhere else, `ThrottledError` after too many attempts.
        """
        if redirect != self._rules.redirect or not redirect:
            _check_redirect(redirect)
        if not _CHALLENGE.fullmatch(challenge):
            raise InputError(
                "`challenge` is no PKCE challenge: it is the SHA-256 of the verifier, 43 characters of base64url"
            )
        await self._attempt(address)
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        url = await self._provider.authorization_url(redirect=redirect, state=state, nonce=nonce, challenge=challenge)
        _remember(self._browsers, state, _Browser(redirect, challenge, nonce, self._clock() + _UNDER_WAY))
        return Begun(url, state, _UNDER_WAY)

    async def finish(
        self, *, state: str, code: str, verifier: str, issuer: str | None, address: str
    ) -> tuple[str, TokenRecord]:
        """A token, for what the provider sent to the redirect. A state and its code can be used once.

        issuer: as it stood in the redirect, None where none did. Raises `AuthenticationError` that says what is wrong.
        """
        begun = self._browsers.pop(state, None)
        if begun is None or begun.until < self._clock():
            await self._attempt(address)
            raise await self._failed("", address, "no such login is under way here (any more): log in again")
        if not hmac.compare_digest(_challenge_of(verifier), begun.challenge):
            raise await self._failed("", address, "whoever finishes this login did not begin it: log in again")
        try:
            if issuer != self.issuer and (issuer is not None or await self._provider.says_who_it_is()):
                raise AuthenticationError("the answer came from another provider than was asked: log in again")
            claims = await self._provider.redeem(code, redirect=begun.redirect, verifier=verifier, nonce=begun.nonce)
        except HansaError as error:
            await self._note("", address, str(error))
            raise
        return await self._admitted(claims, address)

    async def begin_device(self, address: str) -> BegunOnDevice:
        """A code that the person types in on a device that has a browser."""
        await self._attempt(address)
        device = await self._provider.begin_device()
        handle, now = secrets.token_urlsafe(32), self._clock()
        _remember(self._devices, handle, _OnDevice(device, now + device.expires_in, now + device.interval))
        return BegunOnDevice(
            handle,
            device.user_code,
            device.verification_uri,
            device.verification_uri_complete,
            device.expires_in,
            device.interval,
        )

    async def finish_device(self, handle: str, address: str) -> tuple[str, TokenRecord] | float:
        """A token, or in how many seconds to ask again. Raises `AuthenticationError` when the person has refused."""
        begun, now = self._devices.get(handle), self._clock()
        if begun is None or begun.until < now:
            self._devices.pop(handle, None)
            await self._attempt(address)
            raise await self._failed("", address, "no such login is under way here (any more): log in again")
        if now < begun.next_at:
            return begun.next_at - now
        self._devices[handle] = replace(
            begun, next_at=now + begun.device.interval
        )  # before it is asked: once at a time
        try:
            answer = await self._provider.redeem_device(begun.device.device_code)
        except AuthenticationError as error:
            self._devices.pop(handle, None)
            await self._note("", address, str(error))
            raise
        if isinstance(answer, Pending):
            interval = begun.device.interval + (_SLOWER if answer.slower else 0.0)
            device = replace(begun.device, interval=interval)
            self._devices[handle] = _OnDevice(device, begun.until, now + interval)
            return interval
        self._devices.pop(handle, None)
        return await self._admitted(answer, address)

    async def aclose(self) -> None:
        """Close the connections to the provider."""
        await self._provider.aclose()

    # ── who it is ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _admitted(self, claims: Mapping[str, Any], address: str) -> tuple[str, TokenRecord]:
        subject = str(claims["sub"])
        account = await self._people.bound(self.issuer, subject)
        if account is None:
            account = await self._created(subject, claims, address)
        if account.disabled:
            raise await self._failed(account.id, address, f"the account {account.id} is disabled")
        await self._apply_groups(account, claims)
        made = await self._people.issue(account.id, called="login", expires_in=_HOLDS, action=_ACTION)
        self._by_address.forgive(address)
        return made

    async def _created(self, subject: str, claims: Mapping[str, Any], address: str) -> AccountRecord:
        """A new account for a person who has none, where the rules let them have one."""
        if not self._rules.create:
            raise await self._failed(
                subject,
                address,
                f"no account is bound to the subject {subject!r} of {self.issuer}: a site administrator links one with "
                f"`hansa user link NAME --subject {subject}`",
            )
        claim = claims.get(self._rules.name_claim)
        name = _NOT_IN_NAMES.sub("-", claim if isinstance(claim, str) else "")[:_NAME].strip(".-")
        if not name:
            raise await self._failed(
                subject,
                address,
                f"the provider says no {self._rules.name_claim!r}, by which a new account would be called",
            )
        try:
            return await self._people.create_account(name, subject=(self.issuer, subject))
        except ConflictError as error:
            if (known := await self._people.bound(self.issuer, subject)) is not None:
                return known  # another login of the same person has just made it
            raise await self._failed(
                subject,
                address,
                f"there is a user {name!r} who is not bound to the subject {subject!r} of {self.issuer}: if they are "
                f"the same person, a site administrator links them with `hansa user link {name} --subject {subject}`",
            ) from error

    async def _apply_groups(self, account: AccountRecord, claims: Mapping[str, Any]) -> None:
        """Make the person what their groups say, in the projects that the mapping names and nowhere else."""
        listed = claims.get(self._rules.groups_claim)
        given = [listed] if isinstance(listed, str) else listed if isinstance(listed, list) else []
        groups = frozenset(group for group in given if isinstance(group, str))
        for project, role in self._rules.groups.roles(groups).items():
            members = await self._people.members(project)
            if members is None:
                _log.warning("HANSA_OIDC_GROUPS names a project that there is not", project=project)
                continue
            if role is None and account.id in members:
                await self._people.remove_member(project, account.id)
            elif role is not None and members.get(account.id) is not role:
                await self._people.add_member(project, account.id, role)
        admin = self._rules.groups.admin(groups)
        if admin is not None and admin != account.admin:
            await self._people.set_admin(account.id, admin=admin)

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _attempt(self, address: str) -> None:
        now = self._clock()
        wait = self._by_address.wait(address, now)
        if wait > 0:
            if self._told.wait(address, now) <= 0:
                self._told.count(address, now)
                why = f"{address}: throttled, too many attempts from this address"
                await self._people.note(
                    audit_line(INSTALLATION, self.issuer, _ACTION, self.issuer, outcome="refused", detail=why)
                )
            raise ThrottledError(
                f"there were too many attempts to log in: wait {wait:.0f} seconds, then try again", wait=wait
            )
        self._by_address.count(address, now)

    async def _failed(self, who: str, address: str, why: str) -> AuthenticationError:
        """The error to raise, once it is noted."""
        await self._note(who, address, why)
        return AuthenticationError(why)

    async def _note(self, who: str, address: str, why: str) -> None:
        target = who or self.issuer
        await self._people.note(
            audit_line(INSTALLATION, target, _ACTION, target, outcome="failed", detail=f"{address}: {why}")
        )


def _check_redirect(redirect: str) -> None:
    try:
        parts = urlsplit(redirect)
        fits = parts.scheme == "http" and parts.hostname in _LOOPBACK and parts.port is not None
    except ValueError:
        fits = False
    if not fits or redirect != f"http://{parts.netloc}{CALLBACK}" or "@" in parts.netloc:
        raise InputError(
            f"`redirect` must lead back to the machine that logs in, http://127.0.0.1:PORT{CALLBACK} or "
            f"http://[::1]:PORT{CALLBACK}, or be what HANSA_OIDC_REDIRECT says"
        )


def _is_studio(address: str) -> bool:
    """Whether an address has the Studio's path and nothing else, by https or on this very machine."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    return (
        safe
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and address == f"{parts.scheme}://{parts.netloc}{STUDIO}"
    )


def _challenge_of(verifier: str) -> str:
    """RFC 7636, section 4.2."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _remember(known: OrderedDict[str, T], key: str, value: T) -> None:
    known[key] = value
    if len(known) > _MOST:
        known.popitem(last=False)
