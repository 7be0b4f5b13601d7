"""``python -m tests.engines.kubeflow.stub``: the stub in a process of its own, beside an S3 server.

It ends with its stdin. For benches: its first line on stdout is a JSON object: where it listens. Then each line of
stdin is one order, ``{"do": …}``, and each line of stdout its answer. Pods are simulated: a run lasts until ``end``,
which first writes what a step would have left into the store (no metrics, exit code 0).

With ``--installation DIRECTORY``: as somebody's Kubeflow (``installation.py``), whose pods run. Its first line is the
environment of who uses it; each line of stdin asks what is left there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.engines.kubeflow.stub.installation import installation
from tests.engines.kubeflow.stub.pods import Pod
from tests.engines.kubeflow.stub.stub import Stub
from tests.engines.kubeflow.stub.world import RUNTIME_IMAGE
from tests.fixtures.s3 import serve

Json = dict[str, Any]
_BUCKET, _PREFIX = "bench", "kwdbml"
_RESULT = b'{"metrics": [], "rows_read": 3, "rows_dropped": 0}'
#: How rclone tells of a call, and what it was. It says nothing of lists of unfinished uploads, and of sizes.
_S3_CALLS = {
    "CREATE OBJECT": "put", "GET OBJECT": "get", "LIST BUCKET": "list", "delete multi": "delete many",
    "initiate multipart": "begin upload", "put multipart": "put part", "complete multipart": "complete upload",
    "abort multipart": "abort upload",
}  # fmt: skip
#: What real pods have more than ours: Argo's template, which holds all of a component's inputs; who has managed what.
_PADDING = "kwdbml.test/padding"


class Bench:
    """The orders, by their names."""

    def __init__(self, stub: Stub, store: Path, s3_calls: Counter[str], pod_bytes: int) -> None:
        self._stub, self._store, self._s3_calls = stub, store, s3_calls
        self._padding = "x" * pod_bytes

    def counts(self) -> Json:
        """Calls and bytes answered so far."""
        servers = (self._stub.kfp, self._stub.cluster)
        calls = {name: n for server in servers for name, n in server.calls.items()}
        sent = {name: n for server in servers for name, n in server.sent.items()}
        broken = [one for server in servers for one in server.broken]
        return {"calls": calls, "sent": sent, "s3": dict(self._s3_calls), "broken": broken}

    def runs(self) -> Json:
        """State and name of each run, by its id."""
        with self._stub.lock:
            return {run_id: [run.state, run.document["display_name"]] for run_id, run in self._stub.runs.items()}

    def standing(self) -> Json:
        """How many runs there are by state, how many are archived; Secrets, pods that have not ended."""
        with self._stub.lock:
            states = Counter(run.state for run in self._stub.runs.values())
            archived = sum(run.archived for run in self._stub.runs.values())
            alive = sum(not pod.ended for pod in self._stub.pods.values())
        return {"states": dict(states), "archived": archived, "secrets": len(self._stub.secrets), "alive": alive}

    def end(self, run: str) -> float:
        """The run's step succeeds; when."""
        with self._stub.lock:
            name = self._stub.runs[run].document["display_name"]
        place = self._store / _PREFIX / name
        (place / "out").mkdir(parents=True, exist_ok=True)
        (place / "out" / "result.json").write_bytes(_RESULT)
        output = {"name": "result.json", "bytes": len(_RESULT), "sha256": hashlib.sha256(_RESULT).hexdigest()}
        manifest = {"version": 1, "exit_code": 0, "signal": None, "reason": "", "message": "", "step": "evaluate"}
        text = json.dumps(manifest | {"outputs": [output | {"parts": []}]})
        (place / "manifest.json").write_text(text, encoding="ascii")
        self._stub.finish(run)
        return time.time()

    def noticed(self) -> dict[str, float]:
        """When each run was asked about by its own id for the first time: its follower missed it in the list."""
        found: dict[str, float] = {}
        for at, method, path, _ in list(self._stub.kfp.log):
            if method == "GET" and path.startswith("/apis/v2beta1/runs/"):
                found.setdefault(path.rpartition("/")[2], at)
        return found

    def print(self, every: float) -> None:
        """Each running pod prints a line and its progress, for ever."""
        threading.Thread(target=self._print, args=(every,), daemon=True).start()

    def _print(self, every: float) -> None:
        number = 0
        while True:
            number += 1
            with self._stub.lock:
                pods = [pod for pod in self._stub.pods.values() if pod.task and not pod.ended]
            for pod in pods:
                pod.log.add(b"0 evaluate kwdbml: progress 0.%03d" % (number % 1000))
                pod.log.add(b"%d evaluate stdout: line %d of many, as long as such lines are" % (number, number))
            time.sleep(every)

    def pad(self) -> None:
        """Pods as large as a real cluster's."""
        show: Callable[[Pod], Json] = Pod.document

        def document(pod: Pod) -> Json:
            shown = show(pod)
            annotations = shown["metadata"]["annotations"] | {_PADDING: self._padding}
            return shown | {"metadata": shown["metadata"] | {"annotations": annotations}}

        Pod.document = document  # type: ignore[method-assign,assignment]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.engines.kubeflow.stub")
    parser.add_argument("--pod-bytes", type=int, default=0, help="that each pod's JSON is longer")
    parser.add_argument("--installation", type=Path, metavar="DIRECTORY", help="be one; its files go there")
    given = parser.parse_args()
    if given.installation:
        _serve(given.installation)
    else:
        _bench(given.pod_bytes)


def _serve(root: Path) -> None:
    with installation(root) as one:
        _say(one.variables)
        for _ in sys.stdin:
            _say(one.left())


def _bench(pod_bytes: int) -> None:
    s3_calls: Counter[str] = Counter()
    with serve(lambda line: _count(s3_calls, line)) as server, tempfile.TemporaryDirectory() as root:
        s3 = replace(server, bucket=_BUCKET)
        s3.path.mkdir()
        stub = Stub(Path(root) / "world", s3)
        stub.check_answers = False
        stub.simulate()
        bench = Bench(stub, s3.path, s3_calls, pod_bytes)
        bench.pad()
        place = {"kfp": stub.kfp.url, "cluster": stub.cluster.url, "image": RUNTIME_IMAGE}
        _say(place | {"s3": asdict(replace(s3, root=str(s3.root))), "prefix": _PREFIX})  # type: ignore[arg-type]
        for line in sys.stdin:
            order = json.loads(line)
            _say(getattr(bench, order.pop("do"))(**order))
        stub.stop()


def _count(calls: Counter[str], line: str) -> None:
    _, _, told = line.partition("serve s3: ")
    for words, name in _S3_CALLS.items():
        if told.startswith(words):
            calls[name] += 1


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
