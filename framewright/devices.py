"""How fast GPUs compute, by the name that their driver gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

TENSOR: Final[Mapping[str, float]] = MappingProxyType(
    {
        "B300": 2250, "B200": 2250, "GB200": 2500,
        "H200": 989, "GH200": 989, "H100": 989, "H100 PCIe": 756, "H100 NVL": 835, "H800": 989, "H20": 148,
        "A100": 312, "A800": 312, "A40": 150, "A30": 165, "A10": 125, "A10G": 70,
        "L40S": 362, "L40": 181, "L4": 121, "T4": 65, "V100": 125, "V100 PCIe": 112,
        "RTX 5090": 209, "RTX 5080": 113, "RTX 5070 Ti": 88, "RTX 4090": 165, "RTX 4090 D": 147, "RTX 4080": 97,
        "RTX 4080 SUPER": 104, "RTX 3090": 71, "RTX 3090 Ti": 80, "RTX 3080": 60,
        "RTX PRO 6000 Blackwell": 503, "RTX 6000 Ada": 364, "RTX A6000": 155, "RTX A5000": 111,
    }
)  # fmt: skip
"""Published TFLOP/s of tensor cores with 16-bit floats, sums in 32 bits and dense matrices."""
WITHOUT_BFLOAT16: Final[Mapping[str, float]] = MappingProxyType({"T4": 8.1, "V100": 15.7, "V100 PCIe": 14.0})
"""Published TFLOP/s in 32 bits of GPUs older than bfloat16, which they can do no faster."""
UTILISATION: Final = 0.4
"""The part of the published rate that denoisers reach: their makers' own timings come to 0.3 (HunyuanVideo, 720p on an
H100) to 0.6 (CogVideoX-5B on an A100)."""
_MAKER: Final = re.compile(r"^(NVIDIA |Tesla |GeForce |Quadro )*")
# A slice has a part of the rate that is not told, and a laptop's chip is another one of the same name.
_OTHER: Final = re.compile(r"\b(MIG|Laptop|Max-Q)\b")


def rate(name: str, floats: str) -> float | None:
    """FLOP/s that a denoiser in these floats is likely to reach there; None for a GPU or floats not listed."""
    model = _model(name)
    if model is None or floats == "float32":
        return None
    slow = WITHOUT_BFLOAT16.get(model) if floats == "bfloat16" else None
    return (slow or TENSOR[model]) * 1e12 * UTILISATION


def _model(name: str) -> str | None:
    """The longest name of the table that this one begins with, in whole words: "H100 80GB HBM3" is an H100.

    Where a card has two forms, the slower one says so: at the end, as "A100 80GB PCIe" does, or at once.
    """
    if _OTHER.search(name):
        return None
    bare = _MAKER.sub("", name).replace("PCIE", "PCIe").replace("-", " ")
    found = max((one for one in TENSOR if re.match(rf"{one}(?![\w.])", bare)), key=len, default=None)
    form = f"{found} PCIe"
    return form if form in TENSOR and "PCIe" in bare.split() else found
