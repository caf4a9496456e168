"""The commands and their options; what a command does is in the module that its `run` names."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from framewright import __version__
from framewright.cli.exits import Exit, UsageError, written

Commands = Any  # argparse's own type of a group of commands is private


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse does not look whether its help and version could be written."""
        if file is not sys.stdout:
            super()._print_message(message, file)
            return
        with written():
            sys.stdout.write(message)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    statuses = "\n".join(f"  {status.value:>3}  {status.meaning}" for status in Exit)
    top = _Parser(
        prog="framewright",
        description="Self-hosted, durable video jobs.",
        epilog=f"exit status:\n{statuses}\n\nenvironment:\n"
        "  FRAMEWRIGHT_URL      the service; without it the `framewright up` of this machine\n"
        "  FRAMEWRIGHT_API_KEY  the key; without it the one of that `framewright up`",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"framewright {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _here(commands)
    _making(commands)
    _jobs(commands)
    _assets(commands)
    _keys(commands)
    _service(commands)
    _models(commands)
    return top


_LOCAL = "the data directory of the local `up` to talk to"


def _command(
    commands: Commands, name: str, run: str, text: str, *, http: bool = True, data: str = _LOCAL
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="print JSON and nothing else on stdout")
    if http:
        command.add_argument("--url", metavar="URL", help="the service (default: FRAMEWRIGHT_URL, or the local one)")
        command.add_argument("--api-key", metavar="KEY", help="the API key (default: FRAMEWRIGHT_API_KEY)")
        command.add_argument("--data", type=Path, metavar="DIR", help=data)
    return command


def _group(commands: Commands, name: str, text: str) -> Commands:
    return commands.add_parser(name, help=text, description=text).add_subparsers(metavar="COMMAND", required=True)


def _here(commands: Commands) -> None:
    up = _command(commands, "up", "here:up", "run the whole service on this machine until Ctrl-C", http=False)
    up.add_argument("--data", type=Path, metavar="DIR", help="where databases and files are kept")
    up.add_argument(
        "--port", type=int, metavar="N", help="port of the API (default: a free one, the same again next time)"
    )
    up.add_argument("--workers", type=_whole, default=1, metavar="N", help="how many workers (default: 1)")
    demo = _command(
        commands, "demo", "here:demo", "make a video of a picture on real parts, then stop them", http=False
    )
    demo.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="a PNG, JPEG or WebP (default: our own)")
    demo.add_argument("--data", type=Path, metavar="DIR", help="where databases and files are kept between runs")
    demo.add_argument("--keep", action="store_true", help="leave the service running until Ctrl-C")
    demo.add_argument("-o", "--output", type=Path, metavar="FILE", help="the video (default: beside the picture)")
    _camera(demo)
    doctor = _command(
        commands,
        "doctor",
        "checking:doctor",
        "say what is missing here and what fixes it",
        data="the data directory to check and of the `up` to talk to (default: that of the `up` that runs, or would)",
    )
    doctor.add_argument("--port", type=int, metavar="N", help="also see whether `up --port N` could have that port")


def _making(commands: Commands) -> None:
    animate = _command(commands, "animate", "making:animate", "a clip from a still picture")
    animate.add_argument("image", metavar="IMAGE", help="a file here, or the id of an asset (asset_...)")
    animate.add_argument("--model", help="default: camera-move, which moves a camera over the picture")
    _camera(animate)
    _making_options(animate)
    encode = _command(commands, "encode", "making:encode", "one video from pictures in order")
    encode.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, asset ids, or a folder (its pictures, 2.png before 10.png)"
    )
    encode.add_argument("--model", help="default: hevc")
    encode.add_argument("--fps", type=_number_or_text, help='frames a second: 2, 23.976 or "30000/1001" (default: 2)')
    encode.add_argument("--size", metavar="WxH", help="size of the video (default: the pictures')")
    encode.add_argument("--fit", choices=("pad", "crop", "stretch"), help="how pictures of other sizes are made to fit")
    encode.add_argument("--background", metavar="COLOUR", help='behind padding (default: "#000000")')
    encode.add_argument("--on-error", choices=("fail", "skip"), help="what an unreadable picture does")
    encode.add_argument("--codec", choices=("hevc", "h264", "any"))
    encode.add_argument("--quality", type=int, metavar="0..100")
    _making_options(encode)


def _camera(command: argparse.ArgumentParser) -> None:
    command.add_argument("--move", help="zoom-in, zoom-out, pan-left, pan-right, tilt-up, orbit-left, dolly-in, ...")
    command.add_argument("--seconds", type=float, help="length of the clip (default: 4)")
    command.add_argument("--fps", type=_number_or_text, help="frames a second (default: 24)")
    command.add_argument("--size", metavar="WxH", help="size of the clip (default: the picture's, at most 1280)")
    command.add_argument("--easing", choices=("linear", "ease-in", "ease-out", "ease-in-out"))
    command.add_argument("--strength", type=float, metavar="0..1", help="how far the camera goes")
    command.add_argument("--seed", type=int, help="of the handheld move")
    command.add_argument("--fit", choices=("crop", "pad"))
    command.add_argument("--codec", choices=("hevc", "h264"))
    command.add_argument("--quality", type=int, metavar="0..100")


def _making_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="any parameter of the model",
    )
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="where the video goes")
    command.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    command.add_argument("--no-wait", action="store_true", help="submit, print the job and leave")
    command.add_argument("--priority", type=int, metavar="-100..100", help="higher goes first (default: 0)")
    command.add_argument("--run-at", metavar="TIME", help="not before this time (2026-01-31T12:00:00Z)")
    command.add_argument(
        "--meta", action="append", default=[], type=_text_pair, metavar="NAME=TEXT", help="a note kept with the job"
    )
    command.add_argument("--idempotency-key", metavar="KEY", help="the same key never makes a second job")


def _jobs(commands: Commands) -> None:
    jobs = _group(commands, "jobs", "list, watch and steer jobs")
    ls = _command(jobs, "ls", "jobs:ls", "list jobs, newest first")
    ls.add_argument("--status", help="scheduled, queued, waiting, running, succeeded, failed or canceled")
    ls.add_argument("--kind", help="animate, encode, ...")
    ls.add_argument("--model")
    ls.add_argument("--meta", action="append", default=[], type=_text_pair, metavar="NAME=TEXT", help="with this note")
    ls.add_argument("--limit", type=_count, default=20, metavar="N", help="at most so many (default: 20)")
    ls.add_argument("--oldest-first", action="store_true")
    get = _command(jobs, "get", "jobs:get", "show one job")
    get.add_argument("--wait", type=int, default=0, metavar="S", help="wait so many seconds for its end")
    watch = _command(jobs, "watch", "jobs:watch", "follow one job to its end")
    watch.add_argument("--after", type=int, default=0, metavar="SEQ", help="with --json: only events after this one")
    _command(jobs, "explain", "jobs:explain", "why a job waits and where it would run")
    download = _command(jobs, "download", "jobs:download", "fetch all that a job has made")
    download.add_argument("-o", "--output", type=Path, metavar="FILE", help="fetch the video only, into this file")
    download.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    retry = _command(jobs, "retry", "jobs:retry", "submit an ended job again, as a new job")
    retry.add_argument("--watch", action="store_true", help="and follow it")
    for one in (get, watch, jobs.choices["explain"], download, retry):
        one.add_argument("job", metavar="JOB", help="job_...")
    cancel = _command(jobs, "cancel", "jobs:cancel", "cancel jobs; final at once")
    cancel.add_argument("jobs", nargs="+", metavar="JOB", help="job_...")
    cancel.add_argument("--reason", help="kept with the job")
    rm = _command(jobs, "rm", "jobs:rm", "cancel jobs if they are open, then forget them and their files")
    rm.add_argument("jobs", nargs="+", metavar="JOB", help="job_...")


def _assets(commands: Commands) -> None:
    assets = _group(commands, "assets", "pictures and clips that jobs use")
    put = _command(assets, "put", "assets:put", "upload files")
    put.add_argument("files", nargs="+", type=Path, metavar="FILE")
    get = _command(assets, "get", "assets:get", "show one asset, or fetch it with -o")
    get.add_argument("asset", metavar="ASSET", help="asset_...")
    get.add_argument("-o", "--output", type=Path, metavar="FILE")
    get.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    ls = _command(assets, "ls", "assets:ls", "list assets, newest first")
    ls.add_argument("--limit", type=_count, default=20, metavar="N", help="at most so many (default: 20)")
    rm = _command(assets, "rm", "assets:rm", "delete assets")
    rm.add_argument("assets", nargs="+", metavar="ASSET", help="asset_...")
    verify = _command(
        commands, "verify", "verifying:verify", "what a file says of how it was made, and whether it holds"
    )
    verify.add_argument(
        "file",
        metavar="FILE",
        help="an MP4, MOV, PNG, JPEG, WebP, GIF, WAV or ZIP here, or the id of an asset (asset_...)",
    )


def _keys(commands: Commands) -> None:
    keys = _group(commands, "keys", "API keys")
    create = _command(keys, "create", "keys:create", "make a key; it is shown this once")
    create.add_argument("name", metavar="NAME", help="what it is for")
    create.add_argument("--scope", action="append", default=[], metavar="SCOPE", help="what it may do; repeatable")
    create.add_argument("--expires-at", metavar="TIME", help="when it ends (2026-12-31T00:00:00Z; default: never)")
    _command(keys, "list", "keys:ls", "list keys; secrets are never shown again")
    revoke = _command(keys, "revoke", "keys:revoke", "end keys at once")
    revoke.add_argument("keys", nargs="+", metavar="KEY", help="the id of a key, or the key itself")
    _command(
        keys, "generate", "keys:generate", "print a new key for FRAMEWRIGHT_BOOTSTRAP_KEY; asks no service", http=False
    )


def _service(commands: Commands) -> None:
    workers = _command(commands, "workers", "service:workers", "who works and what they can do")
    control = workers.add_mutually_exclusive_group()
    for verb, text in (
        ("drain", "let this worker finish nothing new and hand back what it has"),
        ("pause", "let this worker claim nothing for now"),
        ("resume", "let this worker claim again"),
    ):
        control.add_argument(f"--{verb}", metavar="WORKER", help=text)
    _command(commands, "queues", "service:queues", "how much waits where")


def _models(commands: Commands) -> None:
    """`models` alone asks the service, as it always did; its commands are about weights on this machine."""
    models = _command(commands, "models", "service:models", "what can be asked for; and weights on this machine")
    weights = models.add_subparsers(title="weights on this machine", metavar="COMMAND")
    _command(weights, "ls", "models:ls", "which weights are here, and in what state", http=False)
    show = _command(weights, "show", "models:show", "one model: state, source, licence, parts", http=False)
    show.add_argument("model", metavar="MODEL")
    pull = _command(weights, "pull", "models:fetch", "fetch weights from the hub, or go on fetching", http=False)
    pull.add_argument("models", nargs="+", metavar="MODEL")
    pull.add_argument("--accept-licence", action="store_true", help="you have read the licence and accept it")
    verify = _command(weights, "verify", "models:check", "read weights again and compare them", http=False)
    verify.add_argument("models", nargs="*", metavar="MODEL", help="default: all that are here")
    rm = _command(weights, "rm", "models:rm", "remove weights", http=False)
    rm.add_argument("models", nargs="+", metavar="MODEL")
    rm.add_argument("-y", "--yes", action="store_true", help="do not ask")
    _command(weights, "du", "models:du", "how much room weights take", http=False)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def _number_or_text(text: str) -> int | float | str:
    """A number where it is one; the service says what is wrong with anything else."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError("write it as NAME=TEXT")
    return name, value


def _pair(text: str) -> tuple[str, Any]:
    """`seed=7` is a number, `move=pan-left` a text, `size="7"` a text that looks like a number."""
    name, value = _text_pair(text)
    try:
        return name, json.loads(value, parse_constant=_no_constant)
    except ValueError:
        return name, value


def _no_constant(name: str) -> Any:
    raise UsageError(f"{name} is no number that JSON knows")
