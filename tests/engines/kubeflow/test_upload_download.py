"""A workspace to the object store and back; and what a pod may have left there that nobody should believe."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kwdbml import travel
from kwdbml.engines.base import About, Mount, Placement, Run
from kwdbml.engines.kfp import access
from kwdbml.engines.kfp.download import fetch_inputs, fetch_outputs, read_log, read_manifest
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.upload import renew, upload_run
from kwdbml.errors import EngineError, LimitExceeded
from kwdbml.model import JobType
from kwdbml.steps import pod_files
from kwdbml.steps.pod_http import Http
from tests.fixtures.objectstore import MakeSettings
from tests.fixtures.s3 import S3Server

RUN = Run("kwdbml-test-1", env={"TOKEN": "s3cret"}, ttl=60.0)
#: What the server stages (bool to bytea), and more.
TYPES = [
    *(pa.bool_(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary()),
    *(pa.null(), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us"), pa.timestamp("s")),
    pa.timestamp("us", "UTC"),
    *(pa.large_string(), pa.decimal128(10, 2), pa.list_(pa.int32()), pa.dictionary(pa.int32(), pa.string())),
]


def write_data(path: Path, table: pa.Table, rows: int = 100) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def read_data(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A filled in/: data, spec, a bundle, packages."""
    path = tmp_path / "in"
    (path / "active-packages").mkdir(parents=True)
    (path / "active-packages" / "six.py").write_text("x = 2\n")
    (path / "packages" / "six").mkdir(parents=True)
    (path / "packages" / "six" / "__init__.py").write_text("x = 1\n")
    (path / "packages" / "tool").write_text("#!/bin/sh\n")
    (path / "packages" / "tool").chmod(0o755)
    write_data(path / "data.arrow", pa.table({"c0": list(range(1000)), "c1": [f"text {n % 7}" for n in range(1000)]}))
    (path / "data.sha256").write_text("0" * 64)
    (path / "job.json").write_text('{"version": 1}')
    (path / "model.zip").write_bytes(os.urandom(1000))
    return path


def document_of(store: ObjectStore, secret: str) -> dict[str, Any]:
    """What the Secret leads to, as a pod reads it."""
    told = json.loads(secret)["document"]
    (name,) = [key for key, _ in store.names(store.key(RUN.name, "access", "")) if key.split("?")[0] in told["url"]]
    content = store.get(name, limit=1 << 24)
    assert content is not None
    assert hashlib.sha256(content).hexdigest() == told["sha256"]
    document: dict[str, Any] = json.loads(content)
    return document


def test_a_workspace_goes_and_comes_back(store: ObjectStore, inputs: Path, tmp_path: Path) -> None:
    secret = upload_run(store, RUN, inputs, threads=2, presign=600)
    assert "s3cret" not in secret
    document = document_of(store, secret)
    assert (document["run"], document["threads"], document["env"], document["ttl"]) == (RUN.name, 2, RUN.env, 60.0)
    assert document["keep_user"] is False
    names = ["active-packages.tar", "data.parquet", "data.sha256", "job.json", "model.zip", "packages.tar"]
    assert [item["name"] for item in document["inputs"]] == names
    back = tmp_path / "pod"
    back.mkdir()
    pod_files.fetch_inputs(Http(None, 10.0, lambda: False), lambda: document, back, lambda _: None)
    assert sorted(path.name for path in back.iterdir()) == sorted(path.name for path in inputs.iterdir())
    assert read_data(back / "data.arrow").equals(read_data(inputs / "data.arrow"))
    for name in ("job.json", "model.zip", "packages/six/__init__.py", "packages/tool", "active-packages/six.py"):
        assert (back / name).read_bytes() == (inputs / name).read_bytes()
    assert os.access(back / "packages" / "tool", os.X_OK)


def test_what_landing_needs_comes_back(store: ObjectStore, inputs: Path, tmp_path: Path) -> None:
    upload_run(store, RUN, inputs, threads=1, presign=600)
    back = tmp_path / "back"
    fetch_inputs(store, RUN.name, back, ["data.sha256", "data.arrow"])
    assert sorted(path.name for path in back.iterdir()) == ["data.arrow", "data.sha256"]
    assert read_data(back / "data.arrow").equals(read_data(inputs / "data.arrow"))
    before = (back / "data.arrow").stat().st_ino
    fetch_inputs(store, RUN.name, back, ["data.arrow", "job.json"])
    assert (back / "data.arrow").stat().st_ino == before, "what is here stays"
    assert (back / "job.json").exists()
    assert sorted(path.name for path in back.iterdir()) == ["data.arrow", "data.sha256", "job.json"]
    with pytest.raises(EngineError, match=r"was given no carried\.json"):
        fetch_inputs(store, RUN.name, back, ["carried.json"])


def test_a_full_disk_is_told(store: ObjectStore, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_run(store, RUN, inputs, threads=1, presign=600)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(travel, "read_parquet", full)
    with pytest.raises(EngineError, match=r"data\.arrow cannot be written on the worker's disk") as caught:
        fetch_inputs(store, RUN.name, tmp_path / "back", ["data.arrow"])
    assert caught.value.retryable
    assert not list((tmp_path / "back").iterdir()), "nothing half made"


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_data_comes_back_as_it_was(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([None, 1, 0, None], pa.int32())
    made = pa.nulls(4, kind) if pa.types.is_nested(kind) or pa.types.is_dictionary(kind) else _cast(values, kind)
    schema = pa.schema([pa.field("c0", kind, metadata={"typname": "x"})])
    write_data(tmp_path / "data.arrow", pa.table([made], schema=schema), rows=3)
    with (tmp_path / "data.parquet").open("wb") as sink:
        travel.write_parquet(tmp_path / "data.arrow", sink)
    travel.read_parquet(tmp_path / "data.parquet", tmp_path / "back.arrow")
    back, sent = read_data(tmp_path / "back.arrow"), read_data(tmp_path / "data.arrow")
    assert back.schema.equals(sent.schema, check_metadata=True)
    assert back.equals(sent)


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return values.cast(kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.nulls(4, kind) if not pa.types.is_binary(kind) else values.cast(pa.string()).cast(kind)


def test_a_run_with_mounts_keeps_the_pods_user(store: ObjectStore, tmp_path: Path) -> None:
    run = Run(RUN.name, placement=Placement(mounts=[Mount("data", "/data")]))
    assert document_of(store, upload_run(store, run, tmp_path, threads=1, presign=600))["keep_user"] is True


def test_row_groups_are_for_reading_side_by_side(tmp_path: Path) -> None:
    rows = 2 * travel.GROUP_ROWS + 1
    write_data(tmp_path / "data.arrow", pa.table({"c0": pa.array(range(rows))}), rows=50_000)
    with (tmp_path / "data.parquet").open("wb") as sink:
        travel.write_parquet(tmp_path / "data.arrow", sink)
    found = pq.ParquetFile(tmp_path / "data.parquet").metadata
    sizes = [found.row_group(n).num_rows for n in range(found.num_row_groups)]
    assert sum(sizes) == rows
    assert max(sizes) <= travel.GROUP_ROWS
    assert found.row_group(0).column(0).compression == "ZSTD"


def test_a_type_that_cannot_travel_is_told(store: ObjectStore, tmp_path: Path) -> None:
    write_data(tmp_path / "data.arrow", pa.table({"c0": pa.nulls(1, pa.month_day_nano_interval())}))
    with pytest.raises(EngineError, match=r"cannot be sent to the cluster: data\.arrow cannot be written as Parquet"):
        upload_run(store, RUN, tmp_path, threads=1, presign=600)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", "link"])
def test_a_tar_stays_where_it_is_unpacked(tmp_path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    if name == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "packages.tar", "w") as archive:
        archive.addfile(member)
    with pytest.raises(travel.BadCargo, match="no plain file inside"):
        travel.read_tar(tmp_path / "packages.tar", tmp_path / "packages")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packages", "packages.tar"]


def test_renewed_addresses_are_new_and_lead_to_the_same(store: ObjectStore, inputs: Path) -> None:
    first = upload_run(store, RUN, inputs, threads=1, presign=600)
    second = renew(store, RUN.name, 7200)
    old, new = document_of(store, first), document_of(store, second)  # both are there: pods see the Secret late
    assert new["expires"] > old["expires"]
    assert new["outputs"]["model.zip"]["upload_id"] == old["outputs"]["model.zip"]["upload_id"]
    assert new["manifest"]["put"] != old["manifest"]["put"]
    with pytest.raises(EngineError, match="are gone from the object store"):
        renew(store, "kwdbml-test-2", 600)


@pytest.mark.parametrize(
    ("kind", "large"),
    [(JobType.TRAIN, {"model.zip", "transformer.zip"}), (JobType.EVALUATE, set()), (None, set(access.LARGE))],
)
def test_a_run_may_leave_what_its_type_leaves(
    store: ObjectStore, inputs: Path, kind: JobType | None, large: set[str]
) -> None:
    run = Run(RUN.name, about=About(type=kind))
    document = document_of(store, upload_run(store, run, inputs, threads=1, presign=600))
    assert set(document["outputs"]) == {*access.SMALL, *large}


# -- outputs -------------------------------------------------------------------------------------------------------

MODEL = bytes(range(256)) * 1000


@pytest.fixture
def left(store: ObjectStore, tmp_path: Path) -> dict[str, Any]:
    """The manifest of a run that has left a result and a model; the latter's parts are not put together yet."""
    (tmp_path / "in").mkdir()
    document = document_of(store, upload_run(store, RUN, tmp_path / "in", threads=1, presign=600))
    upload = document["outputs"]["model.zip"]["upload_id"]
    part = store.part(store.key(RUN.name, "out", "model.zip"), upload, 1, MODEL)
    store.put(store.key(RUN.name, "out", "result.json"), b"{}")
    return a_manifest(part.etag)


def a_manifest(etag: str = '"x"') -> dict[str, Any]:
    digests = [hashlib.sha256(content).hexdigest() for content in (b"{}", MODEL)]
    parts = [{"number": 1, "etag": etag}]
    return {
        "version": 1,
        "exit_code": 0,
        "signal": None,
        "reason": "",
        "message": "",
        "step": "train",
        "refused": [],
        "outputs": [
            {"name": "result.json", "bytes": 2, "sha256": digests[0], "parts": []},
            {"name": "model.zip", "bytes": len(MODEL), "sha256": digests[1], "parts": parts},
        ],
    }


def tell(store: ObjectStore, manifest: dict[str, Any]) -> None:
    store.put(store.key(RUN.name, "manifest.json"), json.dumps(manifest).encode())


def fetch(store: ObjectStore, manifest: dict[str, Any], outputs: Path) -> None:
    tell(store, manifest)
    found = read_manifest(store, RUN.name)
    assert found is not None
    fetch_outputs(store, RUN.name, found, outputs)


def test_outputs_come_back_and_a_second_worker_may_ask_again(
    store: ObjectStore, left: dict[str, Any], tmp_path: Path
) -> None:
    assert read_manifest(store, RUN.name) is None
    for outputs in (tmp_path / "first", tmp_path / "second", tmp_path / "second"):
        fetch(store, left, outputs)
        assert (outputs / "model.zip").read_bytes() == MODEL
        assert sorted(path.name for path in outputs.iterdir()) == ["model.zip", "result.json"]


def test_an_empty_output_needs_no_object(store: ObjectStore, left: dict[str, Any], tmp_path: Path) -> None:
    left["outputs"][1] |= {"bytes": 0, "parts": [], "sha256": hashlib.sha256().hexdigest()}
    fetch(store, left, tmp_path / "out")
    assert (tmp_path / "out" / "model.zip").read_bytes() == b""


def test_a_damaged_output_is_told(
    store: ObjectStore, s3_bucket: S3Server, left: dict[str, Any], tmp_path: Path
) -> None:
    (s3_bucket.path / store.key(RUN.name, "out", "result.json")).write_bytes(b"[]")
    with pytest.raises(EngineError, match=r"out/result\.json is damaged: its SHA-256 is not the recorded one"):
        fetch(store, left, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_only_what_is_wanted_comes_back(store: ObjectStore, left: dict[str, Any], tmp_path: Path) -> None:
    left["refused"] = [{"name": "transformer.zip", "problem": "is not a plain file"}]
    tell(store, left)
    found = read_manifest(store, RUN.name)
    assert found is not None
    fetch_outputs(store, RUN.name, found, tmp_path / "out", {"result.json": None, "error.json": None})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json"]
    assert list(store.unfinished(store.key(RUN.name, "out", "model.zip"))), "its parts are not even put together"


def test_what_is_too_long_is_not_fetched(store: ObjectStore, left: dict[str, Any], tmp_path: Path) -> None:
    """Of what the manifest says: it may lie, and then it is not what comes."""
    tell(store, left)
    found = read_manifest(store, RUN.name)
    assert found is not None
    said = f"the model has {len(MODEL)} bytes, the limit is {len(MODEL) - 1}"
    with pytest.raises(LimitExceeded, match=said) as caught:
        fetch_outputs(store, RUN.name, found, tmp_path / "out", {"result.json": None, "model.zip": len(MODEL) - 1})
    assert "model_limit" in caught.value.hint
    assert not (tmp_path / "out").exists()
    fetch_outputs(store, RUN.name, found, tmp_path / "out", {"result.json": None, "model.zip": len(MODEL)})
    left["outputs"][1]["bytes"] = 10
    with pytest.raises(EngineError, match=r"model\.zip is damaged"):
        fetch(store, left, tmp_path / "lied")


def test_outputs_that_the_disk_has_no_room_for_are_not_fetched(
    store: ObjectStore, left: dict[str, Any], tmp_path: Path
) -> None:
    tell(store, left)
    found = read_manifest(store, RUN.name)
    assert found is not None
    whole = sum(output.stored.bytes for output in found.outputs)
    with pytest.raises(LimitExceeded, match=f"have {whole:,} bytes, more than the {whole - 1:,}") as caught:
        fetch_outputs(store, RUN.name, found, tmp_path / "out", disk=whole - 1)
    assert "KWDBML_SCRATCH_LIMIT" in caught.value.hint
    assert not (tmp_path / "out").exists()
    fetch_outputs(store, RUN.name, found, tmp_path / "out", {"result.json": None}, disk=whole - 1)
    fetch_outputs(store, RUN.name, found, tmp_path / "out", disk=whole)


def test_a_damaged_access_document_is_told(store: ObjectStore, s3_bucket: S3Server, inputs: Path) -> None:
    upload_run(store, RUN, inputs, threads=1, presign=600)
    [key] = s3_bucket.keys(store.key(RUN.name, "access"))
    content = bytearray((s3_bucket.path / key).read_bytes())
    content[len(content) // 2] ^= 1
    (s3_bucket.path / key).write_bytes(content)
    with pytest.raises(EngineError, match=r"access document .* is damaged") as caught:
        renew(store, RUN.name, 600)
    assert caught.value.retryable
    access.delete_run(store, RUN.name)  # which needs it no more
    assert not s3_bucket.keys()
    assert not list(store.unfinished(store.key(RUN.name)))


def test_an_output_that_is_no_file_is_the_jobs_error(store: ObjectStore, left: dict[str, Any], tmp_path: Path) -> None:
    left["refused"] = [{"name": "model.zip", "problem": "is not a plain file"}]
    with pytest.raises(EngineError, match=r"the job's output “model\.zip” is not a plain file"):
        fetch(store, left, tmp_path / "out")


def test_a_log_that_is_not_there(store: ObjectStore) -> None:
    assert read_log(store, RUN.name) == b""


def test_memory_does_not_grow_with_the_data(s3_settings: MakeSettings, tmp_path: Path) -> None:
    """300 MiB of Arrow as Parquet into the store, into a pod's workspace and a worker's, and back as an output."""
    settings = s3_settings().model_dump(mode="json") | {"secret_key": s3_settings().secret_key.get_secret_value()}
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.kubeflow.memory", json.dumps(settings), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 << 20
