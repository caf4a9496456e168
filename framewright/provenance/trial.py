"""Signs a picture of one pixel: the only way to know that the library takes a certificate."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Final

from framewright.catalogue.row import DigitalSource, Provenance
from framewright.errors import FramewrightError, SettingsError
from framewright.provenance.anchors import Choice
from framewright.provenance.credentials import Credentials, load
from framewright.provenance.manifest import Making
from framewright.provenance.signing import Unsigned, sign

_PIXEL: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
_MAKING: Final = Making("trial", "trial", "trial", Provenance("c2pa.created", DigitalSource.ALGORITHMIC, "A trial."))


def tried(settings: Choice) -> Credentials | None:
    """As `credentials.load`, and has signed with them. Takes some tenths of a second; asks no time stamp authority."""
    credentials = load(settings)
    if credentials is not None:
        with tempfile.TemporaryDirectory(prefix="framewright-trial-", dir=settings.scratch_dir) as folder:
            path = Path(folder) / "pixel.png"
            path.write_bytes(_PIXEL)
            try:
                sign(credentials, _MAKING, [Unsigned("pixel", path, "image/png")])
            except FramewrightError as error:
                fix = "replace it, or FRAMEWRIGHT_PROVENANCE=off"
                raise SettingsError(
                    f"the {credentials.kind}'s certificate does not sign: {error.detail}; {fix}"
                ) from error
    return credentials
