"""Pictures of every kind that people send, made on the spot, and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """A picture whose every corner has another colour, and that no flip or turn leaves as it is."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.full_like(x, 90)
    return Image.fromarray(np.dstack([red, green, blue]).astype(np.uint8))


def packed(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def turned(orientation: int, kind: str = "JPEG", **how: Any) -> bytes:
    """A photo whose EXIF says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return packed(photo(), kind, exif=exif, **how)


def animated(kind: str) -> bytes:
    return packed(photo(), kind, save_all=True, append_images=[Image.new("RGB", (64, 48), (1, 2, 3))], duration=100)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def huge_png(width: int, height: int) -> bytes:
    """A valid file of about one thousandth of width x height bytes that unpacks to as many black grey pixels."""
    total, piece = (1 + width) * height, 1 << 20

    def zeros(count: int, end: int) -> bytes:
        packer = zlib.compressobj(9, wbits=-15)
        return packer.compress(bytes(count)) + packer.flush(end)

    # Flushed pieces can be repeated without packing each: only the checksum has to know how many there are.
    data = zeros(piece, zlib.Z_FULL_FLUSH) * (total // piece) + zeros(total % piece, zlib.Z_FINISH)
    packed_rows = b"\x78\xda" + data + struct.pack(">HH", total % 65521, 1)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", packed_rows) + _chunk(b"IEND", b"")


def huge_webp(width: int, height: int) -> bytes:
    """A WebP header that promises that canvas, with nothing behind it."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def swapped_profile() -> bytes:
    """An ICC profile like sRGB's, except that its red is sRGB's green and the other way round."""
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    text = b"swapped\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": b"XYZ " + bytes(4) + fixed(*green),
        b"gXYZ": b"XYZ " + bytes(4) + fixed(*red),
        b"bXYZ": b"XYZ " + bytes(4) + fixed(*blue),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
        b"cprt": b"text" + bytes(4) + b"none\0",
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    head = bytearray(128)
    head[0:4] = struct.pack(">I", start + len(data))
    head[8:12] = b"\x02\x10\x00\x00"
    head[12:24] = b"mntrRGB XYZ "
    head[36:40] = b"acsp"
    head[68:80] = fixed(0.9642, 1.0, 0.8249)
    return bytes(head) + table + data
