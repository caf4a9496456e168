"""What is on disk is told as it is, with the command that mends it; what rotted is found; what goes is gone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from model_hub import Hub
from tiny_model import BOUND, REPO, kept, put, repository, row, safetensors, there, weights

from framewright.catalogue import camera_move
from framewright.catalogue.diffusion import Repo
from framewright.errors import FramewrightError, LicenceNotAccepted, ModelNotReady, SettingsError, WeightsRefused
from framewright.models.estimate import components, estimate, loaded
from framewright.models.home import Home, State, default_models_dir
from framewright.models.manifest import NAME, Manifest
from framewright.models.verify import remove, usage, verify
from framewright.settings import ModelSettings, model_settings

Pull = Callable[..., Manifest]
VAE = "vae/diffusion_pytorch_model.safetensors"


def quiet(_: object) -> None:
    pass


def test_nothing_there_is_absent_and_the_command_is_named(home: Home) -> None:
    here = home.look(row())
    assert (here.state, here.fix) == (State.ABSENT, "framewright models pull tiny")
    with pytest.raises(
        ModelNotReady, match="the weights of tiny are not on this machine; run: framewright models pull tiny"
    ):
        home.ready(row())


@pytest.mark.parametrize("name", ["../up", "/abs", "", ".", "..", "A", "a/b", "a b", "-rf"])
def test_a_row_cannot_lead_out_of_the_models_directory(home: Home, name: str) -> None:
    with pytest.raises(WeightsRefused):
        home.folder(row(name=name))


def spoil_missing(folder: Path) -> None:
    (folder / VAE).unlink()


def spoil_short(folder: Path) -> None:
    os.truncate(folder / VAE, 10)


def spoil_link(folder: Path) -> None:
    (folder / VAE).rename(folder.parent / "elsewhere")
    (folder / VAE).symlink_to(folder.parent / "elsewhere")


def spoil_pickle(folder: Path) -> None:
    (folder / "vae" / "pytorch_model.bin").write_bytes(b"x")


def spoil_code(folder: Path) -> None:
    (folder / "pipeline.PY").write_bytes(b"x")


def spoil_stray_weights(folder: Path) -> None:
    (folder / "vae" / "model.safetensors").write_bytes(weights(8, 1))


def spoil_stray_index(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_bytes(b"{}")


def spoil_manifest(folder: Path) -> None:
    (folder / NAME).write_text("{")


def spoil_manifest_path(folder: Path) -> None:
    manifest = json.loads((folder / NAME).read_text())
    manifest["files"][0]["path"] = "../../outside.json"
    (folder / NAME).write_text(json.dumps(manifest))


MENDED_BY_PULL = (spoil_missing, spoil_short, spoil_manifest, spoil_manifest_path)
REFUSED = (spoil_link, spoil_pickle, spoil_code, spoil_stray_weights, spoil_stray_index)


@pytest.mark.parametrize("spoil", MENDED_BY_PULL + REFUSED)
def test_a_damaged_folder_is_never_loaded(pulling: Pull, home: Home, spoil: Callable[[Path], None]) -> None:
    pulling()
    spoil(home.folder(row()))
    here = home.look(row())
    assert here.state is State.DAMAGED
    assert str(home.root) not in str(here.why)
    with pytest.raises(ModelNotReady, match=r"framewright models (pull|rm|verify) tiny") as refused:
        home.ready(row())
    assert str(home.root) not in refused.value.detail


@pytest.mark.parametrize("state", ["foreign", "other", "pulled", "own", "no own"])
def test_a_refusal_has_no_path_of_the_machine(pulling: Pull, home: Home, tmp_path: Path, state: str) -> None:
    asked = row()
    match state:
        case "foreign":
            put(home.folder(asked), kept())
        case "other":
            pulling()
            asked = row(repo=Repo(id="studio/other"))
        case "pulled":
            pulling()
            body = (home.folder(asked) / VAE).read_bytes()
            (home.folder(asked) / VAE).write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
            verify(asked, home, quiet)
        case "own":
            put(tmp_path / "own", kept() | {"vae/x.bin": b"x"})
            asked = row(folder=tmp_path / "own")
        case "no own":
            asked = row(folder=tmp_path / "own")
    with pytest.raises(ModelNotReady, match=r"^tiny is not ready: ") as refused:
        home.ready(asked)
    assert str(tmp_path) not in refused.value.detail
    assert str(home.root) not in refused.value.detail


def test_a_stray_file_is_named_within_the_folder_and_whole_on_the_machine_itself(pulling: Pull, home: Home) -> None:
    pulling()
    spoil_stray_weights(home.folder(row()))
    stray = home.folder(row()) / "vae" / "model.safetensors"
    assert home.look(row()).fix == f"rm '{stray}'"
    with pytest.raises(ModelNotReady) as refused:
        home.ready(row())
    assert refused.value.detail == (
        "tiny is not ready: vae/model.safetensors of tiny is not part of what was pulled and might be loaded; "
        "run: framewright models verify tiny"
    )
    with pytest.raises(WeightsRefused, match="run: rm '/"):
        verify(row(), home, quiet)


@pytest.mark.parametrize("spoil", MENDED_BY_PULL)
def test_a_pull_mends_what_a_pull_can(pulling: Pull, hub: Hub, home: Home, spoil: Callable[[Path], None]) -> None:
    pulling()
    spoil(home.folder(row()))
    hub.seen.clear()
    pulling()
    assert there(home.ready(row())) == kept()
    assert len(hub.asked("/resolve/")) <= 1


@pytest.mark.parametrize("spoil", REFUSED)
def test_a_pull_does_not_touch_what_is_not_its_own(pulling: Pull, home: Home, spoil: Callable[[Path], None]) -> None:
    pulling()
    spoil(home.folder(row()))
    with pytest.raises(FramewrightError):
        pulling()


def test_harmless_strangers_are_left_alone(pulling: Pull, home: Home) -> None:
    pulling()
    put(home.folder(row()), {"README.md": b"mine", ".DS_Store": b"x", "preview.png": b"x"})
    assert home.look(row()).state is State.COMPLETE


class TestVerify:
    def test_every_byte_is_read(self, pulling: Pull, home: Home) -> None:
        manifest = pulling()
        told: list[int] = []
        found = verify(row(), home, lambda step: told.append(step.done))
        assert (found.wrong, found.size, told[-1]) == ((), manifest.size, manifest.size)

    def test_a_flipped_bit_is_found_and_the_model_is_not_loaded_any_more(
        self, pulling: Pull, hub: Hub, home: Home
    ) -> None:
        pulling()
        path = home.ready(row()) / VAE
        body = bytearray(path.read_bytes())
        body[-1] ^= 1
        path.write_bytes(body)
        assert home.look(row()).state is State.COMPLETE, "names and sizes do not tell"
        assert verify(row(), home, quiet).wrong == (VAE,)
        here = home.look(row())
        assert (here.state, here.fix) == (State.DAMAGED, "framewright models pull tiny")
        hub.seen.clear()
        pulling()
        assert there(home.ready(row())) == kept()
        assert len(hub.asked("/resolve/")) == 1

    def test_a_missing_file_is_found(self, pulling: Pull, home: Home) -> None:
        pulling()
        (home.folder(row()) / VAE).unlink()
        assert verify(row(), home, quiet).wrong == (VAE,)

    def test_a_stranger_is_found(self, pulling: Pull, home: Home) -> None:
        pulling()
        spoil_pickle(home.folder(row()))
        with pytest.raises(WeightsRefused, match=r"pytorch_model\.bin"):
            verify(row(), home, quiet)

    def test_right_hashes_of_a_lying_file_do_not_help_it(self, pulling: Pull, home: Home) -> None:
        """A folder that was copied from a stranger, with a manifest made to fit."""
        pulling()
        body, folder = b"\x80\x04\x95 a pickle", home.folder(row())
        (folder / VAE).write_bytes(body)
        manifest = json.loads((folder / NAME).read_text())
        for file in manifest["files"]:
            if file["path"] == VAE:
                file |= {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        (folder / NAME).write_text(json.dumps(manifest))
        with pytest.raises(WeightsRefused, match=r"diffusion_pytorch_model\.safetensors is refused"):
            verify(row(), home, quiet)

    def test_what_is_not_whole_is_not_verified(self, home: Home) -> None:
        with pytest.raises(ModelNotReady, match="framewright models pull tiny"):
            verify(row(), home, quiet)
        put(home.folder(row()), kept())
        with pytest.raises(ModelNotReady, match=f"no {NAME}"):
            verify(row(), home, quiet)


class TestRemove:
    def test_all_of_it_goes(self, pulling: Pull, home: Home) -> None:
        manifest = pulling()
        assert remove(row(), home) > manifest.size
        assert home.look(row()).state is State.ABSENT
        assert [path.name for path in home.root.iterdir() if path.is_dir()] == []

    def test_of_a_link_only_the_link_goes(self, home: Home, tmp_path: Path) -> None:
        put(tmp_path / "disk", kept())
        home.root.mkdir()
        home.folder(row()).symlink_to(tmp_path / "disk")
        assert remove(row(), home) == 0
        assert there(tmp_path / "disk") == kept()

    def test_links_inside_are_not_followed(self, home: Home, tmp_path: Path) -> None:
        put(tmp_path / "disk", kept())
        home.folder(row()).mkdir(parents=True)
        (home.folder(row()) / "vae").symlink_to(tmp_path / "disk")
        remove(row(), home)
        assert there(tmp_path / "disk") == kept()

    def test_a_folder_of_the_operators_own_stays(self, home: Home, tmp_path: Path) -> None:
        put(tmp_path / "own", kept())
        with pytest.raises(WeightsRefused, match="of your own"):
            remove(row(folder=tmp_path / "own"), home)
        assert there(tmp_path / "own") == kept()

    def test_what_is_not_there_cannot_go(self, home: Home) -> None:
        with pytest.raises(ModelNotReady):
            remove(row(), home)


def test_weights_of_ones_own_ask_for_the_licence_too(home: Home, tmp_path: Path) -> None:
    put(tmp_path / "own", kept())
    own = row(licence=BOUND, folder=tmp_path / "own")
    assert not home.look(own).accepted
    with pytest.raises(LicenceNotAccepted, match="name the model in FRAMEWRIGHT_ACCEPTED_LICENCES"):
        home.ready(own)
    assert Home(home.root, accepted=frozenset({"tiny"})).ready(own) == tmp_path / "own"
    assert home.ready(row(folder=tmp_path / "own")) == tmp_path / "own"


def test_usage_counts_every_folder_and_knows_whose_it_is(pulling: Pull, home: Home) -> None:
    assert usage(home, (row(),)) == []
    pulling()
    put(home.root / "old-model", {"x": bytes(100)})
    found = {use.name: use for use in usage(home, (row(), camera_move.ROW))}
    assert (found["old-model"].size, found["old-model"].known, found["tiny"].known) == (100, False, True)
    assert found["tiny"].size == home.look(row()).size


class TestEstimate:
    def test_of_weights_on_disk_it_counts_what_is_loaded(self, pulling: Pull, home: Home) -> None:
        pulling(row(repo=Repo(id=REPO, without=())))
        found = estimate(row(), home)
        sizes = {part.name: part.size for part in found.components}
        # Neither the fp16 copy of the transformer nor any header counts.
        assert sizes == {"transformer": 1000, "vae": 1000, "text_encoder": 1024}
        assert (found.basis, found.size, found.vram_mb) == ("disk", 3024, 8000)
        encoder = next(part for part in found.components if part.name == "text_encoder")
        assert (encoder.bytes_by_dtype, encoder.numbers) == ({"BF16": 1000, "F32": 24}, 506)

    def test_parts_of_a_base_that_the_one_file_holds_are_not_counted(self, tmp_path: Path) -> None:
        parts = ("base/transformer", "base/vae", "base/text_encoder")
        put(tmp_path, {"all.safetensors": weights(2000, 2)})
        put(tmp_path, {f"{part}/model.safetensors": weights(1000, 1) for part in parts})
        facts = row(repo=Repo(id=REPO, single="all.safetensors"), base=Repo(id="studio/base")).diffusion
        assert facts is not None
        assert {part.name: part.size for part in loaded(facts, tmp_path)} == {".": 2000, "base/text_encoder": 1000}

    def test_of_weights_elsewhere_it_tells_what_the_row_knows(self, home: Home) -> None:
        found = estimate(row(), home)
        assert (found.basis, found.components, found.vram_mb) == ("row", (), 8000)

    def test_a_model_without_weights_needs_none(self, home: Home) -> None:
        assert estimate(camera_move.ROW, home).size == 0

    def test_it_is_what_torch_holds_after_loading(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        diffusers = pytest.importorskip("diffusers")
        torch.set_num_threads(1)
        vae = diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
        vae.to(torch.bfloat16).save_pretrained(tmp_path / "vae", max_shard_size="100KB")
        (part,) = components(tmp_path)
        assert part.size == sum(one.numel() * one.element_size() for one in vae.state_dict().values())


def test_the_settings_say_where_and_what_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRAMEWRIGHT_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("FRAMEWRIGHT_ACCEPTED_LICENCES", "tiny, other ,")
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")
    settings = ModelSettings()
    home = Home.of(settings)
    assert (home.root, home.accepted) == (tmp_path, {"tiny", "other"})
    assert (settings.token, "hf_theirs" in repr(settings)) == ("hf_theirs", False)
    monkeypatch.setenv("FRAMEWRIGHT_HUB_TOKEN", "hf_ours")
    monkeypatch.delenv("FRAMEWRIGHT_MODELS_DIR")
    again = ModelSettings()
    assert again.token == "hf_ours"
    assert Home.of(again).root == default_models_dir()


@pytest.mark.parametrize("url", ["https://mirror.example", "https://huggingface.co.example", "http://localhost:8080"])
def test_a_token_of_hugging_face_goes_to_no_other_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")
    monkeypatch.setenv("FRAMEWRIGHT_HUB_URL", url)
    assert ModelSettings().token is None
    monkeypatch.setenv("FRAMEWRIGHT_HUB_TOKEN", "hf_ours")
    assert ModelSettings().token == "hf_ours"


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://mirror.example", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost", True),
        ("http://mirror.example", False),
        ("http://10.0.0.7", False),
        ("http://huggingface.co", False),
        ("http://localhost.example", False),
    ],
)
def test_only_a_hub_on_this_machine_is_asked_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, url: str, taken: bool
) -> None:
    monkeypatch.setenv("FRAMEWRIGHT_HUB_URL", url)
    if taken:
        assert model_settings().hub_url == url
        return
    with pytest.raises(SettingsError, match="FRAMEWRIGHT_HUB_URL: it must be an https:// URL"):
        model_settings()


def test_another_repository_than_the_row_names_is_not_loaded(pulling: Pull, hub: Hub, home: Home) -> None:
    pulling()
    hub.commit("studio/other", repository() | {"vae/config.json": safetensors({})})
    other = row(repo=Repo(id="studio/other"))
    assert home.look(other).state is State.PARTIAL
    pulling(other)
    assert home.look(other).state is State.COMPLETE
