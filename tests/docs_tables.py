"""The tables of `docs/` that come from the code. `python tests/docs_tables.py` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from framewright import catalogue, errors
from framewright.errors import FramewrightError
from framewright.jobs import RETRIES, Budget, Outcome, Phase
from framewright.settings import Settings, variable

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

OUTCOMES = {
    Outcome.SUCCEEDED: "the files are committed",
    Outcome.CANCELED: "somebody canceled the job",
    Outcome.YIELDED: "the worker is shutting down and handed the step back; it goes on from its checkpoint",
    Outcome.APP_ERROR: "the engine raised an error",
    Outcome.BAD_INPUT: "only decoding could tell that an input is unusable; `error.field` names it",
    Outcome.INVALID_OUTPUT: "the output gate refused the file (frames, size, rate, duration, black)",
    Outcome.TIMEOUT: "the attempt, downloads and uploads included, took longer than its hard limit",
    Outcome.STALLED: "the lease was renewed but the work did not advance for `FRAMEWRIGHT_STALL_S`",
    Outcome.WORKER_LOST: "the worker did not renew for `FRAMEWRIGHT_LEASE_S`",
    Outcome.RUNNER_LOST: "the runner child died",
    Outcome.TRANSIENT_INFRA: "S3, the disk or the network failed for longer than one attempt retries",
    Outcome.GPU_OOM: "GPU memory ran out",
    Outcome.GPU_ERROR: "the GPU or its driver reported an error",
    Outcome.HOST_OOM: "main memory ran out",
    Outcome.MODEL_NOT_READY: "the weights are not on this worker, or not whole; the message has the command",
    Outcome.WEIGHTS_REFUSED: "what lies in the model's folder on this worker is not taken",
    Outcome.LICENCE_NOT_ACCEPTED: "nobody has accepted the model's licence on this worker",
    Outcome.INSUFFICIENT_VRAM: "the model does not fit in this worker's GPU",
}
PHASES = {
    Phase.STARTING: "the runner gets ready",
    Phase.DOWNLOADING: "inputs come from S3",
    Phase.LOADING_MODEL: "weights go into memory",
    Phase.ENCODING_PROMPT: "text encoders run, and pictures and videos that were given become latents",
    Phase.DENOISING: "the diffusion model runs",
    Phase.RENDERING: "frames are drawn",
    Phase.DECODING: "latents or files become frames",
    Phase.INTERPOLATING: "frames between frames are made",
    Phase.UPSCALING: "latents or frames become larger",
    Phase.ENCODING: "frames become a file",
    Phase.CHECKING: "the output gate decodes the file",
    Phase.SIGNING: "outputs get a signed manifest of how they were made",
    Phase.UPLOADING: "outputs go to S3",
}
OFFERED = frozenset({"diffusion", "remote"})
"""The engines whose models `docs/models.md` lists."""
ADVICE: dict[type[FramewrightError], str] = {
    errors.BadRequest: "Fix the request as `detail` says: JSON, headers or cursor.",
    errors.InvalidParams: "Fix the fields in `errors`.",
    errors.InsufficientVram: "Take a smaller model or a larger GPU; `GET /api/v1/jobs/{job_id}/explain` names both.",
    errors.UnknownModel: "Take a model and kind that `GET /api/v1/models` lists.",
    errors.AssetUnusable: "Use an asset of the right kind; `errors` names the field.",
    errors.BodyTooLarge: "Send less, or raise `FRAMEWRIGHT_MAX_JSON_KB` or `FRAMEWRIGHT_MAX_UPLOAD_MB`.",
    errors.UnsupportedMedia: "Send one of the formats that `docs/api.md` lists, whole and of one frame for a picture.",
    errors.Unauthenticated: "Send a valid key as `Authorization: Bearer`.",
    errors.Forbidden: "Use a key with the scope that `detail` names.",
    errors.NotFound: "Check the id and whose key you use.",
    errors.Gone: "Run the job, or start the upload, again; for a deleted job with a new Idempotency-Key.",
    errors.Conflict: "Read the job and decide anew.",
    errors.IdempotencyKeyReuse: "Use a new key for a new request.",
    errors.RangeNotSatisfiable: "Ask for bytes within the size that the answer states.",
    errors.TooManyRequests: "Wait as `Retry-After` says; for more, raise the `FRAMEWRIGHT_MAX_QUEUED` settings.",
    errors.DatabaseUnavailable: "Retry as `Retry-After` says; check Postgres.",
    errors.StorageUnavailable: "Retry; check S3.",
    errors.ObjectMissing: "Upload the bytes before completing the upload; otherwise the file was removed from S3.",
    errors.BrokerUnavailable: "Nothing: jobs go on. Check Valkey.",
    errors.EmbeddedServerError: "Do what the sentence says; `framewright doctor` knows more.",
    errors.SettingsError: "Set the variable that the sentence names.",
    errors.ModelNotReady: "Run the command that the sentence names, where the worker runs; see [weights](weights.md).",
    errors.LicenceNotAccepted: "Read the licence, then run `framewright models pull MODEL --accept-licence` there.",
    errors.WeightsRefused: "Remove what it names; take weights as safetensors from whom you trust.",
    errors.HubUnavailable: "Run the pull again, it goes on where it stopped; check `FRAMEWRIGHT_HUB_URL`.",
    errors.HubRefused: "Do what the sentence says: ask for access, set a token, correct the name or revision.",
    errors.DiskFull: "Free space, or set `FRAMEWRIGHT_MODELS_DIR` to a larger disk, and run the pull again.",
    errors.EngineError: "Read `error.message`; it was retried already.",
    errors.BadInput: "Replace the input that `error.field` names.",
    errors.InvalidOutput: "Report it: an engine wrote a file that is not what it promised.",
    errors.SigningFailed: "Read its sentence, it was retried already; see [provenance](operate.md#provenance).",
    errors.Canceled: "Nothing.",
    errors.Yielded: "Nothing.",
}


def settings() -> Iterator[str]:
    yield from _head("variable", "default", "meaning")
    for name, field in Settings.model_fields.items():
        default = "**required**" if field.is_required() else _shown(field.default)
        yield f"| `{variable(name)}` | {default} | {field.description} |"


def outcomes() -> Iterator[str]:
    yield from _head("outcome", "means", "charged to", "retries", "first wait", "next try")
    for outcome in Outcome:
        retry = RETRIES.get(outcome)
        if retry is None:
            cost = "- | - | - | -"
        elif retry.budget is Budget.FREE:
            cost = f"nothing | always | none | {'another' if retry.elsewhere else 'any'} worker"
        else:
            where = "another worker" if retry.elsewhere else "any worker"
            killed = ", counts as a kill" if retry.kill else ""
            wait = f"{retry.backoff_s:g} s" if retry.backoff_s else "none"
            times = "`max_attempts` - 1" if retry.limit is None else retry.limit or "none"
            cost = f"{retry.budget}{killed} | {times} | {wait} | {'-' if retry.limit == 0 else where}"
        yield f"| `{outcome}` | {OUTCOMES[outcome]} | {cost} |"


def phases() -> Iterator[str]:
    yield from _head("phase", "what happens")
    yield from (f"| `{phase}` | {PHASES[phase]} |" for phase in Phase)


def models() -> Iterator[str]:
    yield from _head("model", "kinds", "engine", "queue", "what it does")
    for row in catalogue.rows(test_engines=True):
        if row.engine in OFFERED:
            continue
        name = f"`{row.name}`" + (" (with `FRAMEWRIGHT_TEST_ENGINES` only)" if row.test_only else "")
        yield f"| {name} | {', '.join(row.kinds)} | `{row.engine}` | `{row.queue}` | {row.summary} |"


def diffusion() -> Iterator[str]:
    yield from _head("model", "kinds and inputs", "usual size, frames", "licence", "GPU memory (GB)", "what it is for")
    for row in catalogue.rows():
        if row.engine not in OFFERED:
            continue
        licence = row.licence.name + ("" if row.licence.commercial else ", no commercial use")
        shape, memory = "-", "-"
        if row.diffusion:
            wide, tall = row.size.default or row.size.shaped(16, 9)
            shape = f"{wide}x{tall}, {row.frames.default} at {float(row.diffusion.fps):g}"
            memory = " / ".join(f"{profile.vram_mb / 1000:g} {profile.name}" for profile in row.diffusion.profiles)
        inputs = ", ".join(f"`{rule.slot}`" for rule in row.inputs)
        takes = " ".join(filter(None, (", ".join(row.kinds), f"({inputs})" if inputs else "")))
        yield f"| `{row.name}` | {takes} | {shape} | {licence} | {memory} | {row.summary} |"


def licences() -> Iterator[str]:
    yield from _head("licence", "accept first", "not in", "paid from a yearly revenue of", "what else")
    found = {row.licence.name: row.licence for row in catalogue.rows() if row.engine in OFFERED}
    for licence in found.values():
        cap = f"${licence.revenue_cap_usd:,}" if licence.revenue_cap_usd else "-"
        regions = ", ".join(licence.excluded_regions) or "-"
        accept = "yes" if licence.accept else "no"
        yield f"| [{licence.name}]({licence.url}) | {accept} | {regions} | {cap} | {licence.note or '-'} |"


def asked() -> Iterator[str]:
    """Every field that some diffusion model has, as the first model that has it says it."""
    rows = [row for row in catalogue.rows() if row.diffusion]
    seen: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for row in rows:
        for name, field in catalogue.describe(row)["params_schema"]["properties"].items():
            seen.setdefault(name, (field, []))[1].append(row.name)
    yield from _head("param", "meaning, of the first model that has it", "models")
    for name, (field, names) in seen.items():
        which = f"{len(names)} of {len(rows)}" if len(names) > 4 else ", ".join(f"`{one}`" for one in names)
        yield f"| `{name}` | {field['description']}{_allowed(field)} | {which} |"


def params() -> Iterator[str]:
    for row in catalogue.rows():
        if row.engine in OFFERED:
            continue
        yield f"**`{row.name}`** ({', '.join(row.kinds)})"
        yield ""
        yield from _head("param", "default", "meaning")
        for name, field in catalogue.describe(row)["params_schema"]["properties"].items():
            yield f"| `{name}` | {_shown(field.get('default'))} | {field['description']}{_allowed(field)} |"
        yield ""
        presets = ", ".join(f"`{preset.name}`" for preset in row.presets)
        yield f"Presets: {presets or 'none'}."
        yield ""


def problems() -> Iterator[str]:
    from api.app import PROBLEMS

    yield from _head("code", "HTTP status", "retryable", "means", "what to do")
    for kind in sorted(_kinds(FramewrightError), key=lambda kind: (PROBLEMS.status(kind), kind.code)):
        status = PROBLEMS.status(kind)
        shown = "-" if status == 500 else str(status)
        means = " ".join((kind.__doc__ or "").split())
        yield f"| `{kind.code}` | {shown} | {'yes' if kind.retryable else 'no'} | {means} | {ADVICE[kind]} |"


def endpoints() -> Iterator[str]:
    from api.main import app

    yield from _head("endpoint", "scope", "what it does")
    for path, verbs in app.openapi()["paths"].items():
        for verb, operation in verbs.items():
            scope = f"`{operation['x-scope']}`" if operation.get("x-scope") else "-"
            yield f"| `{verb.upper()} {path}` | {scope} | {operation['summary']} |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings,
    "outcomes": outcomes,
    "phases": phases,
    "models": models,
    "params": params,
    "diffusion": diffusion,
    "licences": licences,
    "asked": asked,
    "problems": problems,
    "endpoints": endpoints,
}


def fresh(text: str) -> str:
    """A page with its tables as the code has them now."""
    return _BLOCK.sub(lambda found: found[1] + "\n".join(TABLES[found[2]]()).rstrip() + "\n" + found[3], text)


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def _kinds(parent: type[FramewrightError]) -> Iterable[type[FramewrightError]]:
    for kind in parent.__subclasses__():
        if kind.__module__ == "framewright.errors":
            yield kind
            yield from _kinds(kind)


def _head(*names: str) -> Iterator[str]:
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "empty"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _allowed(field: dict[str, Any]) -> str:
    options = field.get("anyOf", [field])
    if choices := next((one["enum"] for one in options if "enum" in one), None):
        return " One of " + ", ".join(f"`{choice}`" for choice in choices) + "."
    for one in options:
        if "minimum" in one and "maximum" in one:
            return f" From {one['minimum']:.4g} to {one['maximum']:.10g}."
    return ""


if __name__ == "__main__":
    for page in pages():
        page.write_text(fresh(page.read_text()))
