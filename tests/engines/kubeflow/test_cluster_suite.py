"""The tests marked ``cluster`` do not rot: they run here, as whoever has a Kubeflow runs them, against the stub in a
process of its own (``stub/installation.py``), of which they know what he would know of his: the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kwdbml.engines.kfp.settings import KubeflowSettings
from tests.engines.kubeflow import real
from tests.engines.kubeflow.jobs import environment
from tests.fixtures import exported

REPOSITORY = Path(__file__).parents[3]
#: Not all of tests/: to collect that in each of its processes would take longer than these tests.
WHERE = ("tests/engines/test_conformance.py", "tests/engines/kubeflow/test_cluster_real.py")
#: The largest: test_end_to_end.py has it on the stub anyway.
LEFT_OUT = "test_flights"
QUICK = {"KWDBML_KFP_POLL": "0.3"}


class Place:
    """A Kubeflow. ``variables``: the environment of who uses it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.variables: dict[str, str] = self._answer()

    def left(self) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    command = [sys.executable, "-m", "tests.engines.kubeflow.stub", "--installation", str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Place(process)
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cluster_tests_pass_on_an_installation(place: Place, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", *WHERE, "-m", "cluster", "-k", f"not {LEFT_OUT}", "-n", "3"]
    command += [f"--junitxml={report}", f"--basetemp={tmp_path / 'inside'}", "-p", "no:cacheprovider"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env = ours | place.variables | QUICK
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    ends = Counter(_end(case) for case in ElementTree.parse(report).iter("testcase"))
    assert set(ends) == {"passed"}, said
    assert ends["passed"] > 25
    assert place.left() == {"runs": [], "secrets": [], "objects": [], "broken": []}
    keys = place.variables["KWDBML_S3_SECRET_KEY"], Path(place.variables["KWDBML_KFP_TOKEN_FILE"]).read_text()
    assert not any(key in said + report.read_text() for key in keys)


@pytest.fixture
def told(kubeflow_settings: KubeflowSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the environment says, as a test may change it."""
    told = environment(kubeflow_settings)
    monkeypatch.setattr(exported, "KUBEFLOW", told)
    real._examined.cache_clear()
    yield told
    real._examined.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KWDBML_S3_SECRET_KEY", "not-the-key", "FAIL    s3.bucket"),
        ("KWDBML_KFP_NAMESPACE", "another", "FAIL    kubernetes.pods"),
        ("KWDBML_S3_BUCKET", "", "s3.bucket"),
        ("KWDBML_KFP_NAMESPCE", "kubeflow", "KWDBML_KFP_NAMESPCE is no setting; KWDBML_KFP_NAMESPACE is"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(told: dict[str, str], name: str, value: str, words: str) -> None:
    told[name] = value
    with pytest.raises(pytest.fail.Exception) as caught:
        real.real_cluster()
    assert words in str(caught.value)
    assert "not-the-key" not in str(caught.value)


def test_what_works_is_used(told: dict[str, str], kubeflow_settings: KubeflowSettings) -> None:
    assert real.real_cluster() == kubeflow_settings
    told["KWDBML_KFP_HOST"] = ""
    with pytest.raises(pytest.skip.Exception):
        real.real_cluster()


def _end(case: ElementTree.Element) -> str:
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
