"""The compose file and the image are what `docs/operate.md` says: complete, in the right order, without privileges."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from framewright.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = YAML(typ="safe").load(COMPOSE)["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
ONE_SHOT = {"migrate"}
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[?-])([^}]*))?\}")
every_service = pytest.mark.parametrize("name", sorted(SERVICES))
our_service = pytest.mark.parametrize("name", sorted(OURS))


def settings_of(name: str) -> dict[str, str]:
    environment: dict[str, str] = OURS[name]["environment"]
    return {key: value for key, value in environment.items() if key.startswith("FRAMEWRIGHT_")}


def variables() -> dict[str, set[str]]:
    """Every `${NAME}` of the file with the ways it is written: `:?`, `:-`, or nothing."""
    found: dict[str, set[str]] = {}
    text = "\n".join(line.split(" #")[0] for line in COMPOSE.read_text().splitlines() if not line.startswith("#"))
    for name, how, _ in VARIABLE.findall(text):
        found.setdefault(name, set()).add(how)
    return found


def test_the_file_is_what_the_compose_specification_allows() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_the_whole_system() -> None:
    assert {"postgres", "valkey", "s3", "migrate", "api", "reconciler", "worker", "gpu-worker"} <= SERVICES.keys()
    assert SERVICES["postgres"]["image"] == "postgres:18"
    assert SERVICES["valkey"]["image"] == "valkey/valkey:9"
    assert SERVICES["s3"]["image"].startswith("chrislusf/seaweedfs:")
    assert SERVICES["s3"]["command"][:2] == ["-logtostderr=true", "mini"]
    assert SERVICES["api"]["deploy"]["replicas"] == 2
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["gpu-worker"]
    assert "name" not in YAML(typ="safe").load(COMPOSE)


@every_service
def test_a_service_has_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "ulimits" not in service, "raising one takes a privilege that an engine may lack"
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    for mount in service.get("volumes", []):
        assert mount.endswith(":ro") or not mount.startswith((".", "/")), "host paths are read-only"
        assert "docker.sock" not in mount


def test_only_the_front_is_published_and_only_it_reaches_out() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["front"]
    assert [name for name, service in SERVICES.items() if service["networks"] != ["inside"]] == ["front"]
    assert YAML(typ="safe").load(COMPOSE)["networks"]["inside"] == {"internal": True}


@pytest.mark.parametrize("name", ["postgres", "valkey", "s3", "api", "front", "reconciler"])
def test_what_can_say_so_says_when_it_is_healthy(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    # Nothing else: an older engine refuses the whole file for a `start_interval`.
    assert check.keys() == {"test", "interval", "timeout", "retries", "start_period"}


@every_service
def test_a_service_waits_for_what_it_needs_to_be_healthy(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[needed]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert needed in ONE_SHOT


def test_services_start_in_the_right_order() -> None:
    after = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    assert after["migrate"] == {"postgres"}
    for name in ("api", "reconciler", "worker", "gpu-worker"):
        assert after[name] == {"postgres", "valkey", "s3", "migrate"}
    assert after["front"] == {"api", "s3"}


@our_service
def test_every_setting_exists_and_none_that_is_required_is_missing(name: str) -> None:
    known = {f"FRAMEWRIGHT_{field.upper()}": field for field in Settings.model_fields}
    given = settings_of(name)
    assert given.keys() <= known.keys()
    assert {key for key, field in known.items() if Settings.model_fields[field].is_required()} <= given.keys()


@our_service
def test_the_values_are_accepted_by_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in settings_of(name).items():
        filled = VARIABLE.sub(lambda found: found[3] if found[2] == ":-" else "0123456789abcdef", str(value))
        monkeypatch.setenv(key, filled)
    Settings()  # type: ignore[call-arg]


def test_secrets_come_from_the_environment_and_a_missing_one_stops_the_start() -> None:
    required = {name for name, how in variables().items() if how == {":?"}}
    assert required == {
        "POSTGRES_PASSWORD",
        "VALKEY_PASSWORD",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
        "FRAMEWRIGHT_KEY_PEPPER",
        "FRAMEWRIGHT_BOOTSTRAP_KEY",
    }
    secret = [field for field, info in Settings.model_fields.items() if "SecretStr" in str(info.annotation)]
    for name in OURS:
        for field in secret:
            value = settings_of(name).get(f"FRAMEWRIGHT_{field.upper()}")
            assert value is None or ":?" in value


def test_the_example_names_every_variable_and_no_secret() -> None:
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    assert example.keys() == variables().keys()
    assert {name for name, value in example.items() if not value} == {
        name for name, how in variables().items() if how == {":?"}
    }


@our_service
def test_the_command_is_a_module_that_exists(name: str) -> None:
    program, flag, module, *_ = OURS[name]["command"]
    assert (program, flag) == ("python", "-m")
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    assert '__name__ == "__main__"' in Path(found.origin).read_text()


def test_a_worker_gets_longer_to_stop_than_it_takes_to_drain() -> None:
    drain = Settings.model_fields["drain_grace_s"].default + Settings.model_fields["cancel_grace_s"].default
    for name in ("worker", "gpu-worker"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > drain


def test_what_writes_files_has_a_scratch_volume_that_the_image_gives_to_its_user() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    user, group = SERVICES["worker"]["user"].split(":")
    assert f"install -d -o {user} -g {group} -m 0700 /scratch /models\n" in dockerfile
    for name in ("api", "worker", "gpu-worker"):
        assert SERVICES[name]["volumes"][0] == "scratch:/scratch"
        assert settings_of(name)["FRAMEWRIGHT_SCRATCH_DIR"] == "/scratch"
        assert settings_of(name)["FRAMEWRIGHT_PROVENANCE_DIR"] == "/scratch/provenance"


def test_the_gpu_worker_serves_the_models_of_a_volume_that_a_pull_can_fill() -> None:
    volume, place = SERVICES["gpu-worker"]["volumes"][1].split(":")
    assert settings_of("gpu-worker")["FRAMEWRIGHT_MODELS_DIR"] == place == "/models"
    assert "gpu" in settings_of("gpu-worker")["FRAMEWRIGHT_QUEUES"].split(",")
    name = YAML(typ="safe").load(COMPOSE)["volumes"][volume]["name"]
    assert f"-v {name}:{place} " in (ROOT / "docs" / "operate.md").read_text()


def test_the_image_is_built_by_any_builder_and_runs_as_nobody_special() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "RUN --" not in dockerfile
    assert "<<" not in dockerfile
    assert "COPY --chmod" not in dockerfile
    users = re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)
    assert users == [SERVICES["worker"]["user"]]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert f"!{source}\n" in (ROOT / ".dockerignore").read_text(), source


def test_the_front_knows_the_services_and_the_bucket() -> None:
    config = (ROOT / "deploy" / "haproxy.cfg").read_text()
    assert "api:8000" in config
    assert "s3:8333" in config
    bucket = settings_of("api")["FRAMEWRIGHT_S3_BUCKET"]
    assert f"path_beg /{bucket}/" in config
    assert re.search(r"deny .*path /metrics", config)
    assert "http-request del-header Authorization" in config.split("\nbackend s3\n")[1]
    assert settings_of("api")["FRAMEWRIGHT_S3_PUBLIC_ENDPOINT"] == settings_of("api")["FRAMEWRIGHT_PUBLIC_URL"]
