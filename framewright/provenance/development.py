"""The development certificate: made once on a machine, kept, renewed. It proves where a file came from to nobody else.

In its directory lie `development-ca.pem`, which verifiers read, and `development.pem` with the keys, mode 0600.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from framewright.errors import SettingsError
from framewright.provenance.anchors import CA_FILE

FILE: Final = "development.pem"
_LOCK: Final = ".lock"
# A file without a time stamp verifies only while its certificate is valid, so that outlives what is signed with it.
LEAF_FOR: Final = timedelta(days=3650)
RENEWED_AT: Final = timedelta(days=1825)
CA_FOR: Final = timedelta(days=9125)
_SKEW: Final = timedelta(hours=1)


def pair(place: Path, now: datetime | None = None) -> tuple[str, bytes]:
    """Certificate chain (PEM) and private key (PEM) kept in `place`; made or renewed first where that is due.

    Any number of processes may ask at once; all get the same answer. `SettingsError` when `place` cannot be used.
    """
    now = now or datetime.now(UTC)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(place):
            kept = _read(place)
            if kept is None or kept.leaf.not_valid_after_utc - now < RENEWED_AT:
                kept = _made(None if kept is None else kept, now)
                _write(place / CA_FILE, _pem(kept.ca), 0o644)
                _write(place / FILE, kept.text(), 0o600)
    except OSError as error:
        raise SettingsError(
            f"the development certificate cannot be kept in {place}: {error.strerror}; "
            "set FRAMEWRIGHT_PROVENANCE_DIR to a directory that this user may write, or FRAMEWRIGHT_C2PA_CERT and "
            "FRAMEWRIGHT_C2PA_KEY to a certificate of your own"
        ) from error
    return (_pem(kept.leaf) + _pem(kept.ca)).decode(), _key_pem(kept.leaf_key)


class _Kept:
    def __init__(
        self,
        leaf: x509.Certificate,
        ca: x509.Certificate,
        leaf_key: ec.EllipticCurvePrivateKey,
        ca_key: ec.EllipticCurvePrivateKey,
    ) -> None:
        self.leaf, self.ca, self.leaf_key, self.ca_key = leaf, ca, leaf_key, ca_key

    def text(self) -> bytes:
        return _pem(self.leaf) + _pem(self.ca) + _key_pem(self.leaf_key) + _key_pem(self.ca_key)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    descriptor = os.open(place / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(place: Path) -> _Kept | None:
    path = place / FILE
    if not path.exists():
        return None
    text = path.read_bytes()
    try:
        leaf, ca = x509.load_pem_x509_certificates(text)
        parts = text.split(b"-----BEGIN PRIVATE KEY-----")
        leaf_key, ca_key = (_private(b"-----BEGIN PRIVATE KEY-----" + part) for part in parts[1:])
        if leaf.public_key() != leaf_key.public_key() or ca.public_key() != ca_key.public_key():
            raise ValueError("keys and certificates do not belong together")
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"the development certificate {path} is damaged; remove the file, and the next start makes another"
        ) from error
    return _Kept(leaf, ca, leaf_key, ca_key)


def _private(text: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(text, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic curve key")
    return key


def _made(before: _Kept | None, now: datetime) -> _Kept:
    """A new leaf, of the same authority as before while that lasts long enough."""
    if before is not None and before.ca.not_valid_after_utc - now > LEAF_FOR:
        ca, ca_key = before.ca, before.ca_key
    else:
        ca_key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Framewright development CA", ca_key.public_key())
        ca = (
            _certificate(name, name, ca_key.public_key(), now, CA_FOR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    leaf = (
        _certificate(_name("Framewright development", None), ca.subject, key.public_key(), now, LEAF_FOR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _Kept(leaf, ca, key, ca_key)


def _name(common: str, key: ec.EllipticCurvePublicKey | None) -> x509.Name:
    """An authority carries a piece of its key in its name, so that those of two machines are told apart."""
    mark = "" if key is None else f" {x509.SubjectKeyIdentifier.from_public_key(key).digest.hex()[:8]}"
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Framewright development (not verified by anyone)"),
            x509.NameAttribute(NameOID.COMMON_NAME, common + mark),
        ]
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lasting: timedelta
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _SKEW,
        not_valid_after=now + lasting,
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, text: bytes, mode: int) -> None:
    """The whole file or none of it, and never readable for others in between."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
