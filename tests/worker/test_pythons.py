"""A runtime that an admin adds, and the other Python in which the local engine then runs it."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr
from sklearn.linear_model import LogisticRegression

import kwdbml
from kwdbml.engines import pythons
from kwdbml.errors import EngineError
from kwdbml.settings import WorkerSettings
from tests.fixtures.bundles import zipped
from tests.fixtures.database import MakeRole
from tests.worker.conftest import Launch
from tests.worker.site import Site

TELLING = "import sys\n{more}\ndef preprocess(inputs, data_path):\n    print('in', sys.prefix)\n    return "
TELLING += "{{'instances': inputs.to_numpy().tolist()}}\n"
FITTED = pickle.dumps(LogisticRegression(C=100).fit([[0.0], [1.0], [3.0], [4.0]], [0, 0, 1, 1]))


def made(home: Path) -> Path:
    """A Python of its own at ``home``, with the libraries of ours and a module that only it has; its interpreter."""
    venv.create(home, symlinks=True)
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    ours = [sysconfig.get_path("purelib"), str(Path(str(kwdbml.__file__)).parents[1])]
    (libraries / "ours.pth").write_text("\n".join(ours), encoding="utf-8")
    (libraries / "kept_apart.py").write_text("WHERE = __file__\n", encoding="utf-8")
    return home / "bin" / "python"


async def imported(site: Site, runtime: str, more: str = "", requirements: str = "") -> str:
    """The job of an evaluation of the newest version of "m", which declares this runtime and prints where it runs."""
    bundles = (
        zipped({"model/model.pkl": FITTED}),
        zipped(
            {"prediction/data_preparation_prediction.py": TELLING.format(more=more), "requirements.txt": requirements}
        ),
    )
    await site.submit(
        "SELECT kwdbml.import_model('m', '', 'b', 'sklearn_1.3', %s, %s, %s, %s, %s)",
        runtime, Jsonb([{"name": "x", "type": "FLOAT"}]), Jsonb([{"name": "late", "type": "INT"}]), *bundles,
    )  # fmt: skip
    return await site.submit("SELECT kwdbml.evaluate_model('', 'm', 0, 'trips', 'accuracy')")


ADD = "INSERT INTO kwdbml.runtime (framework, runtime, runs_as, engines) VALUES ('sklearn_1.3', %s, 'sklearn', %s)"


async def test_a_job_runs_where_its_runtime_says(site: Site, launch: Launch, role: MakeRole, tmp_path: Path) -> None:
    """Its modules are there and seen from nowhere else, nothing is installed into it, and the worker must have it."""
    other = await asyncio.to_thread(made, tmp_path / "other")
    with role("chief", member_of=["kwdbml_admin"]).connect() as chief:
        chief.execute(ADD, ["python_3.11-apart", Jsonb({"local": {"python": "apart"}})])
        chief.execute(ADD, ["python_3.11-gone", Jsonb({"local": {"python": "gone"}, "kubeflow": {"cpu": 2}})])
    await launch("--python", f"apart={other}")
    jobs = [
        await imported(site, "python_3.10"),
        await imported(site, "python_3.11-apart", "import kept_apart", "scikit-learn>1\n"),
        await imported(site, "python_3.10", "import kept_apart"),
        await imported(site, "python_3.11-apart", "", "no-such-package-of-kwdbml==1\n"),
        await imported(site, "python_3.11-gone"),
    ]
    for job, place in zip(jobs[:2], [sys.prefix, str(tmp_path / "other")], strict=True):
        await site.succeeded(job)
        assert set(await site.lines(job)) == {f"in {place}"}
    errors = [await site.failed(job) for job in jobs[2:]]
    assert [error["type"] for error in errors] == ["ModuleNotFoundError", "MissingRequirement", "EngineError"]
    assert "--python gone=PATH" in errors[2]["message"]


@pytest.mark.parametrize(
    ("engines", "refused"),
    [
        ({"local": {"python": "a"}}, False), ({}, False), ({"kubeflow": {"pull_policy": "Never", "cpu": 2}}, False),
        ({"local": {}}, False), ({"local": {"pyhton": "a"}}, True), ({"local": {"python": 3}}, True),
        ({"local": {"python": None}}, True), ({"local": "a"}, True), ({"kubeflow": []}, True), ([], True),
        ({"local": ["python"]}, True),
    ],
)  # fmt: skip
def test_a_row_is_checked(
    db: psycopg.Connection[object], role: MakeRole, engines: dict[str, object], *, refused: bool
) -> None:
    with role("chief", member_of=["kwdbml_admin"]).connect() as chief:
        if refused:
            with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.InvalidParameterValue)):
                chief.execute(ADD, ["ours", Jsonb(engines)])
        else:
            chief.execute(ADD, ["ours", Jsonb(engines)])
    found = db.execute("SELECT count(*) FROM kwdbml.runtime WHERE runtime = 'ours'").fetchone()
    assert found == (not refused,)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "cannot be started"), ("echo no; exit 3", "exit code 3"),
        ("echo 'No module x' >&2; exit 1", "No module x"),
        ("""echo '["0.0.1", "/x", []]'""", "has kwdbml 0.0.1"),
    ],
)  # fmt: skip
def test_a_python_that_cannot_run_jobs(tmp_path: Path, script: str | None, says: str) -> None:
    path = tmp_path / "python"
    if script is not None:
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        path.chmod(0o755)
    with pytest.raises(EngineError, match=says) as caught:
        pythons.look_at({"ours": path})
    assert caught.value.hint
    assert "ours" in caught.value.message


@pytest.mark.parametrize("given", ["apart", "=x", "apart="])
def test_a_flag_that_is_no_pair(given: str) -> None:
    command = [sys.executable, "-m", "kwdbml", "worker", "--dsn", "", "--python", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "NAME=PATH" in done.stderr) == (2, True), done.stderr


def test_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_PYTHONS", '{"apart": "/opt/apart/bin/python"}')
    assert WorkerSettings(dsn=SecretStr("")).pythons == {"apart": Path("/opt/apart/bin/python")}
