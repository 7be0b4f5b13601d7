"""The stand-in for Kubeflow Pipelines, Kubernetes and S3 (``tests/engines/kubeflow/stub``) in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


class StubProcess:
    """``ask`` gives an order of the stub's and answers its answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._place = self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a worker that takes it for a cluster."""
        place, s3 = self._place, self._place["s3"]
        return {
            "KWDBML_KFP_HOST": place["kfp"], "KWDBML_KFP_CLUSTER_HOST": place["cluster"],
            "KWDBML_KFP_IMAGE": place["image"], "KWDBML_S3_ENDPOINT": s3["endpoint"],
            "KWDBML_S3_BUCKET": s3["bucket"], "KWDBML_S3_PREFIX": place["prefix"],
            "KWDBML_S3_ACCESS_KEY": s3["access_key"], "KWDBML_S3_SECRET_KEY": s3["secret_key"],
        }  # fmt: skip

    def ask(self, do: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the stub has ended with {self._process.wait()}")
        return json.loads(line)


@contextmanager
def stub(pod_bytes: int) -> Iterator[StubProcess]:
    command = [sys.executable, "-m", "tests.engines.kubeflow.stub", "--pod-bytes", str(pod_bytes)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield StubProcess(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(30.0)
            except subprocess.TimeoutExpired:
                process.kill()
