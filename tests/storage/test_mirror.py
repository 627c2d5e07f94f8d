"""A folder kept in an object store, against a real S3 protocol on loopback."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import boto3
import pyarrow.fs
import pytest
from moto.server import ThreadedMotoServer

from dynat_ray.atomic_files import unused_name
from dynat_ray.errors import UserError
from dynat_ray.object_store import is_address, join
from dynat_ray.storage import mirror as mirrors
from dynat_ray.storage.mirror import Mirror
from dynat_ray.storage.places import mirrored_folder, open_place
from tests.loopback_s3 import names


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_what_one_machine_pushes_another_pulls(s3: str, bucket: str, tmp_path: Path) -> None:
    address = f"{bucket}/runs/one"
    here, there = Mirror(tmp_path / "here", address), Mirror(tmp_path / "there", address)
    write(here.folder, config_yaml="a", samples__epoch_parquet="b", checkpoints__epoch__x="c")
    write(here.folder, half_tmp="d")
    here.push()
    assert sorted(names(s3, address)) == ["config.yaml", "samples/epoch.parquet"]
    there.pull(leave=("samples",))
    assert (there.folder / "config.yaml").read_text() == "a"
    assert not (there.folder / "samples").exists()
    write(there.folder, metrics_jsonl="one line")
    there.push()
    here.pull(only=("metrics.jsonl",))
    assert (here.folder / "metrics.jsonl").read_text() == "one line"
    # What is new on one side is not overwritten by what is old on the other.
    write(here.folder, config_yaml="changed")
    here.pull()
    assert (here.folder / "config.yaml").read_text() == "changed"
    here.push()
    there.pull()
    assert (there.folder / "config.yaml").read_text() == "changed"


def test_the_place_of_the_folder_does_not_matter(s3: str, bucket: str, tmp_path: Path) -> None:
    address = f"{bucket}/runs/checkpoints"
    mirror = Mirror(tmp_path / "checkpoints", address)
    write(mirror.folder, config_yaml="a")
    mirror.push()
    assert names(s3, address) == ["config.yaml"]


def test_checkpoints_come_newest_first(bucket: str, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "run", f"{bucket}/run")
    store, root = mirror.train_storage()
    for name in ("epoch_0000", "epoch_0001_step_0000040", "epoch_0001", "other"):
        store.create_dir(f"{root}/checkpoints/{name}")
        with store.open_output_stream(f"{root}/checkpoints/{name}/state.pt") as file:
            file.write(name.encode())
    found = []
    for folder in mirror.checkpoints():
        assert (folder / "state.pt").read_text() == folder.name
        found.append(folder.name)
    assert found == ["epoch_0001", "epoch_0001_step_0000040", "epoch_0000"]


def test_a_folder_below_one_that_is_kept_finds_its_own_place(bucket: str, tmp_path: Path) -> None:
    assert Mirror.of(tmp_path / "runs" / "x") is None
    with mirrored_folder(f"{bucket}/runs", "search") as folder:
        mirror = Mirror.of(folder / "trials" / "0001")
        assert mirror is not None
        assert mirror.address == f"{bucket}/runs/search/trials/0001"


def test_a_place_keeps_what_was_written_even_by_a_command_that_fails(
    s3: str, bucket: str, tmp_path: Path
) -> None:
    with (
        pytest.raises(UserError, match="too late"),
        open_place("run", "", bucket, "run", resume=False) as place,
    ):
        assert place.given
        assert not place.folder.exists()
        assert place.written("report.html") == f"{bucket}/run/report.html"
        write(place.folder, config_yaml="a")
        raise UserError("too late")
    assert names(s3, f"{bucket}/run") == ["config.yaml"]
    with open_place("run", "", bucket, "run", resume=False) as place:
        assert (place.folder / "config.yaml").read_text() == "a"
    assert not place.folder.exists()


def test_options_of_an_address_stay_at_its_end() -> None:
    assert join("s3://b/p?scheme=http", "run") == "s3://b/p/run?scheme=http"
    assert join("s3://b/p/", "run") == "s3://b/p/run"


@pytest.mark.parametrize(
    "text",
    [
        "s3://KEY:SECRET@bucket/runs",
        "s3://KEY:SECRET%40bucket/runs",
        "s3://bucket?access_key=A&secret_key=B",
        "s3://bucket?access%5Fk%65y=A",
        "s3://bucket/runs?endpoint_override=http://KEY:SECRET@minio:9000",
        "s3://bucket/runs?scheme=http&endpoint_override=KEY:SECRET@minio:9000",
        "s3://bucket/runs?endpoint_override=http%3A%2F%2FKEY%3ASECRET%40minio%3A9000",
        "s3://bucket/runs?endpoint_override=http%253A%252F%252FKEY%253ASECRET%2540minio",
        "gs://bucket/runs#KEY:SECRET@minio",
    ],
)
def test_keys_in_an_address_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID") as caught:
        is_address(text)
    assert "SECRET" not in str(caught.value).replace("AWS_SECRET", "")
    assert "=A" not in str(caught.value)


def test_other_stores_are_refused_and_folders_are_none() -> None:
    with pytest.raises(UserError, match="s3:// and gs://"):
        is_address("http://host/runs")
    assert is_address("s3://bucket/a@b?scheme=http&endpoint_override=minio:9000&region=eu")
    assert not is_address("/shared/runs")
    assert not is_address("runs")


def test_a_store_that_is_not_there_is_said_plainly(bucket: str, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "x", "s3://no-such-bucket-anywhere/run")
    write(mirror.folder, config_yaml="a")
    with pytest.raises(UserError, match=r"no-such-bucket-anywhere/run .*--resume"):
        mirror.push()


def test_one_file_can_be_pushed_alone(s3: str, bucket: str, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "here", f"{bucket}/runs/alone")
    write(mirror.folder, evaluation_json="a", state_jsonl="one line")
    mirror.push(only=("state.jsonl",))
    assert names(s3, mirror.address) == ["state.jsonl"]
    mirror.push()
    assert sorted(names(s3, mirror.address)) == ["evaluation.json", "state.jsonl"]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every upload fails after half of its file; Arrow then ends it as one that has succeeded."""

    def copy(source: str, destination: str, **systems: Any) -> None:
        content = Path(source).read_bytes()
        with systems["destination_filesystem"].open_output_stream(destination) as stream:
            stream.write(content[: len(content) // 2])
            raise OSError("the network is gone")

    monkeypatch.setattr(pyarrow.fs, "copy_files", copy)


@pytest.mark.parametrize("size", [10, 6_000_000], ids=["one request", "several parts"])
def test_an_upload_that_is_cut_leaves_the_object_before_it(
    s3: str, bucket: str, tmp_path: Path, request: pytest.FixtureRequest, size: int
) -> None:
    mirror = Mirror(tmp_path / "here", f"{bucket}/run")
    write(mirror.folder, model_safetensors="a" * size)
    mirror.push()
    write(mirror.folder, model_safetensors="b" * (size + 1))
    request.getfixturevalue("cut")
    with pytest.raises(UserError, match=r"network is gone.*--resume"):
        mirror.push()
    assert names(s3, mirror.address) == ["model.safetensors"]
    key = boto3.client("s3", endpoint_url=s3).get_object(
        Bucket=bucket.removeprefix("s3://"), Key="run/model.safetensors"
    )
    assert key["Body"].read() == b"a" * size


def test_fewer_bytes_than_were_sent_are_no_upload(
    s3: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(source: str, destination: str, **systems: Any) -> None:
        with systems["destination_filesystem"].open_output_stream(destination) as stream:
            stream.write(b"half")

    mirror = Mirror(tmp_path / "here", f"{bucket}/run")
    write(mirror.folder, config_yaml="whole file")
    monkeypatch.setattr(pyarrow.fs, "copy_files", copy)
    with pytest.raises(UserError, match="4 of 10 bytes of config.yaml"):
        mirror.push()
    assert names(s3, mirror.address) == []


def test_what_killed_uploads_left_is_not_fetched_and_goes_after_a_while(
    s3: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = unused_name(Path("run")).as_posix()
    client = boto3.client("s3", endpoint_url=s3)
    client.put_object(Bucket=bucket.removeprefix("s3://"), Key=left, Body=b"half")
    mirror = Mirror(tmp_path / "here", f"{bucket}/run")
    mirror.pull()
    assert not mirror.folder.exists()
    mirror.push()
    assert len(names(s3, mirror.address)) == 1, "it may be another's who is sending now"
    monkeypatch.setattr(mirrors, "_STALE_SECONDS", -60.0)
    Mirror(tmp_path / "here", f"{bucket}/run").push()
    assert names(s3, mirror.address) == []


def test_names_in_a_store_lead_to_no_other_folder(s3: str, bucket: str, tmp_path: Path) -> None:
    client = boto3.client("s3", endpoint_url=s3)
    for key in ("run/../../out", "run//etc/out", f"run/{tmp_path}/out", "run/good"):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=b"x")
    Mirror(tmp_path / "a" / "b", f"{bucket}/run").pull()
    found = [file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()]
    assert all(file.parts[:2] == ("a", "b") for file in found)
    assert Path("a/b/good") in found


def test_a_server_that_copies_for_long_is_waited_for(
    server: ThreadedMotoServer,
    s3: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arrow by itself gives up after three seconds in which nothing is transferred."""
    answer = server._server.app  # type: ignore[union-attr]
    copied = []

    def slow(environment: dict[str, str], start: Any) -> Any:
        if "HTTP_X_AMZ_COPY_SOURCE" in environment:
            copied.append(environment["PATH_INFO"])
            time.sleep(4.5)
        return answer(environment, start)

    monkeypatch.setattr(server._server, "app", slow)
    (tmp_path / "model.bin").write_bytes(b"weights")
    Mirror(tmp_path, f"{bucket}/one").push()
    assert len(copied) == 1
    assert names(s3, f"{bucket}/one") == ["model.bin"]


def test_links_in_the_folder_are_not_sent(s3: str, bucket: str, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "here", f"{bucket}/run")
    write(mirror.folder, config_yaml="a")
    (tmp_path / "secret").write_text("secret")
    (mirror.folder / "link").symlink_to(tmp_path / "secret")
    mirror.push()
    assert names(s3, mirror.address) == ["config.yaml"]
