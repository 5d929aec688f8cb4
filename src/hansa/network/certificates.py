"""Certificates that an operator gives a server as files, and the end of whatever certificate a server shows."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Final

import structlog

from hansa.errors import InputError
from hansa.settings import Settings
from hansa.wire.authority import check, earliest_end
from hansa.wire.service import Shown
from hansa.wire.tls import Certificate, read_pair, read_pem

__all__ = ["SOON", "FromFiles", "client_roots", "shown_from_files", "watch_end"]

_log = structlog.get_logger(__name__)

SOON: Final = 14 * 86_400.0
"""Seconds before the end of a certificate from which it is told of."""
_LOOK: Final = 3600.0
"""Seconds between two looks at it."""
_REMINDER: Final = 86_400.0
"""Seconds after which the log repeats it."""
_OF_FILES: Final = (
    "put a new one and its key in place of the files of HANSA_TLS_CERT and HANSA_TLS_KEY; they are read again without "
    "a restart"
)
_OF_NETWORK: Final = (
    "a server's own is renewed by itself while the controller can be reached: see that it can; where it is the "
    "network's authority that ends, make another: docs/how-to/certificates.md"
)


async def watch_end(
    certificate: Callable[[], Certificate],
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Log that what a server shows ends soon, or has ended: at once, and each day that it is so. It never returns.

    certificate: what is shown now; clock: POSIX seconds.
    """
    remedy = _OF_FILES if isinstance(certificate, FromFiles) else _OF_NETWORK
    told, told_at = 0.0, 0.0
    while True:
        now, ends = clock(), earliest_end((await asyncio.to_thread(certificate)).chain)
        has_ended = ends <= now
        changed = ends != told or (has_ended and told_at < ends)
        if ends - now < SOON and (changed or now - told_at >= _REMINDER):
            told, told_at = ends, now
            date = datetime.fromtimestamp(ends, UTC).isoformat(timespec="minutes")
            if has_ended:
                _log.error("the certificate has expired: whoever connects anew is refused", ended=date, remedy=remedy)
            else:
                days = round((ends - now) / 86_400, 1)
                _log.warning("the certificate expires soon", ends=date, days=days, remedy=remedy)
        await sleep(min(_LOOK, max(ends - now, 1.0)) if not has_ended else _LOOK)


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
