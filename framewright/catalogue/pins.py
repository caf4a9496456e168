"""Commits of the repositories that rows take weights from, in one place: rows of one repository take the same commit.

A commit stands here when public records name it beside its repository. None: the first pull fixes the one it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from framewright.catalogue.diffusion import Repo

PINS: Final[Mapping[str, str | None]] = MappingProxyType(
    {
        "Lightricks/LTX-2": "47da56e2ad66ce4125a9922b4a8826bf407f9d0a",
        "Lightricks/LTX-2.5-Diffusers": "426936f8b22dc28e4def61e515478b0b7e4a53cc",
        "Lightricks/LTX-Video": "8984fa25007f376c1a299016d0957a37a2f797bb",
        "Lightricks/LTX-Video-0.9.5": "e58e28c39631af4d1468ee57a853764e11c1d37e",
        "Lightricks/LTX-Video-0.9.7-dev": "2101082f5eb5540770a2df43747feadb6f69b889",
        "Lightricks/LTX-Video-0.9.7-distilled": "057509edea1493cae5e62e9d8f780ebda3fb4333",
        "Lightricks/LTX-Video-0.9.8-13B-distilled": "7c64400e1861cc0d7b98d570a1926d5408ec60cd",
        "Lightricks/ltxv-spatial-upscaler-0.9.7": "c96c168c2bd8bbc82c9fe8259e5f89f8b2ea293f",
        "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers": "17c30769b1e0b5dcaa1799b117bf20a9c31f59d7",
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": "b184e23a8a16b20f108f727c902e769e873ffc73",
        "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": "eb849f76dfa246545b65774a9e25943ee69b3fa3",
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "0fad780a534b6463e45facd96134c9f345acfa5b",
        "Wan-AI/Wan2.1-T2V-14B-Diffusers": "38ec498cb3208fb688890f8cc7e94ede2cbd7f68",
        "Wan-AI/Wan2.1-VACE-1.3B-diffusers": "ec4d2cb062b548996b179d493fdd05340de702a1",
        "Wan-AI/Wan2.1-VACE-14B-diffusers": "db79b90c60bbb45ceec9e41b9d5a4df934538ac4",
        "Wan-AI/Wan2.2-Animate-14B-Diffusers": "6f4df10861c758af86ac3c979aacc1bf5c03eff0",
        "Wan-AI/Wan2.2-I2V-A14B-Diffusers": "596658fd9ca6b7b71d5057529bbf319ecbc61d74",
        "Wan-AI/Wan2.2-T2V-A14B-Diffusers": "5be7df9619b54f4e2667b2755bc6a756675b5cd7",
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers": "b8fff7315c768468a5333511427288870b2e9635",
        "diffusers/LTX-2.3-Diffusers": "8eee8edcf067e838b843f926ec4d4cc9b2be1aaf",
        "diffusers/LTX-2.3-Distilled-Diffusers": "432e0d3c2d1769aaa4d295f9243f7062bf6b47ee",
        "genmo/mochi-1-preview": "14be5fcea23095ed330cb214647916a451e38b6e",
        "guoyww/animatediff-motion-adapter-v1-5-3": None,
        "hunyuanvideo-community/HunyuanVideo": "e8c2aaa66fe3742a32c11a6766aecbf07c56e773",
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v": "5a700ee883ff4c1b3d887ec4188755a7a5e2f698",
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v_distilled": None,
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v_step_distilled": (
            "854c04a4c8a53d990b418c7478f0802c0fc8c726"
        ),
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v": "286be7ce72277246578a3e3cc2487e95ddae5bcf",
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v_distilled": (
            "1abb14f06518f37448dcf3a6917dd086dd7045c7"
        ),
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_i2v": "dcf088ef4e420dd54bc25930ee810bb6613dfcb5",
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_i2v_distilled": None,
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_t2v": "f4dbc4a1efa4ac8ea56680cdf79d9f455105e814",
        "hunyuanvideo-community/HunyuanVideo-I2V": None,
        "hunyuanvideo-community/HunyuanVideo-I2V-33ch": None,
        "stabilityai/stable-video-diffusion-img2vid": "9cf024d5bfa8f56622af86c884f26a52f6676f2e",
        "stabilityai/stable-video-diffusion-img2vid-xt": "9e43909513c6714f1bc78bcb44d96e733cd242aa",
        "stabilityai/stable-video-diffusion-img2vid-xt-1-1": "043843887ccd51926e3efed36270444a838e7861",
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        "zai-org/CogVideoX-2b": "1137dacfc2c9c012bed6a0793f4ecf2ca8e7ba01",
        "zai-org/CogVideoX-5b": "8d6ea3f817438460b25595a120f109b88d5fdfad",
        "zai-org/CogVideoX-5b-I2V": "c5c783ca1606069b9996dc56f207cc2e681691ed",
        "zai-org/CogVideoX1.5-5B": "fdc5267c90b5c06492985b966e43aae984e189e0",
        "zai-org/CogVideoX1.5-5B-I2V": "46c90528707aebbe69066390b4fe7e7d24c9c2a4",
    }
)


def pinned(repo: str, **facts: Any) -> Repo:
    """The repository at its commit."""
    return Repo(id=repo, revision=PINS[repo], **facts)
