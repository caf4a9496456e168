"""The only reader of the environment: `FRAMEWRIGHT_<NAME>`, checked once when a process starts."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from framewright.errors import SettingsError
from framewright.wording import form, worded

HUGGING_FACE: Final = "huggingface.co"


class ModelSettings(BaseSettings):
    """Where weights lie and come from: all that `framewright models` needs, which asks no service."""

    model_config = SettingsConfigDict(
        env_prefix="FRAMEWRIGHT_", extra="ignore", frozen=True, hide_input_in_errors=True, populate_by_name=True
    )

    models_dir: Path | None = Field(
        None, description="Where the weights of models lie, a folder for each; empty is the user's data directory."
    )
    catalogue: Path | None = Field(
        None, description="A TOML file with models of your own, made like those of the catalogue; see `docs/models.md`."
    )
    hub_url: str = Field(
        f"https://{HUGGING_FACE}",
        pattern=form(r"^https?://[^\s/]+", "an http:// or https:// URL"),
        description=(
            "The hub that `framewright models pull` fetches from: Hugging Face, or a mirror that speaks like it; "
            "`http://` is taken for this machine only."
        ),
    )
    hub_token: SecretStr | None = Field(None, description="Token for gated repositories, for whatever hub is set.")
    hf_token: SecretStr | None = Field(
        None,
        validation_alias="HF_TOKEN",
        description="The same for `huggingface.co` alone: no other hub is ever shown it.",
    )
    accepted_licences: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Models whose licence you have read and accept, comma separated; what `--accept-licence` does for one.",
    )

    @property
    def token(self) -> str | None:
        """What the hub is shown: a token of Hugging Face goes to nobody else."""
        theirs = self.hf_token if urlsplit(self.hub_url).hostname == HUGGING_FACE else None
        token = self.hub_token or theirs
        return token.get_secret_value() if token else None

    @field_validator("hub_url")
    @classmethod
    def _private(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme == "http" and not _loopback(parts.hostname or ""):
            raise ValueError("it must be an https:// URL; http:// is for a hub on this machine")
        return value

    @field_validator("accepted_licences", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _parts(value)


class Settings(ModelSettings):
    """Settings that every process shares; each field's description is what `docs/operate.md` says of it."""

    database_url: SecretStr = Field(description="Postgres (14 or newer) as `postgresql://user:password@host:port/db`.")
    redis_url: SecretStr = Field(description="Redis or Valkey (6.2 or newer) as `redis://host:port/0`.")
    redis_prefix: str = Field("fw:", description="Prefix of every key and queue in Redis.")
    s3_endpoint: str | None = Field(None, description="S3 endpoint as the services reach it; empty for AWS.")
    s3_public_endpoint: str | None = Field(None, description="S3 endpoint as clients reach it, for presigned links.")
    s3_region: str = Field("us-east-1", description="S3 region.")
    s3_bucket: str = Field("framewright", description="Bucket of inputs and outputs; created when missing.")
    s3_access_key: SecretStr | None = Field(None, description="S3 access key; empty uses the usual AWS chain.")
    s3_secret_key: SecretStr | None = Field(None, description="S3 secret key.")
    s3_multipart_mb: int = Field(
        16, ge=5, le=512, description="Files larger than this go up in parts of this size (MiB)."
    )
    presign_s: int = Field(900, ge=30, le=900, description="Lifetime of a presigned link to download or upload (s).")
    public_url: str = Field("http://127.0.0.1:8000", description="Where clients reach the API; links start with it.")
    key_pepper: SecretStr = Field(description="Secret that API keys are hashed with; changing it revokes every key.")
    bootstrap_key: SecretStr | None = Field(
        None,
        description="An admin key (`fw_live_…`) that the API makes sure exists at start; make one with `framewright keys generate`.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Further origins, comma separated, whose pages may open sockets; the public URL's own origin always may.",
    )
    max_json_kb: int = Field(512, ge=16, le=8192, description="Largest JSON body (KiB).")
    max_upload_mb: int = Field(2048, ge=1, description="Largest uploaded asset (MiB).")
    max_pixels: int = Field(33_177_600, ge=1_000_000, description="Largest picture (pixels, width x height).")
    max_queued: int = Field(100_000, ge=1, description="Open jobs over this answer 429 and make readiness fail.")
    max_queued_per_tenant: int = Field(10_000, ge=1, description="Open jobs of one tenant over this answer 429.")
    max_sockets: int = Field(5000, ge=1, description="Open sockets and event streams of one API process.")
    idempotency_h: float = Field(24, gt=0, description="How long an Idempotency-Key is remembered (hours).")
    asset_ttl_h: float = Field(24 * 30, gt=0, description="How long inputs and outputs are kept (hours).")
    retention_gb: float | None = Field(
        None, gt=0, description="Oldest outputs go when the bucket holds more (GB); empty keeps all."
    )
    event_ttl_h: float = Field(24 * 90, gt=0, description="How long events of ended jobs are kept (hours).")
    lease_s: float = Field(30, ge=1, description="A worker that does not renew for this long has lost its step (s).")
    renew_s: float = Field(
        5, ge=0.1, description="How often a worker renews, and so hears of a cancel at the latest (s)."
    )
    stall_s: float = Field(120, ge=1, description="A step without progress for this long is taken away (s).")
    idle_claim_s: float = Field(15, ge=0.2, description="A worker without a doorbell looks for work this often (s).")
    cancel_grace_s: float = Field(10, ge=0, description="From telling a runner to stop until killing it (s).")
    drain_grace_s: float = Field(
        20, ge=0, description="How long a terminating worker lets its runner reach a boundary (s)."
    )
    upload_retry_s: float = Field(300, ge=0, description="How long one attempt retries S3 before it gives up (s).")
    reconcile_s: float = Field(1, ge=0.05, description="Pause between two rounds of the reconciler (s).")
    doorbell_s: float = Field(15, ge=0.2, description="A waiting step is rung for again after this (s).")
    worker_ttl_s: float = Field(60, ge=2, description="A worker not heard of for this long counts as gone (s).")
    unload_s: float = Field(
        600, ge=0.2, description="A worker with nothing to do for this long gives the memory of its model back (s)."
    )
    host_cache_gb: float = Field(
        0,
        ge=0,
        description="Weights of models that were unloaded are kept in main memory up to this (GB); 0 keeps none.",
    )
    scratch_dir: Path | None = Field(
        None, description="Scratch space of running steps; empty is the system's temporary directory."
    )
    ffmpeg: Path | None = Field(None, description="The ffmpeg to run; empty is a newer system one or the wheel's.")
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        ("cpu", "encode"), description="Queues a worker serves, comma separated: gpu, enhance, encode, encode.hw, cpu."
    )
    worker_name: str | None = Field(None, description="Stable name of a worker; empty makes one from host and process.")
    provenance: bool = Field(
        True, description="Sign every output with a C2PA manifest that says how it was made (`on` or `off`)."
    )
    c2pa_cert: Path | None = Field(
        None,
        description="Your certificate for signing, with those that issued it after it (PEM); empty makes a development one.",
    )
    c2pa_key: Path | None = Field(None, description="The private key of that certificate (PEM, without a passphrase).")
    c2pa_tsa_url: str | None = Field(
        None,
        pattern=form(r"^https?://[^\s/]+", "an http:// or https:// URL"),
        description="Time stamp authority (RFC 3161) that workers ask at each signature; empty asks nobody.",
    )
    provenance_dir: Path | None = Field(
        None,
        description="Where the development certificate is kept, for workers and API; empty is the user's data directory.",
    )
    test_engines: bool = Field(False, description="Serve the scripted engine; for tests only.")
    log_format: Literal["text", "json"] = Field("text", description="Log lines as text or JSON.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level that is logged."
    )

    @field_validator("queues", "allowed_origins", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return _parts(value)


def _loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _parts(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def variable(name: str) -> str:
    """The environment variable of a field."""
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"FRAMEWRIGHT_{name.upper()}"


def told(error: ErrorDetails) -> str:
    """One wrong setting as a clause that begins with its variable."""
    name = f"FRAMEWRIGHT_{str(error['loc'][0]).upper()}"
    _, sentence = worded([name], error["type"], error.get("ctx", {}), error["msg"])
    return sentence if sentence.startswith(name) else f"{name}: {sentence}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process; a missing or wrong value is a `SettingsError` that names the variable."""
    try:
        return Settings()
    except ValidationError as error:
        raise _wrong(error) from None


def model_settings() -> ModelSettings:
    """What the environment says of models, for commands that need no service; or a `SettingsError`."""
    try:
        return ModelSettings()
    except ValidationError as error:
        raise _wrong(error) from None


def _wrong(error: ValidationError) -> SettingsError:
    named = "; ".join(map(told, error.errors(include_input=False)))
    return SettingsError(f"cannot start, fix the environment: {named}")


def settings_or_exit() -> Settings:
    """For a process's `main`: the settings, or one clear line on stderr and exit status 78 (EX_CONFIG)."""
    try:
        return settings()
    except SettingsError as error:
        sys.stderr.write(f"framewright: {error.detail}\n")
        raise SystemExit(78) from None
