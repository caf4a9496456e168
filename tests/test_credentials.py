"""What signs: the development certificate, made once whatever happens, and an operator's, refused with its fix."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from authority import Pair, key_pem, pair, self_signed
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from framewright.errors import SettingsError, SigningFailed
from framewright.probe import environment
from framewright.provenance import anchors, box, credentials, development
from framewright.provenance.trial import tried


def given(place: Path, **changes: Any) -> Any:
    """As much of the settings as provenance reads."""
    base = {"provenance": True, "c2pa_cert": None, "c2pa_key": None, "provenance_dir": place, "scratch_dir": place}
    return SimpleNamespace(**{**base, **changes})


def certificates(chain: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(chain.encode())


def test_the_development_certificate_is_made_once_and_only_its_owner_reads_the_keys(tmp_path):
    place = tmp_path / "new" / "place"
    first, again = development.pair(place), development.pair(place)
    assert first == again
    assert (place / development.FILE).stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700
    leaf, ca = certificates(first[0])
    assert "PRIVATE" not in (place / anchors.CA_FILE).read_text()
    assert certificates((place / anchors.CA_FILE).read_text()) == [ca]
    leaf.verify_directly_issued_by(ca)


def test_workers_that_start_at_once_get_the_same_one(tmp_path):
    script = (
        "import sys, pathlib; from framewright.provenance import development\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(development.pair(pathlib.Path(sys.argv[1])))"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "kept")],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    answers = {worker.communicate("go\n", timeout=60)[0] for worker in workers}
    assert len(answers) == 1
    assert "BEGIN CERTIFICATE" in answers.pop()
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [".lock", anchors.CA_FILE, development.FILE]


def test_it_is_looked_for_and_made_under_a_lock(tmp_path, monkeypatch):
    held = []

    def watched(place: Path, look: Any = development._read) -> Any:
        with (place / ".lock").open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(place)
        return look(place)

    monkeypatch.setattr(development, "_read", watched)
    development.pair(tmp_path)
    assert held == [tmp_path]


def test_it_is_renewed_long_before_it_ends_by_the_same_authority(tmp_path):
    now = datetime.now(UTC)
    long_ago = now - development.LEAF_FOR + development.RENEWED_AT - timedelta(days=1)
    before = certificates(development.pair(tmp_path, long_ago)[0])
    after = certificates(development.pair(tmp_path, now)[0])
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert after[0].not_valid_after_utc - now > development.RENEWED_AT
    assert after == certificates(development.pair(tmp_path, now)[0])


def test_an_authority_that_ends_too_soon_is_replaced_too(tmp_path):
    now = datetime.now(UTC)
    before = certificates(development.pair(tmp_path, now - development.CA_FOR + timedelta(days=30))[0])
    leaf, ca = certificates(development.pair(tmp_path, now)[0])
    assert ca != before[1]
    assert leaf.not_valid_after_utc <= ca.not_valid_after_utc
    assert certificates((tmp_path / anchors.CA_FILE).read_text()) == [ca]


def test_a_damaged_file_is_named_and_not_replaced(tmp_path):
    development.pair(tmp_path)
    (tmp_path / development.FILE).write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    with pytest.raises(SettingsError, match="remove the file"):
        development.pair(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="FRAMEWRIGHT_PROVENANCE_DIR"):
        development.pair(tmp_path / "file" / "below")


def test_switched_off_there_is_nothing_to_sign_with_and_nothing_is_made(tmp_path):
    assert credentials.load(given(tmp_path / "none", provenance=False)) is None
    assert not (tmp_path / "none").exists()


def test_the_development_certificate_signs(tmp_path):
    made = tried(given(tmp_path))
    assert (made.kind, made.algorithm) == ("development", "ES256")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ed25519.Ed25519PrivateKey.generate, "ED25519"),
        (lambda: rsa.generate_private_key(65537, 2048), "PS256"),
    ],
)
def test_every_kind_of_key_that_c2pa_takes_signs(tmp_path, key, algorithm):
    made = tried(given(tmp_path, **pair(tmp_path, key=key()).settings()))
    assert (made.kind, made.algorithm) == ("operator", algorithm)
    assert "video.example.org" in made.subject


@pytest.mark.parametrize("use", box.USES)
def test_every_use_that_counts_signs_and_verifies(tmp_path, use):
    use = x509.ObjectIdentifier(use)
    assert tried(given(tmp_path, **pair(tmp_path, use=use).settings())).kind == "operator"


FLAWED: dict[str, Callable[[Path], Pair]] = {
    "self-signed": self_signed,
    "ended": lambda place: pair(place, begins=timedelta(days=-9), ends=timedelta(days=-1)),
    "not yet": lambda place: pair(place, begins=timedelta(days=1)),
    "no organization": lambda place: pair(place, organization=None),
    "not for signing": lambda place: pair(place, signs=False),
    "for servers": lambda place: pair(place, use=ExtendedKeyUsageOID.SERVER_AUTH),
    "alone": lambda place: pair(place, whole_chain=False),
    "no use": lambda place: pair(place, use=None),
    "weak": lambda place: pair(place, key=ec.generate_private_key(ec.SECP256K1())),
    "another key": lambda place: with_key(pair(place), key_pem(ec.generate_private_key(ec.SECP256R1()))),
    "passphrase": lambda place: with_key(pair(place), key_pem(ec.generate_private_key(ec.SECP256R1()), b"hush")),
    "nonsense key": lambda place: with_key(pair(place), b"nonsense"),
    "nonsense": lambda place: with_cert(pair(place), b"nonsense"),
    "missing": lambda place: pair(place)._replace(cert=place / "nowhere.pem"),
    "key missing": lambda place: pair(place)._replace(key=place / "nowhere.pem"),
}


def with_key(made: Pair, text: bytes) -> Pair:
    made.key.write_bytes(text)
    return made


def with_cert(made: Pair, text: bytes) -> Pair:
    made.cert.write_bytes(text)
    return made


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("self-signed", "signed by itself"),
        ("ended", "CERT ended on .* renewed"),
        ("not yet", "CERT is valid from .* clock"),
        ("no organization", "organization"),
        ("not for signing", "digitalSignature"),
        ("for servers", "extended key usages"),
        ("alone", "not followed by the one that issued it"),
        ("no use", "extended key usages"),
        ("weak", "KEY is of a kind .* use P-256"),
        ("another key", "KEY is not the key of"),
        ("passphrase", "KEY has a passphrase.*openssl pkey"),
        ("nonsense key", "KEY holds no private key"),
        ("nonsense", "CERT holds no certificate"),
        ("missing", "CERT names .* cannot be read"),
        ("key missing", "KEY names .* cannot be read"),
    ],
)
def test_a_certificate_that_nobody_would_accept_is_refused_with_what_mends_it(tmp_path, how, said):
    with pytest.raises(SettingsError, match=f"(?s){said}"):
        tried(given(tmp_path, **FLAWED[how](tmp_path).settings()))


@pytest.mark.parametrize("only", ["c2pa_cert", "c2pa_key"])
def test_half_a_pair_is_refused(tmp_path, only):
    with pytest.raises(SettingsError, match="set together"):
        credentials.load(given(tmp_path, **{only: pair(tmp_path).settings()[only]}))


def test_what_ended_since_the_start_signs_nothing_more(tmp_path):
    made = credentials.load(given(tmp_path))
    made.check_valid()
    with pytest.raises(SigningFailed, match="ended on"):
        made.check_valid(made.not_after)
