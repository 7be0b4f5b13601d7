"""The stub as somebody's Kubeflow: whoever uses it has its addresses, its keys and a kubeconfig, and nothing else.

What tests of a real cluster might take for granted does not hold here: all speak TLS, by a certificate that nobody has
heard of; the cluster and Kubeflow want tokens; the namespace is not ``kubeflow``; the store has another address inside,
which nobody outside can reach; pods start, and states come, later than they could, and pods take a second to die.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from tests.engines.kubeflow.stub.containers import Image, runtime
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.kubeflow import make_certificate
from tests.fixtures.s3 import S3Server, serve

IMAGE = "registry.test:5000/kwdbml/runtime:test"
_NAMESPACE, _BUCKET, _PREFIX = "ml-runs", "mlpipeline", "team/kwdbml"
_STORE = "store.inside"
_LATE, _PROMPT = 0.4, 0.1  # seconds


class Installation:
    """``variables``: the environment of who uses it."""

    def __init__(self, root: Path, s3: S3Server, certificate: tuple[Path, Path]) -> None:
        self._s3, self._over = s3, threading.Event()
        self._stub = Stub(root / "world", s3)
        self._stub.namespace, self._stub.grace = _NAMESPACE, 1.0
        self._stub.images = {IMAGE: _image(root / "hosts")}
        self.variables = self._secure(root, *certificate) | self._store(certificate[0])
        self._late = threading.Thread(target=self._be_late, name="late")
        self._late.start()

    def _secure(self, root: Path, authority: Path, key: Path) -> dict[str, str]:
        """The servers and the ways to them."""
        kubeconfig, token = root / "kubeconfig", root / "token"
        self._stub.kfp.tokens, self._stub.cluster.tokens = {secrets.token_hex(16)}, {secrets.token_hex(16)}
        for server in (self._stub.kfp, self._stub.cluster):
            server.secure(authority, key)
        kubeconfig.write_text(_kubeconfig(self._stub.cluster.url, authority, *self._stub.cluster.tokens))
        token.write_text(*self._stub.kfp.tokens)
        return {
            "KWDBML_KFP_HOST": self._stub.kfp.url, "KWDBML_KFP_CA_FILE": str(authority),
            "KWDBML_KFP_TOKEN_FILE": str(token), "KWDBML_KFP_NAMESPACE": _NAMESPACE, "KWDBML_KFP_IMAGE": IMAGE,
            "KWDBML_KFP_KUBECONFIG": str(kubeconfig),
        }  # fmt: skip

    def _store(self, authority: Path) -> dict[str, str]:
        port = urlsplit(self._s3.endpoint).port
        return {
            "KWDBML_S3_ENDPOINT": self._s3.endpoint,
            "KWDBML_S3_POD_ENDPOINT": f"https://{_STORE}:{port}", "KWDBML_S3_CA_FILE": str(authority),
            "KWDBML_S3_BUCKET": self._s3.bucket, "KWDBML_S3_PREFIX": _PREFIX,
            "KWDBML_S3_ACCESS_KEY": self._s3.access_key, "KWDBML_S3_SECRET_KEY": self._s3.secret_key,
        }  # fmt: skip

    def left(self) -> dict[str, list[str]]:
        """What is still there, runs in the archive included, and what went wrong in the stub itself."""
        with self._stub.lock:
            return {
                "runs": [str(run.document["display_name"]) for run in self._stub.runs.values()],
                "secrets": list(self._stub.secrets),
                "objects": self._s3.keys(),
                "broken": self._stub.kfp.broken + self._stub.cluster.broken,
            }

    def _be_late(self) -> None:
        while not self._over.is_set():
            self._stub.hold("PENDING")
            self._stub.agent(False)
            self._over.wait(_LATE)
            self._stub.release("PENDING")
            self._stub.agent(True)
            self._over.wait(_PROMPT)

    def close(self) -> None:
        self._over.set()
        self._late.join()
        self._stub.stop()


@contextmanager
def installation(root: Path) -> Iterator[Installation]:
    certificate = make_certificate(root, _STORE)
    with serve(certificate=certificate) as server:
        s3 = replace(server, bucket=_BUCKET)
        s3.path.mkdir()
        one = Installation(root, s3, certificate)
        yield one
        one.close()


def _image(hosts: Path) -> Image:
    """In its containers, and nowhere else, the store goes by its name."""
    hosts.write_text(f"127.0.0.1 localhost {_STORE}\n")
    return replace(runtime(IMAGE), files={"/etc/hosts": hosts})


def _kubeconfig(server: str, authority: Path, token: str) -> str:
    """As JSON, which is YAML."""
    trusted = base64.b64encode(authority.read_bytes()).decode()
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "there",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority-data": trusted}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
    })  # fmt: skip
