"""What a worker fetches before a step and brings away after it."""

from __future__ import annotations

import pytest
from desk import picture

from framewright.errors import InvalidOutput
from framewright.jobs import Outcome
from workers import transfer
from workers.verdict import judge


def test_a_still_becomes_a_clip(desk, worker):
    job = desk.succeeded(desk.animate(*desk.uploaded(picture())))
    main = job.outputs[0]
    assert (main.frames, main.width, main.height, main.content_type) == (4, 192, 128, "video/mp4")


def test_pictures_become_one_clip_in_the_order_given_also_when_one_is_named_twice(desk, worker):
    named = [desk.uploaded(picture(colour)) for colour in ("red", "blue")]
    order = [named[0][0], named[1][0], named[0][0]]
    job_id = desk.submit(kind="encode", input={"images": order}, params={"fps": 2}, assets=dict(named))
    assert desk.succeeded(job_id).outputs[0].frames == 3


def test_a_later_step_gets_the_committed_file_of_the_one_before(desk, worker):
    clip = {"frames": 3, "size": "192x152", "steps": 2}
    job_id = desk.submit(
        kind="pipeline",
        steps=[
            {"name": "clip", "kind": "animate", "model": "scripted", "params": clip},
            {"name": "again", "kind": "animate", "model": "scripted", "params": clip, "input": {"video": "@clip"}},
        ],
    )
    job = desk.succeeded(job_id)
    assert [step.state for step in job.steps] == ["succeeded", "succeeded"]


def test_an_input_that_is_gone_is_named_and_nothing_is_tried_again(desk, worker):
    name, facts = desk.uploaded(picture("green"))
    desk.storage.delete([facts.key])
    job = desk.ended(desk.animate(name, facts))
    assert (job.error.code, job.error.field) == ("bad_input", "/input/image")
    assert len(job.attempts) == 1


def test_an_input_that_stays_other_than_uploaded_is_named_and_never_reaches_an_engine(desk, worker):
    data = picture("white")
    name, facts = desk.uploaded(data)
    place = desk.settings.scratch_dir / "damaged"
    place.write_bytes(data[:-1] + b"?")
    desk.storage.put_file(facts.key, place, "image/png", sha256=bytes(32))
    place.unlink()
    job = desk.ended(desk.animate(name, facts))
    assert (job.error.code, job.error.field) == ("bad_input", "/input/image")
    assert len(job.attempts) == 1


def test_bytes_that_only_a_decoder_can_tell_are_bad_input_fail_the_job_naming_the_field(desk, worker):
    job = desk.ended(desk.animate(*desk.uploaded(b"this is not a picture at all" * 9)))
    assert (job.error.code, job.error.field) == ("bad_input", "/input/image")


@pytest.mark.parametrize("trick", ["outside", "link", "missing", "directory"])
def test_an_output_that_is_not_the_engines_own_file_is_not_uploaded(tmp_path, trick):
    work = tmp_path / "work"
    work.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    path = {"outside": work / ".." / "secret", "link": work / "link", "missing": work / "no", "directory": work}[trick]
    if trick == "link":
        path.symlink_to(secret)
    with pytest.raises(InvalidOutput) as refused:
        transfer.inside(work, {"name": "video", "path": str(path)})
    assert judge(refused.value).outcome is Outcome.INVALID_OUTPUT
    assert str(tmp_path) not in refused.value.detail
