"""The licences of open weights, as far as an operator has to know them before anything is pulled. Not legal advice."""

from __future__ import annotations

from typing import Final

from framewright.catalogue.row import Licence

APACHE: Final = Licence("Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0")
LTX_OPEN_RAIL: Final = Licence(
    "LTX-Video OpenRAIL-M",
    url="https://huggingface.co/Lightricks/LTX-Video-0.9.5/blob/main/License.txt",
    note="Forbids the uses that its appendix lists, and so must whoever you pass outputs or weights on to.",
    accept=True,
)
LTXV_OPEN_WEIGHTS: Final = Licence(
    "LTXV Open Weights",
    url="https://huggingface.co/Lightricks/LTX-Video/blob/main/LTX-Video-Open-Weights-License-0.X.txt",
    note="Entities with a yearly revenue of $10,000,000 or more need a paid licence.",
    accept=True,
    revenue_cap_usd=10_000_000,
)
LTX2_COMMUNITY: Final = Licence(
    "LTX-2.x Community",
    url="https://huggingface.co/Lightricks/LTX-2/blob/main/LICENSE",
    note=(
        "Entities with a yearly revenue of $10,000,000 or more need a paid licence, and so may fine-tunes passed on."
    ),
    accept=True,
    revenue_cap_usd=10_000_000,
)
HUNYUAN: Final = Licence(
    "Tencent Hunyuan Community",
    url="https://huggingface.co/tencent/HunyuanVideo/blob/main/LICENSE",
    note=(
        "Grants nothing in the EU, the UK and South Korea; over 100 million monthly users need a licence of their own; "
        "outputs must not train other models."
    ),
    accept=True,
    excluded_regions=("EU", "GB", "KR"),
)
COGVIDEOX: Final = Licence(
    "CogVideoX",
    url="https://huggingface.co/zai-org/CogVideoX-5b/blob/main/LICENSE",
    note="Commercial use has to be registered with its makers, and ends at 1,000,000 visits a month.",
    accept=True,
)
STABILITY: Final = Licence(
    "Stability AI Community",
    url="https://stability.ai/license",
    note="Commercial use has to be registered; from a yearly revenue of $1,000,000 on it takes a paid licence.",
    accept=True,
    revenue_cap_usd=1_000_000,
)
CREATIVE_ML: Final = Licence(
    "CreativeML OpenRAIL-M",
    url="https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    note="Forbids the uses that its appendix lists. The motion adapter on top of it is Apache-2.0.",
    accept=True,
)
