"""Certificates that an operator gives a server as files, shown in the place of those that the network signs."""

from contextlib import suppress
from pathlib import Path
from threading import Lock

import structlog

from hansa.errors import InputError
from hansa.settings import Settings
from hansa.wire.authority import check
from hansa.wire.service import Shown
from hansa.wire.tls import Certificate, read_pair, read_pem

__all__ = ["FromFiles", "client_roots", "shown_from_files"]

_log = structlog.get_logger(__name__)


def shown_from_files(settings: Settings) -> Shown | None:
    """What a server with these settings shows; None where no file is given. Raises `InputError` for a bad one."""
    if read_pair(settings.tls_cert, settings.tls_key) is None or settings.tls_cert is None or settings.tls_key is None:
        return None
    return Shown(FromFiles(settings.tls_cert, settings.tls_key), client_roots(settings))


def client_roots(settings: Settings) -> str:
    """The authorities of which callers must show a certificate; empty: they need none."""
    return read_pem(settings.tls_client_ca) if settings.tls_client_ca is not None else ""


class FromFiles:
    """A callable: what the operator's files hold, read again when they change; a bad pair leaves the last one."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Both PEM; raises `InputError` for files that cannot be used."""
        self._files = (chain, key)
        self._lock = Lock()
        self._stamp = self._stamped()
        self._last = self._read()

    def __call__(self) -> Certificate:
        """Asked by threads of two servers, in every handshake."""
        with self._lock:
            if (stamp := self._stamped()) != self._stamp:
                self._stamp = stamp
                try:
                    self._last = self._read()
                except InputError as error:
                    _log.error("the new certificate cannot be used; the one before is shown", why=str(error))
                else:
                    _log.info("a new certificate is shown", file=str(self._files[0]))
            return self._last

    def _stamped(self) -> tuple[int, ...]:
        """Changes with the files; where one is missing for a moment, as while it is replaced, nothing is read."""
        states = []
        with suppress(OSError):
            states = [path.stat() for path in self._files]
        return tuple(number for state in states for number in (state.st_ino, state.st_size, state.st_mtime_ns))

    def _read(self) -> Certificate:
        found = read_pair(*self._files)
        if found is None:
            raise InputError("there is no certificate")
        check(found)
        return found
