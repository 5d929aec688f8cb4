"""A network's own certificate authority: it signs what the controller and the combiners show.

X.509 (RFC 5280), ECDSA over P-256, which every TLS library takes. Servers make and sign; who only joins needs `tls`.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hansa.errors import InputError
from hansa.wire.tls import CONTROLLER, Certificate, fingerprint

__all__ = ["Authority", "check", "earliest_end", "expires_at", "new_request"]

_TEN_YEARS: Final = timedelta(days=3650)
_QUARTER: Final = timedelta(days=90)
_EARLIER: Final = timedelta(hours=1)
"""A certificate holds from before it was made: clocks differ."""
_NAMELESS: Final = "hansa network"


@dataclass(frozen=True, slots=True)
class Authority:
    """Its certificate and key, both PEM."""

    certificate: str
    key: str = field(repr=False)

    @classmethod
    def new(cls, now: datetime | None = None) -> "Authority":
        """A fresh one, for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name, public = _named(_NAMELESS), key.public_key()
        builder = (
            _begun(name, name, public, now, _TEN_YEARS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        )
        return cls(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))

    @property
    def fingerprint(self) -> str:
        """What whoever joins compares."""
        return fingerprint(_read(self.certificate).public_bytes(serialization.Encoding.DER))

    def certify(self, names: Sequence[str], now: datetime | None = None) -> Certificate:
        """A key and a certificate for a server with these names and IP addresses, for 90 days."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Certificate(self._signed(key.public_key(), names, now), _key_pem(key))

    def certify_caller(self, name: str, now: datetime | None = None) -> Certificate:
        """A key and a certificate for a caller, which no server can show, for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._signed(key.public_key(), [name], now, ExtendedKeyUsageOID.CLIENT_AUTH, _TEN_YEARS)
        return Certificate(signed, _key_pem(key))

    def sign(self, request: str, name: str, now: datetime | None = None) -> str:
        """The chain for a server that made its own key, under this one name, whatever it asks for; for 90 days.

        request: PKCS #10, PEM. Raises `InputError` for what is none.
        """
        try:
            asked = x509.load_pem_x509_csr(request.encode())
            key = asked.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InputError(f"this is no request for a certificate (PKCS #10, PEM): {error}") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not asked.is_signature_valid:
            raise InputError("the request for a certificate is not signed with the elliptic-curve key that it names")
        return self._signed(key, [name], now)

    def _signed(
        self,
        public: ec.EllipticCurvePublicKey,
        names: Sequence[str],
        now: datetime | None,
        use: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        lasts: timedelta = _QUARTER,
    ) -> str:
        own, key = _read(self.certificate), _read_key(self.key)
        builder = (
            _begun(_named(names[0]), own.subject, public, now, lasts)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        return _pem(builder.sign(key, hashes.SHA256())) + self.certificate


def new_request() -> tuple[str, str]:
    """(a fresh key, a request for its certificate), both PEM: the key never leaves the process that made it."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(_named(_NAMELESS))
    return _key_pem(key), _pem(builder.sign(key, hashes.SHA256()))


def expires_at(chain: str) -> float:
    """When the first certificate of a chain (PEM) ends, in POSIX seconds; raises `InputError` for what is none."""
    try:
        return _read(chain).not_valid_after_utc.timestamp()
    except ValueError as error:
        raise InputError(f"this is no certificate in PEM: {error}") from error


def earliest_end(chain: str) -> float:
    """When the first of all certificates of a chain (PEM) ends, in POSIX seconds: nobody believes the chain then."""
    try:
        return min(each.not_valid_after_utc.timestamp() for each in x509.load_pem_x509_certificates(chain.encode()))
    except ValueError as error:
        raise InputError(f"this is no certificate in PEM: {error}") from error


def name_in(chain: str) -> str:
    """A name that the first certificate of a chain (PEM) is made out to; raises `InputError` where there is none."""
    try:
        names = _read(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise InputError(f"the certificate is made out to no host: {error}") from error
    found = [str(name) for kind in (x509.DNSName, x509.IPAddress) for name in names.get_values_for_type(kind)]
    if not found:
        raise InputError("the certificate is made out to no host's name and to no address")
    return found[0].replace("*", CONTROLLER)


def check(certificate: Certificate) -> None:
    """Raise `InputError` unless the key is that of the chain's first certificate."""
    try:
        key = serialization.load_pem_private_key(certificate.key.encode(), password=None)
        same = key.public_key() == _read(certificate.chain).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"the certificate or its key is not PEM that can be read: {error}") from error
    if not same:
        raise InputError("the certificate is for another key than the one that is given with it")


def _begun(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime | None, lasts: timedelta
) -> x509.CertificateBuilder:
    begin = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _EARLIER)
        .not_valid_after(begin + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def _read_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"the authority's key is a {type(key).__name__}, not of an elliptic curve")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _pem(signed: x509.Certificate | x509.CertificateSigningRequest) -> str:
    return signed.public_bytes(serialization.Encoding.PEM).decode()
