"""What an exception is charged as, and what people are told of it."""

from __future__ import annotations

import errno

import pytest

from framewright.errors import (
    BadInput,
    Canceled,
    EngineError,
    InsufficientVram,
    InvalidOutput,
    LicenceNotAccepted,
    ModelNotReady,
    StorageUnavailable,
    WeightsRefused,
    Yielded,
)
from framewright.jobs import Outcome
from workers.verdict import LONGEST, judge, sentence


def torch_error(name: str, base: type[Exception] = RuntimeError, text: str = "") -> Exception:
    return type(name, (base,), {"__module__": "torch"})(text)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BadInput("the picture is torn", field="/input/image"), Outcome.BAD_INPUT),
        (InvalidOutput("every frame is black"), Outcome.INVALID_OUTPUT),
        (Canceled("stop"), Outcome.CANCELED),
        (Yielded("drain"), Outcome.YIELDED),
        (MemoryError(), Outcome.HOST_OOM),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Outcome.HOST_OOM),
        (OSError(errno.ENOSPC, "No space left on device"), Outcome.TRANSIENT_INFRA),
        (StorageUnavailable("storage does not answer"), Outcome.TRANSIENT_INFRA),
        (EngineError("the model says no"), Outcome.APP_ERROR),
        (ModelNotReady("half pulled"), Outcome.MODEL_NOT_READY),
        (WeightsRefused("a pickle"), Outcome.WEIGHTS_REFUSED),
        (LicenceNotAccepted("read it"), Outcome.LICENCE_NOT_ACCEPTED),
        (InsufficientVram("too small"), Outcome.INSUFFICIENT_VRAM),
        (FileNotFoundError(errno.ENOENT, "No such file"), Outcome.APP_ERROR),
        (ZeroDivisionError("division by zero"), Outcome.APP_ERROR),
        (SystemExit(3), Outcome.APP_ERROR),
        (torch_error("OutOfMemoryError"), Outcome.GPU_OOM),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), Outcome.GPU_ERROR),
    ],
)
def test_each_error_is_charged_to_its_class(error, outcome):
    assert judge(error).outcome is outcome


def test_a_refused_file_of_the_request_is_bad_input_and_no_fault_of_the_worker():
    error = BadInput("a pickle", field="/params/loras/0")
    error.__cause__ = WeightsRefused("a pickle")
    assert judge(error).outcome is Outcome.BAD_INPUT


def test_the_command_stays_in_the_sentence_and_the_path_goes():
    error = ModelNotReady("svd is not ready: /srv/models/svd has no manifest; run: framewright models pull svd")
    said = judge(error).message
    assert said == "svd is not ready: (path) has no manifest; run: framewright models pull svd"


def test_bad_input_names_the_field():
    assert judge(BadInput("the picture is torn", field="/input/images/3")).field == "/input/images/3"


def test_a_full_disk_behind_another_error_is_still_a_full_disk():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/var/tmp/x")
        except OSError as disk:
            raise EngineError("the encoder broke") from disk
    except EngineError as error:
        verdict = judge(error)
    assert (verdict.outcome, verdict.message) == (Outcome.TRANSIENT_INFRA, "the scratch disk is full")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("cannot open /home/alice/models/wan/x.safetensors", "alice"),
        ("HTTPSConnectionPool: https://user:hunter22@s3.internal:9000/bucket?X-Amz-Signature=abc", "hunter22"),
        ("bad key fw_live_abc_SECRETSECRET", "SECRETSECRET"),
        ("password=hunter22 rejected", "hunter22"),
    ],
)
def test_a_sentence_gives_away_neither_paths_nor_addresses_nor_secrets(text, secret):
    said = sentence(text)
    assert secret not in said
    assert said.split()[0] == text.split()[0].split("=")[0] or "hidden" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: rm '/srv/my models/wan/x'", "run: rm '(path)'"),
        ('cannot open "/srv/it\'s mine/wan/x": denied', 'cannot open "(path)": denied'),
        ("/srv/my models/wan/x is refused: /srv/a/b", "(path) is refused: (path)"),
        ("run: rm '/srv/wan/x' && rm '/srv/wan/y'", "run: rm '(path)' && rm '(path)'"),
        ("it's in /srv/wan and it's torn", "it's in (path) and it's torn"),
    ],
)
def test_a_path_with_a_space_is_hidden_whole(text, said):
    assert sentence(text) == said


def test_a_sentence_is_one_short_line_with_nothing_invisible():
    said = sentence("first\nsecond\x00\u202ethird " + "x" * 5000)
    assert said.startswith("first second")
    assert len(said) <= LONGEST
    assert said.isprintable()


def test_an_unknown_error_says_its_class():
    assert judge(ZeroDivisionError("division by zero")).message == "ZeroDivisionError: division by zero"


def test_sizes_rates_and_fields_stay_readable():
    text = "frame 3 of /input/images/2 is 64x48 at 30000/1001 fps"
    assert "30000/1001" in sentence(text)
