"""Which certificates this installation calls its own; reads PEM files as text, so the API needs no cryptography."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import platformdirs

from framewright.errors import SettingsError

CA_FILE: Final = "development-ca.pem"
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


class Choice(Protocol):
    """What provenance reads of the settings of a process."""

    @property
    def provenance(self) -> bool: ...
    @property
    def c2pa_cert(self) -> Path | None: ...
    @property
    def c2pa_key(self) -> Path | None: ...
    @property
    def provenance_dir(self) -> Path | None: ...
    @property
    def scratch_dir(self) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class Anchors:
    """Certificates as PEM text; None where there is none."""

    operator: str | None
    development: str | None


def place_of(settings: Choice) -> Path:
    """Where the development certificate is kept."""
    return settings.provenance_dir or Path(platformdirs.user_data_dir("framewright", appauthor=False)) / "provenance"


def certificates(text: str) -> list[str]:
    """Each certificate of a PEM file, in its order."""
    return [found[0] + "\n" for found in _CERTIFICATE.finditer(text)]


def anchors(settings: Choice) -> Anchors:
    """What a verifier here trusts. `SettingsError` when the operator's own certificate cannot be read."""
    operator = None
    if settings.c2pa_cert is not None:
        try:
            chain = certificates(settings.c2pa_cert.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"FRAMEWRIGHT_C2PA_CERT cannot be read: {type(error).__name__}") from error
        # Those that issued it, so that what an earlier certificate of theirs signed is known as well.
        operator = "".join(chain[1:]) or None
    try:
        development = (place_of(settings) / CA_FILE).read_text()
    except (OSError, UnicodeDecodeError):
        development = None
    return Anchors(operator, development)
