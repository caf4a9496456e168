"""Which way to place a model a GPU has room for: cards as they are sold, weights as they are, clips as asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_model import row

from framewright import catalogue
from framewright.catalogue.diffusion import Profile
from framewright.catalogue.row import FrameRule, ModelRow, SizeRule
from framewright.errors import InsufficientVram
from framewright.models.estimate import Component
from framewright.models.memory import least_mb, needed_mb, profile_for

GB = 1_000_000_000
# Bytes that CUDA shows of cards, as their owners post them; nvidia-smi shows up to 2 % more.
CARDS = {"L4": 23.66, "A10": 23.83, "4090": 25.39, "L40S": 47.67, "A40": 47.62, "A100-80": 84.99, "H100": 84.93}


def card(name: str) -> int:
    return round(CARDS[name] * 1000)


@pytest.mark.parametrize(
    ("name", "model", "profile"),
    [
        ("L4", "wan-2.2-t2v-a14b", "parts-fp8"),
        ("A10", "ltx-video-0.9-2b", "whole"),
        ("4090", "wan-2.2-ti2v-5b", "parts"),
        ("L40S", "ltx-video-0.9.7-13b", "whole"),
        ("A40", "wan-2.2-t2v-a14b", "parts"),
        ("A100-80", "wan-2.2-t2v-a14b", "whole"),
        ("H100", "ltx-2-19b", "whole"),
    ],
)
def test_a_card_fits_what_was_made_for_its_class(name: str, model: str, profile: str) -> None:
    assert profile_for(catalogue.named(model), card(name)).name == profile


def test_a_card_of_a_lower_class_does_not_pass_for_the_next() -> None:
    wan = catalogue.named("wan-2.1-t2v-1.3b")
    assert profile_for(wan, 20_470).name == "whole"
    assert profile_for(wan, 17_180).name == "parts"
    with pytest.raises(InsufficientVram, match=r"wan-2.1-t2v-1.3b needs at least 8 GB of GPU memory, .* has 6.44 GB"):
        profile_for(wan, 6_442)


WHOLE, PARTS, EIGHT, GROUPS = (
    Profile(name="whole", vram_mb=24_000),
    Profile(name="parts", vram_mb=12_000, offload="model"),
    Profile(name="eight", vram_mb=8_000, offload="model", fp8=True),
    Profile(name="groups", vram_mb=4_000, offload="group"),
)


def sized(*profiles: Profile) -> ModelRow:
    """A row whose usual clip is of 100 x 100 pixels and 10 frames."""
    made = row()
    assert made.diffusion is not None
    return replace(
        made,
        diffusion=replace(made.diffusion, profiles=profiles),
        size=SizeRule("model", default=(100, 100)),
        frames=FrameRule("params", 100, default=10),
    )


def part(name: str, gb: float, dtype: str = "BF16") -> Component:
    return Component(name, {dtype: round(gb * GB)})


def test_the_figure_of_the_row_is_the_least_whatever_lies_on_disk() -> None:
    small = (part("transformer", 1), part("vae", 1))
    assert [needed_mb(sized(), one, small) for one in (WHOLE, PARTS, EIGHT, GROUPS)] == [24_000, 12_000, 8_000, 4_000]
    assert needed_mb(sized(), WHOLE, small, work=1) == 24_000


def test_weights_larger_than_the_figure_count_as_what_is_there_at_a_time() -> None:
    large = (part("transformer", 20), part("text_encoder", 18), part("vae", 2))
    # All of them, the largest, the largest with the denoiser in 8 bits, and what the row says.
    assert [needed_mb(sized(), one, large) for one in (WHOLE, PARTS, EIGHT, GROUPS)] == [40_000, 20_000, 18_000, 4_000]
    assert least_mb(sized(WHOLE, PARTS), large) == 20_000
    with pytest.raises(InsufficientVram, match="at least 20 GB"):
        profile_for(sized(WHOLE, PARTS), 16_000, large)


def test_weights_count_in_the_precision_that_they_are_loaded_in() -> None:
    stored = (part("transformer", 60, "F32"), part("vae", 5, "BF16"))
    made = sized(WHOLE)
    assert needed_mb(made, WHOLE, stored) == 35_000
    assert made.diffusion is not None
    fine = replace(made, diffusion=replace(made.diffusion, dtypes={"default": "bfloat16", "vae": "float32"}))
    assert needed_mb(fine, WHOLE, stored) == 40_000


def test_a_clip_larger_than_usual_takes_more_in_proportion() -> None:
    weights = (part("transformer", 10), part("text_encoder", 6), part("vae", 2))
    usual = 100 * 100 * 10
    assert [needed_mb(sized(), WHOLE, weights, work=times * usual) for times in (1, 2, 3)] == [24_000, 30_000, 36_000]
    made = sized(WHOLE, PARTS)
    assert [profile_for(made, 24_000, weights, times * usual).name for times in (1, 2)] == ["whole", "parts"]


def test_a_clip_too_large_for_every_profile_gets_the_one_that_takes_least() -> None:
    weights = (part("transformer", 10),)
    assert profile_for(sized(WHOLE, PARTS), 24_000, weights, work=100 * 100 * 1000).name == "parts"
    assert profile_for(sized(WHOLE, PARTS), 12_000, weights, work=100 * 100 * 1000).name == "parts"


def test_when_memory_ran_out_a_way_further_down_is_taken() -> None:
    row, names = sized(WHOLE, PARTS, EIGHT, GROUPS), [None, "whole", "parts", "eight", "groups"]
    assert [profile_for(row, 24_000, after=name).name for name in names] == [
        "whole", "parts", "eight", "groups", "groups"
    ]  # fmt: skip
    # What was held for a smaller clip ran out with a larger one: what that needs is tried, and nothing is left out.
    larger = {"parts": (part("transformer", 8), part("vae", 1)), "work": 150_000}
    assert [profile_for(row, 24_000, **larger, after=name).name for name in names[:3]] == ["parts", "parts", "eight"]
