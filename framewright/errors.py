"""What can go wrong, as sentences: one base class, a stable `code` for machines, a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request: a JSON pointer (RFC 6901), a stable code and a sentence without the value."""

    pointer: str
    code: str
    detail: str


class FramewrightError(Exception):
    """Everything this service says on purpose. `retryable` tells a client that the same request may work later."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, fields: tuple[FieldError, ...] = (), retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields
        self.retry_after_s = retry_after_s


class BadRequest(FramewrightError):
    """The request as a whole cannot be read (JSON, headers, cursors)."""

    code = "bad_request"


class InvalidParams(FramewrightError):
    """A well-formed request asks for something that cannot be; `fields` names where."""

    code = "invalid_params"


class UnknownModel(InvalidParams):
    """No catalogue row has that name for that kind."""

    code = "unknown_model"


class AssetUnusable(InvalidParams):
    """The asset exists but is of the wrong kind, still uploading, or not what its name says."""

    code = "asset_unusable"


class BodyTooLarge(FramewrightError):
    """The body passes the cap of its route."""

    code = "body_too_large"


class UnsupportedMedia(FramewrightError):
    """The bytes are not a picture or clip that this service reads."""

    code = "unsupported_media"


class Unauthenticated(FramewrightError):
    """No key, or a key that is unknown, expired or revoked. Which of these is never told."""

    code = "unauthenticated"


class Forbidden(FramewrightError):
    """The key is good but lacks the scope that the route asks for."""

    code = "forbidden"


class NotFound(FramewrightError):
    """No such thing for this tenant; another tenant's id answers the same bytes."""

    code = "not_found"


class Gone(FramewrightError):
    """It was here and is over: a file's retention, an upload's link, the deleted job of an Idempotency-Key."""

    code = "gone"


class Conflict(FramewrightError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class IdempotencyKeyReuse(FramewrightError):
    """The same Idempotency-Key came with another body."""

    code = "idempotency_key_reuse"


class RangeNotSatisfiable(FramewrightError):
    """The Range header asks for bytes past the end."""

    code = "range_not_satisfiable"


class TooManyRequests(FramewrightError):
    """A quota, a rate limit or the queue cap; `Retry-After` says when."""

    code = "too_many_requests"
    retryable = True


class DatabaseUnavailable(FramewrightError):
    """Postgres does not answer. Nothing was accepted."""

    code = "database_unavailable"
    retryable = True


class StorageUnavailable(FramewrightError):
    """S3 does not answer."""

    code = "storage_unavailable"
    retryable = True


class ObjectMissing(FramewrightError):
    """S3 has no object under that key."""

    code = "object_missing"


class BrokerUnavailable(FramewrightError):
    """Redis does not answer; doorbells and live progress wait, jobs do not."""

    code = "broker_unavailable"
    retryable = True


class EmbeddedServerError(FramewrightError):
    """A local Postgres, Valkey or S3 server cannot be started; the sentence names the fix."""

    code = "embedded_server"


class SettingsError(FramewrightError):
    """A setting is missing or wrong; found at start, named in the sentence."""

    code = "settings"


class ModelNotReady(FramewrightError):
    """A model's weights are not on this machine, or not whole; the sentence has the command that fixes it."""

    code = "model_not_ready"


class LicenceNotAccepted(FramewrightError):
    """A model's licence asks for consent that nobody here has given."""

    code = "licence_not_accepted"


class WeightsRefused(FramewrightError):
    """A file of weights is not well-formed safetensors, or a folder of them holds what must not be there."""

    code = "weights_refused"


class HubUnavailable(FramewrightError):
    """The hub of weights does not answer, or not with what a hub answers."""

    code = "hub_unavailable"
    retryable = True


class HubRefused(FramewrightError):
    """The hub does not hand out a model, or offers files that are not taken."""

    code = "hub_refused"


class DiskFull(FramewrightError):
    """The weights do not fit on the disk."""

    code = "disk_full"


class EngineError(FramewrightError):
    """An engine could not do the work; the retry table decides what happens next."""

    code = "app_error"


class InsufficientVram(EngineError):
    """A model does not fit in this worker's GPU memory; the sentence says how much it takes."""

    code = "insufficient_vram"


class BadInput(EngineError):
    """Only decoding could tell that the input is unusable. Never retried; `field` names it."""

    code = "bad_input"

    def __init__(self, detail: str, *, field: str) -> None:
        super().__init__(detail, fields=(FieldError(field, "bad_input", detail),))
        self.field = field


class InvalidOutput(EngineError):
    """The output gate refused what the engine wrote."""

    code = "invalid_output"


class SigningFailed(FramewrightError):
    """An output that must carry a signed manifest could not be given one, so it was not published."""

    code = "signing_failed"
    retryable = True


class Canceled(FramewrightError):
    """The run was told to stop: an outcome, not a failure."""

    code = "canceled"


class Yielded(FramewrightError):
    """The run stopped at a boundary because its worker drains; it goes on elsewhere."""

    code = "yielded"
