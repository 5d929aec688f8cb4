"""What the controller shows in a handshake: certificates that the network's authority signs, or the operator's own."""

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Final

import structlog

from hansa.network.certificates import client_roots, shown_from_files
from hansa.settings import Settings
from hansa.store.disk import explained, write_whole
from hansa.wire.authority import Authority, expires_at, name_in
from hansa.wire.channel import is_everywhere
from hansa.wire.service import Shown
from hansa.wire.tls import CONTROLLER, WORLD, Certificate, Scheme, Trust

__all__ = ["FromAuthority", "Secured", "names_of_host", "open_authority"]

_log = structlog.get_logger(__name__)

_EARLY: Final = 30 * 86_400.0
"""Seconds before its end at which a certificate is replaced."""


@dataclass(frozen=True, slots=True)
class Secured:
    """How a controller's ports are secured."""

    shown: Shown | None
    """None: without TLS, or something before them has it."""
    authority: Authority | None
    """The network's own, which signs what combiners show; None: it runs without TLS."""
    scheme: Scheme
    """With which nodes dial the controller."""
    pinned: bool
    """Whether nodes know the controller by the authority's fingerprint."""
    own: Certificate | None = None
    """What this process shows to its own port, where callers must show a certificate."""

    @classmethod
    def of(cls, settings: Settings) -> "Secured":
        """As the settings have it; raises `InputError` for those that do not fit together."""
        folder = settings.data / "keys"
        match settings.tls:
            case "off":
                _log.warning(
                    "without TLS everybody between here and a node can read tokens and models", setting="HANSA_TLS"
                )
                return cls(None, None, Scheme.PLAIN, pinned=False)
            case "proxy":
                return cls(None, open_authority(folder), Scheme.TLS, pinned=False)
            case "on":
                pass
        authority = open_authority(folder)
        given, (roots, own) = shown_from_files(settings), _callers(settings)
        if given is not None:
            return cls(replace(given, client_roots=roots), authority, Scheme.TLS, pinned=False, own=own)
        names = names_of_host(settings.host, settings.tls_names)
        shown = Shown(FromAuthority(authority, names), roots)
        return cls(shown, authority, Scheme.NETWORK, pinned=True, own=own)

    @property
    def trust(self) -> Trust:
        """How nodes know the controller, unless an operator's certificate is of an authority of his own."""
        return Trust(fingerprint=self.authority.fingerprint) if self.pinned and self.authority is not None else WORLD

    @property
    def own_trust(self) -> Trust:
        """How this process itself knows its own port: by what is shown there, whoever has signed it."""
        if self.pinned or self.shown is None:
            return replace(self.trust, own=self.own)
        chain = self.shown.certificate().chain
        return Trust(roots=chain, name=name_in(chain), own=self.own)

    def own_address(self, address: str) -> str:
        """Its own port as this process dials it: not through what may be before it."""
        return f"{Scheme.PLAIN}://{address}" if self.shown is None else self.scheme_of(address)

    def scheme_of(self, address: str) -> str:
        """An address with the scheme that it is dialled with."""
        return f"{self.scheme}://{address}" if self.scheme else address


def _callers(settings: Settings) -> tuple[str, Certificate | None]:
    """The authorities of which callers must show a certificate, and what this process shows as one of them.

    It has an authority of its own for that, which lasts as long as it does, and whose key nobody else has ever.
    """
    roots = client_roots(settings)
    if not roots:
        return "", None
    private = Authority.new()
    return f"{roots.rstrip()}\n{private.certificate}", private.certify_caller(CONTROLLER)


class FromAuthority:
    """A callable: the certificate of now, a new one when the last comes near its end."""

    def __init__(self, authority: Authority, names: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        """names: host names and addresses beside the controller's own; clock: POSIX seconds."""
        self._authority = authority
        self._names = (CONTROLLER, *names)
        self._clock = clock
        self._lock = Lock()
        self._last: Certificate | None = None
        self._until = 0.0

    def __call__(self) -> Certificate:
        """Asked by threads of two servers."""
        with self._lock:
            if self._last is None or self._clock() > self._until - _EARLY:
                self._last = self._authority.certify(self._names)
                self._until = expires_at(self._last.chain)
            return self._last


def open_authority(folder: Path) -> Authority:
    """The network's own authority, made on the first start; its key is readable by its owner alone."""
    certificate, key = folder / "authority.crt", folder / "authority.key"
    with explained("keep the network's authority in", folder):
        if not key.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made = Authority.new()
            write_whole(certificate, made.certificate.encode(), 0o644)
            write_whole(key, made.key.encode())
        return Authority(certificate.read_text(), key.read_text())


def names_of_host(host: str, more: str = "") -> list[str]:
    """What this machine may be called by those who reach a server that listens at `host`; more: others, by commas."""
    names = ["localhost", "127.0.0.1", "::1"]
    if not is_everywhere(host):
        names.append(host)
    else:
        own = socket.gethostname()
        names.append(own)
        with suppress(OSError):
            names += [str(place[4][0]).partition("%")[0] for place in socket.getaddrinfo(own, None)]
    names += [name.strip() for name in more.split(",") if name.strip()]
    return list(dict.fromkeys(names))
