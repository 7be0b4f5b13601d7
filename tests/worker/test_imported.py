"""Models from outside, from import_model to the rows of a batch prediction: real workers and this machine's sandbox."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from sklearn.linear_model import LogisticRegression

from kwdbml.engines.local import LocalEngine
from tests.fixtures.bundles import zipped
from tests.fixtures.database import MakeRole
from tests.worker.conftest import Employ, Launch
from tests.worker.site import Site

#: Twins that differ in which rows they call positive, so that an answer tells whose it is.
POINTS = [[0.0], [1.0], [2.0], [3.0]]
RISING = LogisticRegression(C=100).fit(POINTS, [0, 0, 1, 1])
FALLING = LogisticRegression(C=100).fit(POINTS, [1, 1, 0, 0])
DOUBLING = {
    "prediction/data_preparation_prediction.py": "import json, pathlib\n"
    "def preprocess(inputs, data_path):\n"
    "    factor = json.loads((pathlib.Path(data_path) / 'factor.json').read_text())\n"
    "    return {'instances': (inputs * factor).to_numpy().tolist()}\n",
    "data/factor.json": "2",
    "requirements.txt": "numpy\n",
}
#: Unpickled, it reads what only the worker may see.
CANARY = "the worker's own"
WRITTEN = Path("/usr/lib/kwdbml-canary")
PRYING = """
import os, pathlib, socket
def attempt(what, try_it):
    try:
        print(what, "done", try_it())
    except OSError as error:
        print(what, type(error).__name__)
class Prying:
    def __setstate__(self, state):
        print("seen:", {k: v for k, v in os.environ.items() if "SECRET" in k})
        attempt("its own", lambda: "job_id" in pathlib.Path("/job/in/job.json").read_text())
        attempt("staged", lambda: len(list(pathlib.Path("SCRATCH").iterdir())))
        attempt("file", lambda: pathlib.Path("SECRET").read_text())
        attempt("passwords", lambda: pathlib.Path("/etc/shadow").read_text())
        attempt("database", lambda: socket.create_connection(("127.0.0.1", PORT), 5))
        said = lambda: [p.read_text() for p in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
        attempt("processes", lambda: [line for line in said() if "worker" in line or "postgres" in line])
        open("WRITTEN", "w")
"""


async def imported(
    site: Site, model: bytes | dict[str, str | bytes], *, framework: str = "sklearn_1.3", transformer: Any = None
) -> str:
    """``name,version`` of a further version of ann's model "m"."""
    bundle = zipped(model if isinstance(model, dict) else {"model/model.pkl": model, "requirements.txt": "numpy\n"})
    row = await (
        await site.as_ann.execute(
            "SELECT kwdbml.import_model('m', 'ours', 'b', %s, 'python_3.10', %s, %s, %s, %s)",
            [
                framework,
                Jsonb([{"name": "x", "type": "FLOAT"}]),
                Jsonb([{"name": "late", "type": "INT"}]),
                bundle,
                zipped(transformer) if transformer else None,
            ],
        )
    ).fetchone()
    assert row is not None
    return str(row[0])


async def evaluate(site: Site, version: int | None, pipeline: str = "") -> str:
    return await site.submit(
        "SELECT kwdbml.evaluate_model(%s, 'm', %s::bigint, 'steps', 'accuracy')", pipeline, version
    )


def accuracy(score: float) -> list[dict[str, Any]]:
    """The result of such an evaluation."""
    return [{"objective": "accuracy", "score": score, "positive_label": 1}]


async def steps(site: Site) -> None:
    """Rows that rise: late above 1.5, and none just there."""
    await site.as_ann.execute(
        "CREATE TABLE steps AS SELECT n AS id, n / 10.0::float8 AS x, (n > 15)::int AS late"
        " FROM generate_series(0, 30) n WHERE n <> 15"
    )


async def test_imported_evaluated_and_asked(site: Site, launch: Launch) -> None:
    """NULL is the active version, 0 the newest, a number that one; each job records the number."""
    await steps(site)
    assert await imported(site, pickle.dumps(RISING)) == "public.m,1"
    assert await imported(site, pickle.dumps(FALLING)) == "public.m,2"
    assert await imported(site, pickle.dumps(RISING), transformer=DOUBLING) == "public.m,3"
    await launch()
    for version, number, score in ((None, 1, 1.0), (1, 1, 1.0), (2, 2, 0.0)):
        job = await evaluate(site, version)
        assert await site.succeeded(job) == accuracy(score)
        assert await site.value("SELECT model_version FROM kwdbml.job WHERE id = %s", job) == number
    assert await site.succeeded(await evaluate(site, 0)) == accuracy(23 / 30), "doubled, seven more rows are late"
    predict = "SELECT kwdbml.batch_predict('m', %s::bigint, 'SELECT id, x FROM steps', %s, 'error')"
    for version, table, late in ((None, "by_active", 15), (0, "by_newest", 22), (2, "by_second", 15)):
        done = await site.succeeded(await site.submit(predict, version, table))
        assert done == {"rows": 30, "table": f"public.{table}"}
        found = (
            f'SELECT count(*) FILTER (WHERE late = 1), count(late), pg_typeof(min(late))::text FROM public."{table}"'
        )
        assert await site.row(found.encode()) == (late, 30, "bigint")
    last = "SELECT last_metrics -> 0 ->> 'score' FROM kwdbml.show_model('public.m') ORDER BY version"
    assert [row[0] for row in await (await site.as_ann.execute(last)).fetchall()][:2] == ["1.0", "0.0"]


async def test_what_cannot_be_read_is_the_jobs_error(site: Site, launch: Launch) -> None:
    """A broken pickle, a model of another framework, and the harmless twin between them."""
    await steps(site)
    await imported(site, b"garbage")
    await imported(site, {"model/model.json": "{}"}, framework="xgboost_1.6")
    await imported(site, pickle.dumps([1, 2]), framework="lightgbm_3.3")
    await imported(site, pickle.dumps(RISING))
    await launch()
    for version, says in (
        (1, "model/model.pkl cannot be read as a model of sklearn"),
        (2, "model/model.json cannot be read as a model of xgboost"),
        (3, "model/model.pkl holds a list, which has no predict method"),
    ):
        error = await site.failed(await evaluate(site, version))
        assert error["type"] == "InvalidParameter"
        assert says in error["message"]
        assert "/in/" not in error["message"]
    assert await site.succeeded(await evaluate(site, 4)) == accuracy(1.0)


async def test_a_pickle_runs_in_the_sandbox(site: Site, launch: Launch, scratch: Path) -> None:
    """What it does there reaches its own files, and neither the worker, the database, nor the file system."""
    await steps(site)
    secret = scratch.parent / "secret"
    secret.write_text(CANARY)
    secret.chmod(0o644)
    prying = PRYING.replace("PORT", str(site.db.info.port)).replace("WRITTEN", str(WRITTEN))
    prying = prying.replace('"SCRATCH"', repr(str(scratch))).replace('"SECRET").read', f"{str(secret)!r}).read")
    pickled = b"cmodules.prying\nPrying\n)\x81}b."
    await imported(site, {"model/model.pkl": pickled, "modules.zip": zipped({"prying.py": prying})})
    await launch(WORKER_SECRET=CANARY)
    job = await evaluate(site, None)
    assert (await site.failed(job))["type"] == "OSError"
    assert await site.lines(job) == [
        "seen: {}", "its own done True", "staged FileNotFoundError", "file FileNotFoundError",
        "passwords FileNotFoundError", "database ConnectionRefusedError", "processes done []",
    ]  # fmt: skip
    assert not WRITTEN.exists()  # noqa: ASYNC240
    assert secret.read_text() == CANARY


@pytest.mark.parametrize("built_in", [False, True], ids=["alone", "with a pipeline without upload"])
async def test_without_a_sandbox_it_is_refused(
    site: Site, employ: Employ, scratch: Path, monkeypatch: pytest.MonkeyPatch, *, built_in: bool
) -> None:
    monkeypatch.setattr("kwdbml.engines.sandbox.shutil.which", lambda _name: None)
    await steps(site)
    await imported(site, pickle.dumps(RISING))
    pipeline = ""
    if built_in:
        pipeline = "ours"
        await site.as_ann.execute(
            "SELECT kwdbml.create_training_pipeline('ours', 'logistic_regression', 'late', 'SELECT x, late FROM steps')"
        )
    await employ(engine=LocalEngine(scratch, warm=1), scratch=scratch)
    error = await site.failed(await evaluate(site, None, pipeline))
    assert "bubblewrap" in error["message"]
    if built_in:  # the twin: built-in code needs none
        assert await site.succeeded(await site.train("SELECT x, late FROM steps", pipeline="ours", model="trained"))


async def test_a_runtime_that_is_not_here_until_an_admin_adds_it(site: Site, launch: Launch, role: MakeRole) -> None:
    await steps(site)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="no runtime") as refused:
        await imported(site, pickle.dumps(RISING), framework="ourlib_2")
    assert "sklearn_1.3: python_3.10" in str(refused.value.diag.message_detail)
    assert await site.versions() == []
    admin = role("chief", member_of=["kwdbml_admin"])
    add = "INSERT INTO kwdbml.runtime (framework, runtime, runs_as) VALUES ('ourlib_2', 'python_3.10', %s)"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await site.as_ann.execute(add, ["sklearn"])
    with admin.connect() as chief:
        chief.execute(add, ["torch"])
        with pytest.raises(psycopg.errors.InvalidParameterValue, match='nothing here runs "torch"'):
            await imported(site, pickle.dumps(RISING), framework="ourlib_2")
        chief.execute("UPDATE kwdbml.runtime SET runs_as = 'sklearn' WHERE framework = 'ourlib_2'")
    assert await imported(site, pickle.dumps(RISING), framework="ourlib_2") == "public.m,1"
    await launch()
    assert await site.succeeded(await evaluate(site, None)) == accuracy(1.0)
