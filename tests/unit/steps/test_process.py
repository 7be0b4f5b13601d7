"""The step as the engine sees it: a process with a control pipe, exit codes, and a log that is live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.unit.steps.jobs import Jobs, environment, run_process

TRAIN = """
import os, sys
def model_train(x, y, a, b):
    print("hello from", os.environ.get("GREETER"), os.environ["OMP_NUM_THREADS"], flush=False)
    print("nothing to read:", repr(sys.stdin.read()))
    print("\\udc80 is no character", file=sys.stderr)
    from sklearn.dummy import DummyClassifier
    return DummyClassifier().fit(x, y), {"f1": 1}
"""


def steps(events: list[dict[str, Any]]) -> list[str]:
    found = [event["step"] for event in events if event["event"] == "progress"]
    return [step for i, step in enumerate(found) if i == 0 or found[i - 1] != step]


def uploaded(jobs: Jobs, frame: pd.DataFrame, code: str, **spec: Any) -> Path:
    return jobs.workspace("TRAIN", frame, "benign", "b", zips={"pipeline": {"pipeline/train.py": code}}, **spec)


def test_cold(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = run_process(uploaded(jobs, cancer, TRAIN, threads=2))
    assert result.metrics == {"f1": 1.0}
    assert "hello from None 2" in result.stdout
    assert "nothing to read: ''" in result.stdout
    assert "\\udc80 is no character" in result.stderr
    assert steps(result.events) == ["prepare", "train", "save"]


def test_warm(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = run_process(uploaded(jobs, cancer, TRAIN), warm=True, env={"GREETER": "the engine"})
    assert result.metrics == {"f1": 1.0}
    assert "hello from the engine 1" in result.stdout
    assert steps(result.events) == ["prepare", "train", "save"]


def test_warm_and_cold_make_the_same_model(jobs: Jobs, cancer: pd.DataFrame) -> None:
    made = []
    for warm in (False, True):
        workspace = jobs.workspace("TRAIN", cancer, "benign", "b", algorithm="xgboost", framework="xgboost")
        result = run_process(workspace, warm=warm)
        assert steps(result.events) == ["prepare", "train", "evaluate", "save"]
        made.append((result.json["metrics"], (result.out / "model.zip").read_bytes()))
    assert made[0] == made[1]


def test_prediction_tells_how_far_it_is(jobs: Jobs, cancer: pd.DataFrame) -> None:
    trained = jobs.run("TRAIN", cancer, "benign", "b", algorithm="hist_gradient_boosting")
    zips = {"model": trained.out / "model.zip"}
    result = run_process(jobs.workspace("BATCH_PREDICT", cancer.drop(columns="benign"), "benign", "b", zips=zips))
    assert len(result.predictions) == len(cancer)
    assert steps(result.events) == ["prepare", "predict"]
    assert result.events[-1]["fraction"] == 1.0


def test_a_failure_is_exit_code_1_and_in_the_log(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = run_process(uploaded(jobs, cancer, "def model_train(a, b, c, d):\n    raise ValueError('too hot')\n"))
    assert result.error["message"] == "too hot"
    assert result.error["traceback"] == ["pipeline/train.py:2 in model_train: raise ValueError('too hot')"]
    assert result.stderr.splitlines()[-1] == "ValueError: too hot"


def test_sys_exit_does_not_pass_as_success(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = run_process(uploaded(jobs, cancer, "import sys\ndef model_train(a, b, c, d):\n    sys.exit(0)\n"))
    assert result.error["message"] == "pipeline/train.py called sys.exit(0)"


def test_os_exit_leaves_no_result(jobs: Jobs, cancer: pd.DataFrame) -> None:
    result = run_process(uploaded(jobs, cancer, "import os\ndef model_train(a, b, c, d):\n    os._exit(7)\n"))
    assert result.code == 7
    assert not [path for path in result.out.iterdir() if path.suffix == ".json"]


def test_much_output_comes_through(jobs: Jobs, cancer: pd.DataFrame) -> None:
    code = TRAIN.replace(
        "    print(",
        "    print('x' * 79 + '\\n' + 'y' * 79)\n    for _ in range(20000): print('z' * 79)\n    print(",
        1,
    )
    result = run_process(uploaded(jobs, cancer, code))
    assert result.code == 0
    assert result.stdout.count("z" * 79) == 20000


def test_a_thread_left_running_does_not_hold_the_job(jobs: Jobs, cancer: pd.DataFrame) -> None:
    code = TRAIN.replace(
        "    print(", "    import threading; threading.Thread(target=threading.Event().wait).start()\n    print(", 1
    )
    assert run_process(uploaded(jobs, cancer, code)).code == 0


def test_closed_streams_do_not_hide_the_result(jobs: Jobs, cancer: pd.DataFrame) -> None:
    code = TRAIN.replace("from sklearn", "sys.stdout.close(); sys.stderr.close()\n    from sklearn")
    assert run_process(uploaded(jobs, cancer, code)).code == 0


def test_the_log_is_live(jobs: Jobs, cancer: pd.DataFrame, tmp_path: Path) -> None:
    """The line is there while the function still waits for us."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = f"def model_train(a, b, c, d):\n    print('waiting')\n    open({str(fifo)!r}).read()\n    1 / 0\n"
    workspace = uploaded(jobs, cancer, code)
    command = [sys.executable, "-m", "kwdbml.steps", str(workspace)]
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=silent, env=environment(), text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "waiting\n" for line in lines)
        fifo.write_text("go on")
        assert process.wait(60) == 1


def test_without_a_control_pipe_it_is_silent(jobs: Jobs, cancer: pd.DataFrame) -> None:
    workspace = uploaded(jobs, cancer, TRAIN)
    command = [sys.executable, "-m", "kwdbml.steps", str(workspace)]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment(), check=True)
    assert b'"event"' not in process.stdout + process.stderr


def test_a_warm_process_without_a_job_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kwdbml.steps", "--warm"]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment(), check=True)
    assert process.stdout == b""


def test_called_wrongly() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "kwdbml.steps"], capture_output=True, env=environment(), check=False
    )
    assert process.returncode == 2
    assert b"usage" in process.stderr


@pytest.mark.parametrize(
    ("spec", "message"), [("{", "cannot be read"), ('{"version": 9}', "version 9"), ('{"version": 1}', "not as it")]
)
def test_a_bad_job_json(tmp_path: Path, spec: str, message: str) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "job.json").write_text(spec)
    result = run_process(tmp_path)
    assert message in result.error["message"]
    assert json.loads((tmp_path / "out" / "error.json").read_text())["type"] == "StepError"
