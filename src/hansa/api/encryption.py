"""TLS of the REST port: what the nodes' port shows, the newest in each handshake; and what callers believe."""

import ssl
import tempfile
from pathlib import Path

from hansa.errors import InputError
from hansa.wire.service import Shown
from hansa.wire.tls import Certificate, Trust

__all__ = ["client_context", "server_context"]


def server_context(shown: Shown) -> ssl.SSLContext:
    """For a server: TLS 1.2 or newer; a certificate that has changed is shown from the next handshake on."""
    loaded = shown.certificate()
    listening = newest = _showing(loaded, shown.client_roots)

    def handshake(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal loaded, newest
        certificate = shown.certificate()
        if certificate is not loaded:
            loaded, newest = certificate, _showing(certificate, shown.client_roots)
        if newest is not listening:
            connection.context = newest

    listening.sni_callback = handshake  # called in every handshake, whatever name it asks for
    return listening


def _showing(certificate: Certificate, client_roots: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_roots:
        context.load_verify_locations(cadata=client_roots)
        context.verify_mode = ssl.CERT_REQUIRED
    _load(context, certificate)
    return context


def client_context(trust: Trust) -> ssl.SSLContext:
    """For a caller. trust: with its roots, not with a fingerprint."""
    context = ssl.create_default_context(cadata=trust.roots or None)
    if trust.own is not None:
        _load(context, trust.own)
    return context


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    """From files, which is all that OpenSSL's binding reads."""
    with tempfile.TemporaryDirectory(prefix="hansa-tls-") as folder:
        chain, key = Path(folder) / "chain", Path(folder) / "key"
        chain.write_text(certificate.chain)
        key.touch(0o600)
        key.write_text(certificate.key)
        try:
            context.load_cert_chain(chain, key)
        except ssl.SSLError as error:
            raise InputError(f"the certificate cannot be used: {error}") from error
