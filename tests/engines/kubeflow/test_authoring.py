"""The compiled pipelines are what their source compiles to: one step, started once, never cached."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kwdbml.engines.kfp import authoring, pipeline

CHECKED_IN = Path(pipeline.__file__).parent / "pipelines"


def test_what_is_checked_in_is_what_the_sdk_compiles(tmp_path: Path) -> None:
    assert authoring.differing(CHECKED_IN) == []
    shutil.copytree(CHECKED_IN, tmp_path, dirs_exist_ok=True)
    (tmp_path / "train.yaml").unlink()
    text = (tmp_path / "evaluate.yaml").read_text(encoding="utf-8")
    (tmp_path / "evaluate.yaml").write_text(text.replace("cachingOptions: {}", ""), encoding="utf-8")
    text = (tmp_path / "batch-predict.yaml").read_text(encoding="utf-8")
    (tmp_path / "batch-predict.yaml").write_text(text.replace("kfp-2.17.0", "kfp-2.17.9"), encoding="utf-8")
    assert authoring.differing(tmp_path) == ["train.yaml", "evaluate.yaml"]


def test_check_says_which_differ(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert authoring.main(["--check"]) == 0
    monkeypatch.setattr(authoring, "differing", lambda directory: ["train.yaml"])
    assert authoring.main(["--check"]) == 1
    assert "train.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("kind", pipeline.PIPELINES)
def test_a_pipeline_is_one_step_that_is_started_once(kind: str) -> None:
    spec, platform = yaml.safe_load_all((CHECKED_IN / f"{kind}.yaml").read_text(encoding="utf-8"))
    [task] = spec["root"]["dag"]["tasks"].values()
    assert task["cachingOptions"] == {}
    assert "retryPolicy" not in task
    [executor] = spec["deploymentSpec"]["executors"].values()
    assert executor["container"]["command"] == [
        "python", "-m", "kwdbml.steps.pod", "--access", "/var/run/kwdbml/access.json",
    ]  # fmt: skip
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == {
        "run", "job", "attempt", "installation", "type", "model", "creator", "ttl",
    }  # fmt: skip
    assert spec["pipelineInfo"]["name"] == f"kwdbml-{kind}"
    [config] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert config["secretAsVolume"][0]["mountPath"] == "/var/run/kwdbml"


def test_the_worker_needs_no_sdk() -> None:
    """What a worker imports for Kubeflow, in an interpreter that refuses the SDK."""
    program = (
        "import sys; sys.modules['kfp'] = None\n"
        "from kwdbml.engines.kfp import api, backoff, cluster, pipeline, reasons, settings\n"
        "from kwdbml.engines.base import Run\n"
        "s = settings.KubeflowSettings(host='http://x', image='i', s3=dict(endpoint='http://x', bucket='abc',"
        " access_key='a', secret_key='s'))\n"
        "print(pipeline.fill(Run('kwdbml-a-b-1'), s, 's3://b/p').display_name)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "kwdbml-a-b-1\n"
