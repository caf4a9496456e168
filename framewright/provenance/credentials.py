"""What outputs are signed with: the operator's certificate, or a development one. Checked before anything is signed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ObjectIdentifier

from framewright.errors import SettingsError, SigningFailed
from framewright.provenance import box, development
from framewright.provenance.anchors import Choice, place_of

Kind = Literal["operator", "development"]
LIBRARY: Final = "c2pa"
_CURVES: Final[dict[str, tuple[str, int, hashes.HashAlgorithm]]] = {
    "secp256r1": ("ES256", 32, hashes.SHA256()),
    "secp384r1": ("ES384", 48, hashes.SHA384()),
    "secp521r1": ("ES512", 66, hashes.SHA512()),
}
_USES: Final = frozenset(ObjectIdentifier(use) for use in box.USES)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate chain (PEM, leaf first), the C2PA name of its algorithm, and what signs bytes with its key."""

    kind: Kind
    chain: str
    algorithm: str
    subject: str
    not_after: datetime
    sign: Callable[[bytes], bytes]

    def check_valid(self, now: datetime | None = None) -> None:
        """`SigningFailed` once the certificate has ended: what it signs from then on would verify nowhere."""
        if (now or datetime.now(UTC)) >= self.not_after:
            raise SigningFailed(f"the signing certificate ended on {self.not_after:%Y-%m-%d}; replace it and restart")


def load(settings: Choice) -> Credentials | None:
    """What this worker signs with; None when provenance is switched off.

    `SettingsError`, naming the variable and the fix, for anything that would make a signature nobody accepts.
    """
    if not settings.provenance:
        return None
    if importlib.util.find_spec(LIBRARY) is None:
        raise SettingsError(
            "outputs cannot be signed, because the package c2pa-python is not installed; "
            "pip install c2pa-python, or FRAMEWRIGHT_PROVENANCE=off"
        )
    if settings.c2pa_cert is None and settings.c2pa_key is None:
        chain, key = development.pair(place_of(settings))
        return _credentials("development", chain, serialization.load_pem_private_key(key, None))
    return _operators(settings.c2pa_cert, settings.c2pa_key)


def _operators(cert: Path | None, key: Path | None) -> Credentials:
    if cert is None or key is None:
        missing = "FRAMEWRIGHT_C2PA_CERT" if cert is None else "FRAMEWRIGHT_C2PA_KEY"
        raise SettingsError(f"{missing} is missing: a certificate and its key are set together")
    chain, private = _read(cert, "FRAMEWRIGHT_C2PA_CERT"), _private(_read(key, "FRAMEWRIGHT_C2PA_KEY"))
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        _check(certificates, private)
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError("FRAMEWRIGHT_C2PA_CERT holds no certificate in PEM that can be read") from None
    return _credentials("operator", "".join(_pem(one) for one in certificates), private)


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable} names {path}, which cannot be read: {error.strerror}") from error


def _private(text: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(text, None)
    except TypeError:
        fix = "openssl pkey -in KEY -out PLAIN"
        raise SettingsError(f"FRAMEWRIGHT_C2PA_KEY has a passphrase; store it without one: {fix}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError("FRAMEWRIGHT_C2PA_KEY holds no private key in PEM that can be read") from None


def _check(chain: list[x509.Certificate], key: PrivateKeyTypes) -> None:
    """The certificate profile of the C2PA, as far as it can be read off the certificate."""
    leaf, now = chain[0], datetime.now(UTC)
    name = "FRAMEWRIGHT_C2PA_CERT"
    if leaf.public_key() != key.public_key():
        raise SettingsError(f"FRAMEWRIGHT_C2PA_KEY is not the key of the first certificate in {name}")
    if now >= leaf.not_valid_after_utc:
        raise SettingsError(f"{name} ended on {leaf.not_valid_after_utc:%Y-%m-%d}; have it renewed")
    if now < leaf.not_valid_before_utc:
        raise SettingsError(f"{name} is valid from {leaf.not_valid_before_utc:%Y-%m-%d} only; check the clock")
    if leaf.subject == leaf.issuer or _is_authority(leaf):
        raise SettingsError(
            f"the first certificate in {name} is an authority or signed by itself, which C2PA forbids; put the one "
            "that signs first and those that issued it after it"
        )
    _check_issuer(leaf, chain[1:])
    if not leaf.subject.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME):
        raise SettingsError(f"{name} names no organization (O), which C2PA asks for; have it issued with one")
    if not _signs(leaf):
        raise SettingsError(f"{name} may not make digital signatures (key usage); have it issued with digitalSignature")
    if not _USES & _extended(leaf):
        raise SettingsError(
            f"{name} has none of the extended key usages that C2PA accepts; have it issued with C2PA claim signing "
            "(1.3.6.1.4.1.62558.2.1) or emailProtection"
        )


def _check_issuer(leaf: x509.Certificate, above: list[x509.Certificate]) -> None:
    """The issuer must be there: it is what a verifier here knows the operator by, also after the next renewal."""
    try:
        leaf.verify_directly_issued_by(above[0])
    except (IndexError, ValueError, TypeError, InvalidSignature):
        raise SettingsError(
            "the first certificate in FRAMEWRIGHT_C2PA_CERT is not followed by the one that issued it; append that, "
            "and those above it"
        ) from None


def _is_authority(leaf: x509.Certificate) -> bool:
    try:
        return leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _signs(leaf: x509.Certificate) -> bool:
    try:
        return leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return False


def _extended(leaf: x509.Certificate) -> frozenset[ObjectIdentifier]:
    try:
        return frozenset(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return frozenset()


def _credentials(kind: Kind, chain: str, key: PrivateKeyTypes) -> Credentials:
    algorithm, sign = _signing(key)
    leaf = x509.load_pem_x509_certificates(chain.encode())[0]
    subject = leaf.subject.rfc4514_string()
    return Credentials(kind, chain, algorithm, subject, leaf.not_valid_after_utc, sign)


def _signing(key: PrivateKeyTypes) -> tuple[str, Callable[[bytes], bytes]]:
    """The C2PA name of the algorithm, and a function that signs in the form COSE wants."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        name, width, digest = _CURVES[key.curve.name]

        def sign_curve(data: bytes) -> bytes:
            r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
            return r.to_bytes(width, "big") + s.to_bytes(width, "big")

        return name, sign_curve
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ED25519", key.sign
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
        return "PS256", lambda data: key.sign(data, pss, hashes.SHA256())
    raise SettingsError(
        "FRAMEWRIGHT_C2PA_KEY is of a kind that C2PA does not accept; use P-256, P-384, P-521, Ed25519, or RSA of 2048 "
        "bits or more"
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
