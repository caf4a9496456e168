"""Certificates as an operator would have them: an authority, one between, and one that signs; and flawed ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Pair(NamedTuple):
    """Files as the settings name them."""

    cert: Path
    key: Path

    def settings(self) -> dict[str, Path]:
        return {"c2pa_cert": self.cert, "c2pa_key": self.key}

    def environment(self) -> dict[str, str]:
        return {"FRAMEWRIGHT_C2PA_CERT": str(self.cert), "FRAMEWRIGHT_C2PA_KEY": str(self.key)}


def pair(
    place: Path,
    *,
    key: Any = None,
    organization: str | None = "Example Ltd",
    use: Any = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    signs: bool = True,
    begins: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=30),
    whole_chain: bool = True,
) -> Pair:
    """A certificate for signing, issued by an authority between, and its key; in `operator.pem` and `operator.key`."""
    root_key, middle_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    key = key or ec.generate_private_key(ec.SECP256R1())
    root_name, middle_name = _name("Example root", "Example Ltd"), _name("Example issuing", "Example Ltd")
    root = _authority(root_name, root_key, root_name, root_key)
    middle = _authority(middle_name, middle_key, root_name, root_key)
    leaf = _issued(_name("video.example.org", organization), key.public_key(), middle_name, begins, ends)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    leaf = leaf.add_extension(_usage(signs, False), critical=True)
    if use is not None:
        leaf = leaf.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    leaf = leaf.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(middle_key.public_key())
    signed = leaf.add_extension(issuer, critical=False).sign(middle_key, hashes.SHA256())
    made = Pair(place / "operator.pem", place / "operator.key")
    made.cert.write_bytes(b"".join(_pem(one) for one in (signed, middle, root)[: 3 if whole_chain else 1]))
    made.key.write_bytes(key_pem(key))
    return made


def self_signed(place: Path) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("alone", "Example Ltd")
    made = Pair(place / "operator.pem", place / "operator.key")
    made.cert.write_bytes(_pem(_authority(name, key, name, key)))
    made.key.write_bytes(key_pem(key))
    return made


def key_pem(key: Any, passphrase: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    text: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    return text


def _name(common: str, organization: str | None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _issued(
    subject: x509.Name, key: Any, issuer: x509.Name, begins: timedelta, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), now + begins, now + ends)


def _authority(name: x509.Name, key: Any, issuer: x509.Name, issuer_key: Any) -> x509.Certificate:
    return (
        _issued(name, key.public_key(), issuer, timedelta(days=-1), timedelta(days=300))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(False, True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _usage(signs: bool, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(signs, not signs and not issues, False, False, False, issues, issues, False, False)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
