"""The files that a clip can become: their endings, types, and how ffmpeg writes sound and tags into each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

AAC_RATES: Final = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
"""Samples a second that AAC knows; sound of any other rate becomes 48,000."""
USUAL_RATE: Final = 48_000


@dataclass(frozen=True, slots=True)
class File:
    """One kind of file: ending, media type, the flags of its muxer, and the codec of its sound (None: it has none).

    `tags` are the names under which players look for a comment. `playback`: browsers do not show it, so a small H.264
    rendition goes with it.
    """

    ending: str
    content_type: str
    flags: tuple[str, ...] = ()
    sound: str | None = None
    playback: bool = False
    tags: tuple[str, ...] = ("comment",)

    def rate(self, given: int) -> int:
        """Samples a second of the sound in such a file, from sound of that rate."""
        if self.sound == "pcm_s16le" or (self.sound == "aac" and given in AAC_RATES):
            return given
        return USUAL_RATE

    def heard(self, given: int) -> list[str]:
        """The argv of its sound, encoded from sound of that rate."""
        code = {"aac": ("-b:a", "160k"), "libopus": ("-b:a", "128k")}.get(self.sound or "", ())
        return ["-c:a", str(self.sound), *code, "-ar", str(self.rate(given))]


# The index goes in front, so that a clip plays while it is being fetched.
MP4: Final = File("mp4", "video/mp4", ("-movflags", "+faststart"), "aac")
# An editor wants sound as it was made. Tags of the old kind hold 64 kB at most, those of use_metadata_tags any length.
MOV: Final = File(
    *("mov", "video/quicktime", ("-movflags", "+faststart+use_metadata_tags"), "pcm_s16le"),
    playback=True,
    tags=("comment", "com.apple.quicktime.comment"),
)
WEBM: Final = File("webm", "video/webm", (), "libopus")
GIF: Final = File("gif", "image/gif")
ZIP: Final = File("zip", "application/zip", playback=True)
WAV: Final = File("wav", "audio/wav")
FORMATS: Final[Mapping[str, File]] = MappingProxyType(
    {"hevc": MP4, "h264": MP4, "any": MP4, "prores": MOV, "webm": WEBM, "gif": GIF, "png": ZIP}
)
"""What each `format` or `codec` of a request becomes."""
