"""``kwdbml.steps.pod`` as a plain process, with signed addresses of a real S3 server: a pod without Kubernetes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from kwdbml.engines.base import LogLine, Run, RunState
from kwdbml.engines.cgroups import Cgroup, find_base
from kwdbml.engines.kfp.access import input_key, read_document
from kwdbml.engines.kfp.download import read_log, read_manifest
from kwdbml.engines.kfp.loglines import Parser
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.loglines import HEAD, TAIL
from tests.engines.conftest import STEP
from tests.engines.kubeflow.pod_process import NAME, Pod
from tests.engines.kubeflow.remote import RemoteSteps
from tests.engines.kubeflow.stub.containers import Mount, Order, runtime, sandbox
from tests.engines.kubeflow.stub.stub import Stub
from tests.engines.test_real_step import stage
from tests.fixtures.bundles import zipped
from tests.fixtures.s3 import S3Server
from tests.unit.steps.jobs import Jobs
from tests.unit.steps.test_compare import ACTIVE, scripted


def test_a_training(pod: Pod) -> None:
    stage(pod.workspace)
    pod.start(command=("python", "-m", "kwdbml.steps", "--warm"))
    code, lines = pod.end()
    assert code == 0, lines
    manifest = pod.manifest()
    assert (manifest.exit_code, manifest.reason, manifest.step) == (0, "", "save")
    assert {output.name for output in manifest.outputs} == {"result.json", "model.zip"}
    assert pod.result()["rows_read"] == 400
    assert (pod.workspace.outputs / "model.zip").stat().st_size > 100


def test_what_the_step_sees(pod: Pod) -> None:
    secret = str(pod.root / "secret" / "access.json")
    pod.start([["environment"], ["attempt", "read", secret], ["say", "hello"], ["descriptors"]], env={"MINE": "1"})
    code, lines = pod.end()
    assert (code, lines) == (0, ["stdout: hello"])
    found = pod.result()
    assert found["0"]["MINE"] == "1"
    assert "s3cret" not in json.dumps(found["0"])
    assert not found["1"].startswith("done")
    assert set(found["3"]) - {"4"} == {"0", "1", "2", "3"}


def test_a_step_that_fails(pod: Pod) -> None:
    pod.start([["raise_error", "no such column"]])
    code, lines = pod.end()
    assert (code, lines[-1]) == (1, "stderr: RuntimeError: no such column")
    assert (pod.manifest().exit_code, pod.manifest().reason) == (1, "")


def test_a_step_that_is_killed(pod: Pod) -> None:
    pod.start([["fall", 9]])
    assert pod.end()[0] == 137
    assert (pod.manifest().signal, pod.manifest().reason) == (9, "Signal")


def test_the_ttl_ends_the_step_and_its_children(pod: Pod) -> None:
    pod.start([["children", 2], ["hang"]], ttl=3.0)
    code, lines = pod.end()
    assert (code, lines[-1]) == (137, "kwdbml: The job ran longer than its ttl allows.")
    assert (pod.manifest().exit_code, pod.manifest().reason) == (137, "DeadlineExceeded")


def test_the_longest_ttl_that_a_job_may_have(pod: Pod) -> None:
    pod.start([["say", "hello"]], ttl=1e12)
    assert pod.end() == (0, ["stdout: hello"])


def test_sigterm_uploads_nothing(pod: Pod, s3_bucket: S3Server) -> None:
    pod.start([["say", "begun"], ["hang"]])
    pod.await_line("begun")
    assert pod.process is not None
    assert pod.process.stdout is not None
    pod.process.send_signal(signal.SIGTERM)
    assert pod.process.wait(60) == 143
    pod.process.stdout.close()
    assert pod.process.stderr is not None
    pod.process.stderr.close()
    assert read_manifest(pod.store, NAME) is None
    assert not [key for key in s3_bucket.keys("") if "/out/" in key]


def test_a_huge_log_keeps_its_ends(pod: Pod) -> None:
    pod.start([["say", "first"], ["raw", "x" * 99 + "\n", 200_000], ["raw", "\xff\0\r\n"], ["say", "last"]])
    code, lines = pod.end()
    assert (code, len(lines)) == (0, 200_003)
    kept = read_log(pod.store, NAME)
    assert HEAD + TAIL - 1000 < len(kept) <= HEAD + TAIL
    found = [one for one in Parser().feed(kept) if isinstance(one, LogLine)]
    assert (found[0].line, found[-2].line, found[-1].line) == ("first", "\ufffd\ufffd", "last")
    assert (found[0].seq, found[-1].seq) == (1, 200_003)


@pytest.mark.parametrize(
    ("do", "problem"),
    [
        (["link", "/etc/passwd", "model.zip"], "cannot be opened"),
        (["pipe", "model.zip"], "is not a plain file"),
        (["second_name", "a", "model.zip"], "goes by a second name"),
    ],
)
def test_outputs_that_are_no_files_are_refused(pod: Pod, do: list[Any], problem: str) -> None:
    pod.start([["write", "a", "x"], do, ["write", "unasked.zip", "x"]])
    assert pod.end()[0] == 0
    ((name, told),) = pod.manifest().refused
    assert name == "model.zip"
    assert problem in told
    assert {output.name for output in pod.manifest().outputs} == {"result.json"}


def test_a_damaged_input_ends_the_run_before_the_step(pod: Pod, s3_bucket: S3Server) -> None:
    (pod.workspace.inputs / "model.zip").write_bytes(b"as it was")
    pod.start([["say", "never"]])
    key = input_key(pod.store, NAME, "1", "model.zip")
    assert pod.process is not None
    (s3_bucket.path / key).write_bytes(b"as it is?")
    code, lines = pod.end()
    assert code == 3
    assert lines == ["kwdbml: Unavailable: in/model.zip is damaged: its SHA-256 is not the recorded one (9 bytes)"]
    assert pod.manifest().message.startswith("in/model.zip is damaged")
    assert (pod.manifest().reason, pod.manifest().exit_code) == ("Unavailable", 3)


#: Reads what the kernel counts from a file of the test's.
COUNTED = """
import sys
from pathlib import Path
from kwdbml.steps import pod
pod._oom_counters = lambda: iter([Path(sys.argv[-1]).parents[1] / "memory.events"])
sys.exit(pod.main(sys.argv[1:]))
"""


def _told(pod: Pod, more: int = 1, last: list[Any] | None = None) -> int:
    """Ended by a signal, and the file says that the kernel has."""
    counts = pod.root / "memory.events"
    counts.write_text("oom 7\noom_kill 2\n")
    pod.start([["say", "begun"], ["pause"], last or ["fall", 9]], module=COUNTED)
    pod.await_line("begun")
    counts.write_text(f"oom 7\noom_kill {2 + more}\n")
    pod.go_on()
    return pod.end()[0]


def _killed(pod: Pod) -> int:
    """Really ended by it, in a control group."""
    base = find_base()
    assert base is not None
    group = Cgroup(base[0], f"{base[1]}/kwdbml-pod-{os.getpid()}")
    group.create(4096)
    try:
        if group.version == 2:
            (Path(group.path) / "memory.oom.group").write_text("0")
        group.limit_memory(128 << 20)
        join = ("/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', group.path)
        pod.start([["allocate", 1 << 30]], before=join)
        return pod.end()[0]
    finally:
        group.remove()


@pytest.mark.parametrize("end", [_told, *([_killed] if find_base() else [])])
def test_a_step_that_the_kernel_ends_for_memory(pod: Pod, end: Callable[[Pod], int]) -> None:
    assert end(pod) == 137
    assert (pod.manifest().reason, pod.manifest().signal) == ("OOMKilled", 9)


def test_a_step_that_a_signal_ends(pod: Pod) -> None:
    """The kernel has ended others for memory, before it."""
    assert _told(pod, more=0) == 137
    assert (pod.manifest().reason, pod.manifest().signal) == ("Signal", 9)


def test_a_step_that_succeeds_though_a_child_was_ended_for_memory(pod: Pod) -> None:
    """As joblib does, which starts its workers again."""
    assert _told(pod, last=["say", "done"]) == 0
    assert (pod.manifest().exit_code, pod.manifest().reason) == (0, "")
    assert pod.result()
    assert b"kwdbml: A process of the step was ended for memory" in read_log(pod.store, NAME)


@pytest.mark.parametrize("last", [["raise_error", "a worker is gone"], ["leave", 0]])
def test_a_step_that_fails_because_a_child_was_ended_for_memory(pod: Pod, last: list[Any]) -> None:
    _told(pod, last=last)
    assert pod.manifest().reason == "OOMKilled"


def container(pod: Pod) -> list[str]:
    """A container in which any user can run this Python and the step."""
    mounts = [Mount(pod.root, str(pod.root))]
    image = runtime("x")
    image = replace(image, binds=[*image.binds, STEP])
    words = sandbox(Order(image, [], {}, mounts, "pod", pod.root / "container"), 0)
    info = words.index("--info-fd")
    return [*words[:info], *words[info + 2 :], "--"]


def test_an_ordinary_users_step_does_not_see_the_secret(pod: Pod) -> None:
    """It cannot have another user number: Landlock alone keeps the file from it."""
    user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        user = ("setpriv", "--reuid=59999", "--regid=59999", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    (pod.root / "tmp").chmod(0o777)
    secret = str(pod.root / "secret" / "access.json")
    look = [["attempt", "read", secret], ["job_user"], ["attempt", "read", "/etc/passwd"]]
    pod.start(look, before=(*container(pod), *user))
    assert pod.end() == (0, [])
    answers = pod.result()
    assert answers["0"] == "PermissionError"
    assert set(answers["1"]) == {59999 if user else os.geteuid()}
    assert answers["2"].startswith("done")


def test_without_landlock_uploaded_code_is_refused(pod: Pod) -> None:
    pod.start([["say", "never"]], module=WITHOUT_LANDLOCK)
    code, lines = pod.end()
    (said,) = lines
    assert code == 3
    assert said.startswith("kwdbml: The step was not started: code of users could read this pod's Secret")
    assert "kernel has no Landlock (Function not implemented)." in said
    assert "KWDBML_KFP_UNSAFE_NO_LANDLOCK=true" in said
    manifest = pod.manifest()
    assert (manifest.reason, manifest.exit_code, manifest.outputs) == ("Error", 3, ())
    assert f"kwdbml: {manifest.message}" == said


@pytest.mark.parametrize("allowed", [{"unsafe": True}, {"trusted": True}])
def test_without_landlock_code_runs_when_it_may(pod: Pod, allowed: dict[str, Any]) -> None:
    """And Landlock is what kept the Secret from the step: a mounted one is for everybody to read."""
    look = ["attempt", "read", str(pod.root / "secret" / "access.json")]
    pod.start([look, ["say", "done"]], module=WITHOUT_LANDLOCK, **allowed)
    code, lines = pod.end()
    assert (code, lines[-1]) == (0, "stdout: done")
    (said,) = lines[:-1]
    assert said.startswith("stderr: kwdbml: the job's code can read this pod's Secret")
    assert "the kernel has no Landlock (Function not implemented)" in said
    assert pod.result()["0"].startswith("done")


def test_a_landlock_that_fails_starts_nothing(pod: Pod) -> None:
    """A kernel that knows it, where its use is forbidden: another number than the version's question."""
    pod.start([["say", "never"]], module=WITHOUT_LANDLOCK.replace("_CREATE", "_RESTRICT"))
    code, lines = pod.end()
    assert code == 127
    assert [line.partition(": ")[2].rpartition(" ")[2] for line in lines] == ["implemented"]


WITHOUT_LANDLOCK = """
import sys
from kwdbml.steps import pod, pod_hide
pod_hide._CREATE = 5000
pod._leave(pod.main(sys.argv[1:]))
"""
FIRST_LANDLOCK = """
import sys
from kwdbml.steps import pod, pod_hide
pod_hide._version = lambda call: 1
pod._leave(pod.main(sys.argv[1:]))
"""
MOVES = [
    ["write", "a", "x"],
    ["attempt", "hard link", "../a", "b"],
    ["attempt", "move", "../a", "c"],
    ["attempt", "move", "c", "d"],
]


def test_a_step_can_move_files_between_directories(pod: Pod) -> None:
    secret = str(pod.root / "secret" / "access.json")
    pod.start([*MOVES, ["attempt", "move", secret, "e"], ["attempt", "hard link", secret, "e"]])
    assert pod.end() == (0, [])
    answers = pod.result()
    assert [answers[number] for number in ("1", "2", "3")] == ["done None"] * 3
    assert not answers["4"].startswith("done")
    assert not answers["5"].startswith("done")


def test_the_first_landlock_keeps_files_in_their_directories(pod: Pod) -> None:
    """Known, and told in docs/kubeflow.md: Linux 5.13 to 5.18."""
    pod.start(MOVES, module=FIRST_LANDLOCK)
    assert pod.end() == (0, [])
    answers = pod.result()
    assert [answers["1"], answers["2"]] == [f"OSError {errno.EXDEV}"] * 2


@pytest.mark.parametrize("module", ["", FIRST_LANDLOCK])
def test_modules_that_were_zipped_with_their_folder(pod: Pod, tmp_path: Path, module: str) -> None:
    code = """
from modules import one
from modules.deep.two import TWO
from sklearn.linear_model import LinearRegression
def model_train(x, y, x_test, y_test):
    return LinearRegression().fit(x, y), {"one": one.ONE, "two": TWO}
"""
    files = {"modules/one.py": "ONE = 1", "modules/deep/two.py": "TWO = 2", "modules/modules/x.py": ""}
    zips: dict[str, Any] = {"pipeline": {"pipeline/train.py": code, "modules.zip": zipped(files)}}
    frame = pd.DataFrame({"a": range(50), "b": range(50)})
    staged = Jobs(tmp_path / "jobs").workspace("TRAIN", frame, "b", "r", zips=zips)
    shutil.copytree(staged / "in", pod.workspace.inputs, dirs_exist_ok=True)
    pod.start(command=("python", "-m", "kwdbml.steps", "--warm"), module=module)
    ended, lines = pod.end()
    assert ended == 0, lines
    assert {metric["objective"]: metric["score"] for metric in pod.result()["metrics"]} == {"one": 1, "two": 2}


async def test_in_a_container_the_step_does_not_see_the_secret(
    kubeflow: Stub, kubeflow_settings: KubeflowSettings, tmp_path: Path
) -> None:
    engine = RemoteSteps(kubeflow_settings, tmp_path)
    await engine.start()
    try:
        run = Run("kwdbml-pod-1-1")
        workspace = await engine.open(run)
        names = ["/var/run/kwdbml/access.json", "/run/kwdbml/..data/access.json", "/proc/1/environ", "/etc/passwd"]
        look = [["attempt", "read", name] for name in names]
        (workspace.inputs / "job.json").write_text(json.dumps({"do": [*look, ["job_user"], *MOVES]}))
        handle = await engine.launch(run, workspace)
        while not (status := await engine.wait(handle, 10)).ended:
            pass
        lines = [line.line for line in (await engine.logs(handle)).lines]
        assert (status.state, lines) == (RunState.SUCCEEDED, [])
        answers = json.loads(((await engine.collect(handle)).outputs / "result.json").read_bytes())
        assert [answers[str(number)].split()[0] for number in range(4)] == [
            "PermissionError", "PermissionError", "PermissionError", "done",
        ]  # fmt: skip
        (user,) = set(answers["4"])
        assert user >= 60_600 if os.geteuid() == 0 else user == os.geteuid()
        assert [answers[number] for number in ("6", "7", "8")] == ["done None"] * 3
        await engine.cleanup(handle)
    finally:
        await engine.close()


@pytest.mark.parametrize("unsafe", [False, True])
async def test_the_setting_travels(
    kubeflow: Stub, kubeflow_settings: KubeflowSettings, tmp_path: Path, unsafe: bool
) -> None:
    kubeflow.simulate()
    settings = kubeflow_settings.model_copy(update={"unsafe_no_landlock": unsafe})
    engine = RemoteSteps(settings, tmp_path)
    await engine.start()
    try:
        run = Run("kwdbml-pod-1-1")
        handle = await engine.launch(run, await engine.open(run))
        assert read_document(ObjectStore(settings.s3), run.name)["unsafe"] is unsafe
        await engine.cancel(handle)
        await engine.cleanup(handle)
    finally:
        await engine.close()


def test_a_training_that_is_compared(pod: Pod, tmp_path: Path) -> None:
    """The active version travels with its packages, and further Pythons are started for the comparison."""
    frame: pd.DataFrame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "benign"})
    frame = frame[["mean radius", "mean texture", "benign"]].sample(frac=1, random_state=1).reset_index(drop=True)
    body = "import brought_along; print('active has', brought_along.VERSION)"
    active = scripted(body) | {"requirements.txt": "brought-along==2\n"}
    staged = Jobs(tmp_path / "jobs").workspace(
        "TRAIN", frame, "benign", "b", zips={"active-model": active}, compare=ACTIVE, algorithm="logistic_regression"
    )
    package = staged / "in" / "active-packages"
    (package / "brought_along-2.dist-info").mkdir(parents=True)
    (package / "brought_along.py").write_text("VERSION = '2'\n")
    (package / "brought_along-2.dist-info" / "METADATA").write_text("Name: brought-along\nVersion: 2\n")
    shutil.copytree(staged / "in", pod.workspace.inputs, dirs_exist_ok=True)
    pod.start(command=("python", "-m", "kwdbml.steps", "--warm"))
    code, lines = pod.end()
    assert code == 0, lines
    assert "stdout: active has 2" in lines
    held = pod.result()["hold_out"]
    assert "problem" not in held["active"], held
    new, old = ({metric["objective"] for metric in one["metrics"]} for one in (held, held["active"]))
    assert new == old != set()
