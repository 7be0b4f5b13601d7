"""A step's last word, which anybody in the pod may have written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kwdbml.engines.kfp.download import parse_manifest, read_manifest
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.errors import EngineError
from tests.engines.kubeflow.test_upload_download import RUN, a_manifest


def _with(**changed: Any) -> Any:
    return lambda m: m | changed


def _with_output(**changed: Any) -> Any:
    return lambda m: m | {"outputs": [m["outputs"][0] | changed]}


@pytest.mark.parametrize(
    "change",
    [
        _with(version=2),
        _with(version=True),
        _with(exit_code=256),
        _with(exit_code=-1),
        _with(exit_code="0"),
        _with(signal=65),
        _with(reason="two words"),
        _with(reason=None),
        _with(step="no step"),
        _with(turn="../x"),
        _with(message=1),
        _with(outputs={}),
        _with(outputs=[1]),
        lambda m: m | {"outputs": [m["outputs"][0]] * 2},
        lambda m: {name: value for name, value in m.items() if name != "outputs"},
        _with_output(name="../in/job.json"),
        _with_output(name="/etc/passwd"),
        _with_output(name="manifest.json"),
        _with_output(name=["result.json"]),
        _with_output(bytes=-1),
        _with_output(bytes=1 << 40),
        _with_output(bytes=2.0),
        _with_output(sha256="0" * 63),
        _with_output(sha256="0" * 64 + "\n"),
        _with_output(parts=[{"number": 1, "etag": "x"}]),
        lambda m: m | {"outputs": [m["outputs"][1] | {"parts": []}]},
        lambda m: m | {"outputs": [m["outputs"][1] | {"parts": [{"number": 2, "etag": "x"}]}]},
        lambda m: m | {"outputs": [m["outputs"][1] | {"parts": [{"number": 1, "etag": "<x>\n"}]}]},
        _with(refused=[{"name": "../x", "problem": ""}]),
        lambda m: [m],
    ],
)
def test_a_manifest_is_believed_only_when_it_can_be_one(change: Any) -> None:
    parse_manifest(json.dumps(a_manifest()).encode())
    with pytest.raises(EngineError, match="not one that kwdbml writes"):
        parse_manifest(json.dumps(change(a_manifest())).encode())


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"{", b"[" * 100_000, b'{"version": NaN}', b'{"version": ' + b"9" * 5000 + b"}"]
)
def test_a_manifest_may_be_anything(content: bytes) -> None:
    with pytest.raises(EngineError, match="not one that kwdbml writes"):
        parse_manifest(content)


def test_a_manifest_may_be_endless(store: ObjectStore) -> None:
    store.put(store.key(RUN.name, "manifest.json"), b" " * (2 << 20))
    with pytest.raises(EngineError, match="longer than"):
        read_manifest(store, RUN.name)
