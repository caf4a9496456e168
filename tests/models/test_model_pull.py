"""A pull brings what was asked for, from the commit that was asked for, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from model_hub import Hub
from tiny_model import BOUND, FREE, REPO, TAKEN, kept, put, repository, row, safetensors, there, weights

from framewright import catalogue
from framewright.catalogue.diffusion import Repo, Upscale
from framewright.errors import (
    DiskFull,
    FramewrightError,
    HubRefused,
    HubUnavailable,
    LicenceNotAccepted,
    ModelNotReady,
    WeightsRefused,
)
from framewright.models.estimate import estimate
from framewright.models.home import Home, State
from framewright.models.manifest import NAME, PARTS, Consent, Manifest

Pull = Callable[..., Manifest]


def test_weights_and_their_configuration_come_and_nothing_else(pulling: Pull, hub: Hub, home: Home) -> None:
    manifest = pulling()
    folder = home.ready(row())
    assert there(folder) == kept()
    assert {file.path: file.sha256 for file in manifest.files} == {
        name: hashlib.sha256(body).hexdigest() for name, body in kept().items()
    }
    assert (manifest.complete, manifest.sources["repo"].revision) == (True, hub.repositories[REPO].branches["main"])
    assert not (folder / PARTS).exists()


def test_the_reference_client_finds_the_stand_in_to_be_a_hub(hub: Hub, tmp_path: Path) -> None:
    """Else what is shown here would be shown of nothing real."""
    pytest.importorskip("huggingface_hub")
    hub.page = 3
    script = "import sys, json, huggingface_hub as h; h.snapshot_download(**json.loads(sys.argv[1]))"
    wanted = {"repo_id": REPO, "endpoint": hub.url, "local_dir": str(tmp_path / "theirs"), "token": False}
    # It reads its environment once, when it is imported.
    offline = ("HF_", "TRANSFORMERS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(offline)}
    subprocess.run(
        [sys.executable, "-c", script, json.dumps(wanted | {"allow_patterns": sorted(TAKEN)})],
        env=environment | {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "cache")},
        check=True,
        timeout=120,
    )
    assert {name: body for name, body in there(tmp_path / "theirs").items() if not name.startswith(".")} == kept()


def test_a_complete_model_asks_nobody(pulling: Pull, hub: Hub) -> None:
    first = pulling()
    hub.seen.clear()
    assert pulling() == first
    assert not hub.seen


def test_a_long_list_of_files_is_read_to_its_end(pulling: Pull, hub: Hub) -> None:
    hub.page = 2
    pulling()
    assert len(hub.asked("/tree/")) > 3


def test_the_commit_of_the_row_is_pulled_and_not_the_newest(pulling: Pull, hub: Hub, home: Home) -> None:
    old = hub.repositories[REPO].branches["main"]
    hub.commit(REPO, repository() | {"vae/diffusion_pytorch_model.safetensors": weights(1000, 9)})
    asked = row(repo=Repo(id=REPO, revision=old))
    assert pulling(asked).sources["repo"].revision == old
    assert there(home.ready(asked)) == kept()


def test_a_pull_that_began_stays_with_its_commit_when_the_branch_moves(pulling: Pull, hub: Hub, home: Home) -> None:
    old = hub.repositories[REPO].branches["main"]
    hub.say["/cdn/"] = [(404, b"", {})]
    with pytest.raises(HubRefused):
        pulling()
    hub.commit(REPO, {"model_index.json": b"{}", "new.safetensors": weights(8, 9)})
    assert pulling().sources["repo"].revision == old
    assert there(home.ready(row())) == kept()


def test_a_version_that_wants_another_commit_fetches_only_what_differs(pulling: Pull, hub: Hub, home: Home) -> None:
    pulling()
    changed = repository() | {"vae/diffusion_pytorch_model.safetensors": weights(1000, 9)}
    del changed["transformer/config.json"]
    asked = row(repo=Repo(id=REPO, revision=hub.commit(REPO, changed)))
    assert home.look(asked).state is State.PARTIAL
    hub.seen.clear()
    pulling(asked)
    assert len(hub.asked("/resolve/")) == 1
    assert there(home.ready(asked)) == {name: body for name, body in changed.items() if name in TAKEN}


def test_base_and_upscaler_lie_apart_from_the_repository(pulling: Pull, hub: Hub, home: Home) -> None:
    small = {"config.json": b"{}", "model.safetensors": weights(64, 5)}
    hub.commit("studio/adapter", small)
    hub.commit("studio/larger", repository())
    upscale = Upscale(
        repo=Repo(id="studio/larger"), pipeline="X", first=Fraction(2, 3), factor=2, strength=0.4, steps=10
    )
    three = row(
        repo=Repo(id="studio/adapter", files=("*.safetensors", "config.json")), base=Repo(id=REPO), upscale=upscale
    )
    manifest = pulling(three)
    expected = small | {f"{part}/{name}": body for part in ("base", "upscale") for name, body in kept().items()}
    assert there(home.ready(three)) == expected
    asked = {"repo": "studio/adapter", "base": REPO, "upscale": "studio/larger"}
    assert {part: source.repo for part, source in manifest.sources.items()} == asked


def test_what_a_row_reads_from_one_file_is_not_fetched_from_its_base_as_well(
    pulling: Pull, hub: Hub, home: Home
) -> None:
    theirs = catalogue.named("ltx-video-0.9.8-13b").diffusion
    assert theirs is not None
    assert theirs.base is not None
    checkpoint = {"ltxv.safetensors": weights(5000, 5)}
    hub.commit("studio/checkpoints", checkpoint)
    single = Repo(id="studio/checkpoints", files=("ltxv.safetensors",), without=(), single="ltxv.safetensors")
    one = row(repo=single, base=replace(theirs.base, id=REPO, revision=None))
    pulling(one)
    weightless = {name for name in TAKEN if not name.startswith(("transformer/diffusion", "vae/diffusion"))}
    assert there(home.ready(one)) == checkpoint | {f"base/{name}": kept()[name] for name in weightless}
    assert {part.name for part in estimate(one, home).components} == {".", "base/text_encoder"}


def test_progress_counts_every_byte_once_and_names_every_file(pulling: Pull) -> None:
    told: list[Any] = []
    manifest = pulling(report=told.append)
    assert [step.done for step in told] == sorted(step.done for step in told)
    assert (told[0].done, told[-1].done, told[-1].total) == (0, manifest.size, manifest.size)
    assert {step.file for step in told} - {None} == TAKEN


class TestLicence:
    def test_nothing_is_asked_for_before_it_is_accepted(self, pulling: Pull, hub: Hub, home: Home) -> None:
        with pytest.raises(LicenceNotAccepted, match="--accept-licence"):
            pulling(row(licence=BOUND))
        assert not hub.seen
        assert home.look(row(licence=BOUND)).state is State.ABSENT

    def test_consent_is_written_down(self, pulling: Pull, home: Home) -> None:
        consent = Consent(licence=BOUND.name, by="ann@desk", at="2026-01-01T00:00:00Z", how="--accept-licence")
        pulling(row(licence=BOUND), agree=lambda _: consent)
        assert home.look(row(licence=BOUND)).manifest.consent == consent  # type: ignore[union-attr]
        home.ready(row(licence=BOUND))

    def test_the_setting_is_consent(self, pulling: Pull, home: Home) -> None:
        willing = Home(home.root, accepted=frozenset({"tiny"}))
        manifest = pulling(row(licence=BOUND), home=willing)
        assert manifest.consent is not None
        assert manifest.consent.how == "FRAMEWRIGHT_ACCEPTED_LICENCES"

    def test_weights_without_consent_are_not_handed_out(self, pulling: Pull, home: Home) -> None:
        pulling()
        with pytest.raises(LicenceNotAccepted, match="framewright models pull tiny --accept-licence"):
            home.ready(row(licence=BOUND))
        assert Home(home.root, accepted=frozenset({"tiny"})).ready(row(licence=BOUND))

    def test_other_terms_want_another_consent(self, pulling: Pull, home: Home) -> None:
        old = Consent(licence=BOUND.name, by="ann", at="2026-01-01T00:00:00Z", how="")
        pulling(row(licence=BOUND), agree=lambda _: old)
        with pytest.raises(LicenceNotAccepted):
            home.ready(row(licence=replace(BOUND, name="Tiny Licence 2.0")))


class TestGated:
    def test_without_a_token_it_is_said_how_to_get_one(self, pulling: Pull, hub: Hub) -> None:
        hub.repositories[REPO].gated = True
        with pytest.raises(
            HubRefused, match=rf"no token is set: ask for access at {hub.url}/{REPO}, then set .*HF_TOKEN"
        ):
            pulling()

    def test_with_a_token_that_has_no_access_it_is_said_so(self, pulling: Pull, hub: Hub) -> None:
        hub.repositories[REPO].gated = True
        with pytest.raises(HubRefused, match="your token has no access") as refused:
            pulling(token="hf_wrong")
        assert "hf_wrong" not in refused.value.detail

    def test_a_token_opens_it_and_never_goes_to_another_server(self, pulling: Pull, hub: Hub) -> None:
        hub.repositories[REPO].gated = True
        pulling(token="hf_right")
        assert {seen.authorization for seen in hub.seen if seen.server == "hub"} == {"Bearer hf_right"}
        assert {seen.authorization for seen in hub.seen if seen.server == "cdn"} == {None}


class TestHostileHub:
    @pytest.mark.parametrize(
        "name", ["../evil.safetensors", "/etc/evil.safetensors", "vae/../../evil.json", "vae//x.json"]
    )
    def test_names_that_lead_out_refuse_the_whole(self, pulling: Pull, hub: Hub, home: Home, name: str) -> None:
        hub.commit(REPO, repository() | {name: weights(8, 9)})
        with pytest.raises(HubRefused, match=f"{REPO} is refused"):
            pulling(row(repo=Repo(id=REPO, files=("*",))))
        assert not list(home.root.rglob("*evil*")) + list(home.root.parent.glob("*evil*"))

    @pytest.mark.parametrize(
        "names", [("vae/A.json", "vae/a.json"), ("x.json", "x.json/y.json"), ("framewright.json",)]
    )
    def test_names_that_collide_refuse_the_whole(self, pulling: Pull, hub: Hub, names: tuple[str, ...]) -> None:
        hub.commit(REPO, repository() | dict.fromkeys(names, b"{}"))
        with pytest.raises((HubRefused, WeightsRefused)):
            pulling(row(repo=Repo(id=REPO, files=("*",))))

    def test_patterns_never_bring_code(self, pulling: Pull, home: Home) -> None:
        asked = row(repo=Repo(id=REPO, files=("*",), without=()))
        pulling(asked)
        assert not {Path(name).suffix for name in there(home.ready(asked))} & {".bin", ".py", ".md", ""}

    @pytest.mark.parametrize(
        ("files", "why"),
        [
            ({"model_index.json": b"{}", "vae/pytorch_model.bin": b"x"}, "no safetensors"),
            ({"vae/x.safetensors": weights(8, 1)}, "no model_index.json"),
        ],
    )
    def test_what_is_no_pipeline_of_safetensors_is_refused(
        self, pulling: Pull, hub: Hub, files: dict[str, bytes], why: str
    ) -> None:
        hub.commit(REPO, files)
        with pytest.raises(HubRefused, match=why):
            pulling()

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("vae/diffusion_pytorch_model.safetensors", (1 << 60).to_bytes(8, "little") + b"{}"),
            ("vae/diffusion_pytorch_model.safetensors", b"\x80\x04\x95pickle, named otherwise"),
            ("model_index.json", json.dumps({"_class_name": "X", "vae": ["os", "System"]}).encode()),
        ],
    )
    def test_weights_that_lie_never_become_complete(
        self, pulling: Pull, hub: Hub, home: Home, name: str, body: bytes
    ) -> None:
        hub.commit(REPO, repository() | {name: body})
        with pytest.raises(WeightsRefused, match=name.rpartition("/")[2].replace(".", r"\.")):
            pulling()
        with pytest.raises(ModelNotReady, match="framewright models pull tiny"):
            home.ready(row())

    def test_a_longer_file_than_listed_is_not_taken_in(self, pulling: Pull, hub: Hub) -> None:
        hub.repositories[REPO].listed["vae/diffusion_pytorch_model.safetensors"] = {"size": 100}
        with pytest.raises(HubRefused, match=r"more of vae/diffusion_pytorch_model\.safetensors than the 100 bytes"):
            pulling()

    @pytest.mark.parametrize(
        "entry",
        [
            {"size": -1},
            {"size": "1"},
            {"size": None},
            {"path": 7},
            {"lfs": {"oid": "short"}},
            {"oid": None, "lfs": None},
        ],
    )
    def test_a_list_without_names_sizes_or_hashes_is_refused(
        self, pulling: Pull, hub: Hub, entry: dict[str, Any]
    ) -> None:
        hub.repositories[REPO].listed["vae/diffusion_pytorch_model.safetensors"] = entry
        with pytest.raises(HubUnavailable, match="without a name, size and hash"):
            pulling()

    def test_a_list_that_goes_on_elsewhere_is_not_followed(self, pulling: Pull, hub: Hub) -> None:
        hub.say["/tree/"] = [(200, b"[]", {"Link": f'<{hub.cdn}/api/models/x/tree/y>; rel="next"'})]
        with pytest.raises(HubRefused, match="continues its list"):
            pulling()
        assert not [seen for seen in hub.seen if seen.server == "cdn"]

    def test_another_commit_than_asked_for_is_refused(self, pulling: Pull, hub: Hub) -> None:
        hub.say["/revision/"] = [(200, json.dumps({"sha": "a" * 40}).encode(), {})]
        with pytest.raises(HubRefused, match=r"where b{40} was asked for"):
            pulling(row(repo=Repo(id=REPO, revision="b" * 40)))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Repo(id="studio/none"), "has no studio/none that can be read"),
        (Repo(id=REPO, revision="c" * 40), "does not have that revision"),
        (Repo(id="../../etc"), "no name of a repository"),
        (Repo(id="a/b?x=1"), "no name of a repository"),
    ],
)
def test_what_the_hub_does_not_have_is_named(pulling: Pull, asked: Repo, why: str) -> None:
    with pytest.raises(HubRefused, match=why):
        pulling(row(repo=asked))


def test_what_does_not_fit_is_said_before_a_byte_is_fetched(pulling: Pull, hub: Hub, home: Home) -> None:
    large = {"size": 10**18, "lfs": {"oid": "a" * 64, "size": 10**18}}
    hub.repositories[REPO].listed["vae/diffusion_pytorch_model.safetensors"] = large
    with pytest.raises(DiskFull, match=r"tiny needs 1000000000\.2 GB more, and .* has [\d.]+ GB free"):
        pulling()
    assert not hub.asked("/resolve/")
    assert home.look(row()).state is State.ABSENT


class TestFoldersThatAreThere:
    def test_right_files_of_unknown_origin_are_kept_and_wrong_ones_are_not(
        self, pulling: Pull, hub: Hub, home: Home
    ) -> None:
        files = kept()
        wrong = {"vae/diffusion_pytorch_model.safetensors": weights(1000, 99), "transformer/config.json": b"{" * 500}
        put(home.folder(row()), files | wrong)
        assert home.look(row()).state is State.PARTIAL
        pulling()
        assert there(home.ready(row())) == files
        asked = {seen.path.partition("?")[0] for seen in hub.asked("/resolve/")}
        assert {path.rpartition("/resolve/")[2].partition("/")[2] for path in asked} == set(wrong)

    @pytest.mark.parametrize("path", ["vae", "vae/diffusion_pytorch_model.safetensors", NAME])
    def test_a_link_is_neither_followed_nor_written_through(
        self, pulling: Pull, home: Home, tmp_path: Path, path: str
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        target = outside / "file"
        target.write_bytes(b"precious")
        at = home.folder(row()) / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.symlink_to(outside if path == "vae" else target)
        with suppress(FramewrightError):
            pulling()
        assert [child.name for child in outside.iterdir()] == ["file"]
        assert target.read_bytes() == b"precious"

    def test_a_part_that_is_a_link_is_not_written_through(
        self, pulling: Pull, hub: Hub, home: Home, tmp_path: Path
    ) -> None:
        hub.say["/cdn/"] = [(404, b"", {})] * 9
        with pytest.raises(HubRefused):
            pulling()
        parts = home.folder(row()) / PARTS
        hub.say.clear()
        precious = tmp_path / "precious"
        precious.write_bytes(b"precious")
        for part in parts.iterdir():
            part.unlink()
            part.symlink_to(precious)
        with pytest.raises(WeightsRefused, match="cannot be written"):
            pulling()
        assert precious.read_bytes() == b"precious"

    def test_only_one_process_pulls_a_model(self, pulling: Pull, home: Home) -> None:
        with home.hold(row()), pytest.raises(ModelNotReady, match="another process"):
            pulling()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written_is_named(self, pulling: Pull, home: Home) -> None:
        home.root.mkdir(mode=0o500)
        with pytest.raises(PermissionError) as refused:
            pulling()
        assert str(home.root) in str(refused.value.filename)


def test_a_folder_of_the_operators_own_is_checked_and_never_pulled(pulling: Pull, home: Home, tmp_path: Path) -> None:
    own = row(folder=tmp_path / "own")
    assert home.look(own).state is State.ABSENT
    put(tmp_path / "own", kept())
    assert home.ready(own) == tmp_path / "own"
    (tmp_path / "own" / "run.py").write_text("")
    with pytest.raises(ModelNotReady, match=r"run\.py"):
        home.ready(own)
    with pytest.raises(WeightsRefused, match="no weights to pull"):
        pulling(own)


def test_weights_of_many_dtypes_survive_the_way(pulling: Pull, hub: Hub, home: Home) -> None:
    body = safetensors({"a": ("F8_E4M3", (3,), bytes(3)), "b": ("F64", (), bytes(8))}, {"format": "pt"})
    hub.commit(REPO, repository() | {"vae/diffusion_pytorch_model.safetensors": body})
    pulling(row(licence=FREE))
    assert (home.ready(row()) / "vae/diffusion_pytorch_model.safetensors").read_bytes() == body
