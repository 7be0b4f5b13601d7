"""What an engine is told of an attempt: ``run_of`` over what ``worker_spec`` answers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from kwdbml.engines.base import About, Mount, Placement, Resources, Run
from kwdbml.errors import FeatureNotSupported, InvalidParameter
from kwdbml.model import JobType
from kwdbml.store import Claim
from kwdbml.worker.inputs import run_of

ID = UUID(int=1)
CLAIM = Claim(ID, 1, ID, "kwdbml-a-b-1", "kubeflow", "RUNNING", takeover=False, phase="staging", handle=None)
NAMED = {
    "cpu": "4", "mem": "2Gi", "scalarResources": {"nvidia.com/gpu": 1.0}, "node_selector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu"}],
}  # fmt: skip


def spec(flavour: Any = None, runtime: Any = None, volumes: Any = None, **changes: Any) -> dict[str, Any]:
    """A training's, as the database answers it."""
    settings = {"train_data": "t", "new_version_if_exists": True, "immediately_deploy": True, "env": ["A"]}
    return {
        "type": "TRAIN", "settings": {**settings, **changes.pop("settings", {})}, "env": {"A": "secret"}, "ttl": 0,
        "user_code": False, "problem_type": "b", "features": [{"name": "x", "type": "FLOAT"}],
        "target": [{"name": "y", "type": "INT"}], "runtime": runtime or {}, "engine": "kubeflow", "image": None,
        "creator": "ann", "model": "public.m", "labels": {"team": "a"}, "annotations": {"why": "b"},
        "flavour": flavour, "file_systems": volumes or {}, **changes,
    }  # fmt: skip


def test_of_a_plain_training() -> None:
    about = About(JobType.TRAIN, "ann", "public.m", {"team": "a"}, {"why": "b"})
    plain = Run(CLAIM.run_name, Resources(), None, {"A": "secret"}, trusted=True, about=about, placement=Placement())
    found = run_of(CLAIM, spec())
    assert (found.resources, found.ttl, found.env, found.about) == (plain.resources, None, plain.env, about)
    assert found.placement == Placement(mounts=[])
    assert "secret" not in str(found.about) + str(found.placement)


def test_a_named_flavour_counts_alone() -> None:
    found = run_of(CLAIM, spec(NAMED, {"cpu": "1", "mem": "1Gi"}, settings={"flavour": {"name": "gpu", "cpu": "9"}}))
    assert found.resources == Resources(4.0, 2 << 30, {"nvidia.com/gpu": "1"})
    assert (found.placement.node_selector, found.placement.tolerations) == ({"disk": "ssd"}, [{"key": "gpu"}])


@pytest.mark.parametrize("name", [{}, {"name": ""}, {"name": "customFlavour"}], ids=str)
def test_ones_own_amounts_and_for_the_rest_the_runtimes(name: dict[str, str]) -> None:
    asked = {"flavour": {**name, "cpu": "500m", "scalarResources": {"nvidia.com/gpu": 2}}}
    found = run_of(CLAIM, spec(None, {"cpu": 2, "mem": "1Gi", "pull_policy": "Always"}, settings=asked))
    assert found.resources == Resources(0.5, 1 << 30, {"nvidia.com/gpu": "2"})
    assert (found.placement.pull_policy, found.placement.node_selector) == ("Always", {})


@pytest.mark.parametrize(("asked", "image"), [({}, "of-the-runtime:1"), ({"image": "mine:1"}, "mine:1")])
def test_the_jobs_image_goes_over_the_runtimes(asked: dict[str, str], image: str) -> None:
    assert run_of(CLAIM, spec(image="of-the-runtime:1", settings=asked)).placement.image == image
    assert run_of(CLAIM, spec()).placement.image is None


def test_file_systems() -> None:
    volumes = {"a": {"claim": "pvc-a", "sub_path": ""}, "b": {"claim": "pvc-b", "sub_path": "team"}}
    asked = {
        "fs": {"name": "a", "mountPath": "/mnt/a/"},
        "extraFS": [
            {"name": "b", "mountPath": "/data"},
            {"name": "b", "mountPath": "/data/sub", "subPath": "x/y", "readOnly": False},
            {"name": "a", "mountPath": "/srv/a", "subPath": "z"},
        ],
    }
    assert run_of(CLAIM, spec(volumes=volumes, settings=asked)).placement.mounts == [
        Mount("pvc-a", "/mnt/a"), Mount("pvc-b", "/data", "team"), Mount("pvc-b", "/data/sub", "team/x/y"),
        Mount("pvc-a", "/srv/a", "z"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": {"a": {"b": "c"}}}, "labels"),
        ({"annotations": {"a": None}}, "annotations"),
        ({"settings": {"extraFS": {"name": "a", "mountPath": "/mnt/a"}}}, "extraFS"),
        ({"settings": {"fs": {"name": "a", "mountPath": "/etc"}}}, "/etc"),
        ({"settings": {"flavour": {"name": "gpu", "node_selector": {}}}}, "node_selector"),
        ({"settings": {"flavour": {"scalarResources": {"gpu": []}}}}, "gpu"),
    ],
)
def test_what_a_hand_has_written(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidParameter, match=word):
        run_of(CLAIM, spec(volumes={"a": {"claim": "pvc-a", "sub_path": ""}}, **changes))


def test_a_built_in_algorithm_with_a_volume_may_run_code_of_users() -> None:
    volumes = {"a": {"claim": "pvc-a", "sub_path": ""}}
    asked = {"fs": {"name": "a", "mountPath": "/mnt/a"}}
    assert [run_of(CLAIM, spec(volumes=volumes, settings=more)).trusted for more in ({}, asked)] == [True, False]


def test_nothing_is_mounted_that_would_not_be_as_asked_for() -> None:
    asked = {"fs": {"name": "a", "mountPath": "/mnt/a", "readOnly": True}}
    with pytest.raises(FeatureNotSupported, match="read-only"):
        run_of(CLAIM, spec(volumes={"a": {"claim": "pvc-a", "sub_path": ""}}, settings=asked))
