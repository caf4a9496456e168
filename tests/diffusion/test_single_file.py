"""A checkpoint that comes in one file is read with no more of its base than a pull brings."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from shelves import Shelf

from framewright import catalogue
from framewright.catalogue.diffusion import Repo
from framewright.catalogue.offering import whole
from framewright.models.contents import check
from workers.diffusion.loading import Loaded

ROW = "ltx-video-0.9.8-13b"


def brought(theirs: Path, repo: Repo, folder: Path) -> None:
    """Copies the files that a pull of the repository takes."""
    for path in (path for path in theirs.rglob("*") if path.is_file()):
        name = str(path.relative_to(theirs))
        asked = any(fnmatchcase(name, pattern) for pattern in repo.files)
        if asked and not any(fnmatchcase(name, pattern) for pattern in repo.without):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)


_TRANSFORMER = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}
_BLOCK = re.compile(r"(mid_block|(up|down)_blocks\.\d)(\.(up|down)samplers\.0)?(?=\.)")


def in_words_of_its_makers(transformer: Mapping[str, torch.Tensor], vae: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Names in diffusers -> names in a file of the makers, from which diffusers finds the way back."""
    told: dict[str, str] = {}
    for name in transformer:
        theirs = name
        for ours, other in _TRANSFORMER.items():
            theirs = theirs.replace(ours, other)
        told[f"transformer.{name}"] = f"model.diffusion_model.{theirs}"
    shape = {"vae.encoder.conv_out.conv.weight": vae["encoder.conv_out.conv.weight"]}
    for name in vae:
        plain = name.replace("resnets", "res_blocks").replace("latents_mean", "per_channel_statistics.mean-of-means")
        plain = plain.replace("latents_std", "per_channel_statistics.std-of-means")
        kind = "up" if "decoder" in name else "down"
        tried = [plain, *(_BLOCK.sub(f"{kind}_blocks.{number}", plain) for number in range(10))]
        told[f"vae.{name}"] = next(
            f"vae.{one}"
            for one in tried
            if name in single_file_utils.convert_ltx_vae_checkpoint_to_diffusers({**shape, f"vae.{one}": vae[name]})
        )
    return told


@pytest.mark.parametrize("complete", [True, False])
def test_the_file_and_its_base_make_the_model(shelf: Shelf, tmp_path: Path, complete: bool) -> None:
    facts = catalogue.named(ROW).diffusion
    assert facts is not None
    assert facts.base is not None
    assert facts.repo.single is not None
    theirs = shelf.load("ltx-condition")
    parts = {"transformer": theirs.transformer, "vae": theirs.vae}
    base = tmp_path / "base"
    # A machine that pulled when the base was taken whole goes on with what it has.
    brought(shelf.repository("ltx-condition"), Repo(id="x/y") if complete else facts.base, base)
    assert any((base / "vae").glob("*.safetensors")) == complete
    names = in_words_of_its_makers(theirs.transformer.state_dict(), theirs.vae.state_dict())
    values = {f"{part}.{name}": value for part, one in parts.items() for name, value in one.state_dict().items()}
    told = {names[name]: value.contiguous() + 1 for name, value in values.items()}
    assert len(told) == len(values)
    save_file(told, tmp_path / facts.repo.single)
    check(tmp_path)
    pipe = Loaded(facts, tmp_path, base=base, profile=whole(0), device="cpu").pipe("t2v", 32)
    for part, module in parts.items():
        loaded = getattr(pipe, part).state_dict()
        assert loaded.keys() == module.state_dict().keys()
        for name, value in module.state_dict().items():
            assert torch.equal(loaded[name], (value + 1).to(torch.bfloat16)), f"{part}.{name} is not of the file"
