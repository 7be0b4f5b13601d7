"""A data set to the object store, into a pod's workspace, from there as an output, and back from the store: how much
memory that takes.

Run as a program with the settings of the store and a directory as arguments; prints the bytes that were added.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from kwdbml.engines.base import Run
from kwdbml.engines.kfp import access, download
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.settings import S3Settings
from kwdbml.engines.kfp.upload import upload_run
from kwdbml.steps.pod_files import fetch_inputs, make_workspace, send_outputs
from kwdbml.steps.pod_http import Http

BATCH = 1 << 17  # rows of eight numbers: 8 MiB


def stage(inputs: Path, batches: int) -> None:
    inputs.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with pa.OSFile(str(inputs / "data.arrow"), "wb") as sink:
        schema = pa.schema([(f"c{n}", pa.float64()) for n in range(8)])
        with pa.ipc.new_file(sink, schema) as writer:
            for _ in range(batches):
                columns = [rng.integers(0, 1000, BATCH).astype("float64") for _ in range(8)]
                writer.write_batch(pa.record_batch(columns, schema=schema))


def rows(path: Path) -> int:
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source)
        return sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))


def travel(store: ObjectStore, name: str, root: Path) -> None:
    upload_run(store, Run(name), root / "in", threads=1, presign=600)
    document = access.read_document(store, name)
    (root / "pod").mkdir()
    make_workspace(root / "pod", None)
    http = Http(None, 10.0, lambda: False)
    fetch_inputs(http, lambda: document, root / "pod" / "in", lambda _: None)
    download.fetch_inputs(store, name, root / "back", ["data.arrow"])
    for place in ("pod/in", "back"):
        assert rows(root / place / "data.arrow") == rows(root / "in" / "data.arrow")
    (root / "pod/in/data.arrow").rename(root / "pod/out/model.zip")
    left = send_outputs(http, lambda: document, root / "pod" / "out")
    ended = {"version": 1, "exit_code": 0, "signal": None, "reason": "", "message": "", "step": None}
    manifest = download.parse_manifest(json.dumps(ended | left).encode())
    download.fetch_outputs(store, name, manifest, root / "out")
    assert rows(root / "out" / "model.zip") == rows(root / "in" / "data.arrow")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main(settings: str, place: str) -> None:
    store, root = ObjectStore(S3Settings.model_validate(json.loads(settings))), Path(place)
    before = 0
    for name, batches in (("small", 1), ("large", 38)):
        stage(root / name / "in", batches)
        (root / name / "in" / "job.json").write_text("{}")
        before = peak()
        travel(store, f"kwdbml-test-{name}", root / name)
    print(peak() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
