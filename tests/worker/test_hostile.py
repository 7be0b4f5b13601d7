"""What user code leaves behind is not believed: the job fails with a clear error, the worker lives, nothing leaks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from psycopg.types.json import Jsonb

from kwdbml.engines.fake import FakeJob, FakeWorld
from tests.fixtures.bundles import zipped
from tests.worker import plays
from tests.worker.conftest import Employ, Launch
from tests.worker.site import Site, result

CANARY = "root:x:canary"
Spoil = Callable[[Path], Any]

#: errors that say what is wrong in our words; anything else would be a bug's
OURS = {"InvalidParameter", "EngineError", "LimitExceeded", "Error"}


def _instead(name: str, make: Callable[[Path], Any]) -> Spoil:
    def spoil(outputs: Path) -> None:
        (outputs / name).unlink(missing_ok=True)
        make(outputs / name)

    return spoil


def _text(content: str, name: str = "result.json") -> Spoil:
    return _instead(name, lambda path: path.write_text(content))


def _canary(path: Path) -> Path:
    secret = path.parents[3] / "shadow"
    secret.write_text(CANARY)
    return secret


RESULTS: dict[str, Spoil] = {
    "a link": _instead("result.json", lambda p: p.symlink_to(_canary(p))),
    "a hard link": _instead("result.json", lambda p: os.link(_canary(p), p)),
    "a FIFO": _instead("result.json", os.mkfifo),
    "a directory": _instead("result.json", Path.mkdir),
    "missing": _instead("result.json", lambda p: None),
    "huge": _text('{"metrics": [], "pad": "' + "x" * (17 << 20) + '"}'),
    "no JSON": _text("{"),
    "no UTF-8": _instead("result.json", lambda p: p.write_bytes(b'{"metrics": "\xff"}')),
    "a list": _text("[]"),
    "deep": _text("[" * 100_000),
    "metrics no list": _text('{"metrics": 5}'),
    "metrics of text": _text('{"metrics": ["f1"]}'),
    "metric without score": _text('{"metrics": [{"objective": "f1"}]}'),
    "score of text": _text('{"metrics": [{"objective": "f1", "score": "high"}]}'),
    "score too large": _text('{"metrics": [{"objective": "f1", "score": 1' + "0" * 400 + "}]}"),
    "rows of text": _text('{"metrics": [], "rows_read": "many"}'),
    "infinitely many rows": _text('{"metrics": [], "rows_read": Infinity}'),
    "more rows than there are": _text('{"metrics": [], "rows_read": 1' + "0" * 30 + "}"),
    "number of many digits": _text('{"metrics": [], "rows_read": ' + "9" * 5000 + "}"),
    "deep label": _text('{"metrics": [], "positive_label": ' + "[" * 900 + "]" * 900 + "}"),
    "libraries of numbers": _text('{"metrics": [], "libraries": [1]}'),
}

MODELS: dict[str, Spoil] = {
    "a link": _instead("model.zip", lambda p: p.symlink_to(_canary(p))),
    "a FIFO": _instead("model.zip", os.mkfifo),
    "missing": _instead("model.zip", lambda p: None),
}


async def _refused(
    site: Site, employ: Employ, world: FakeWorld, spoil: Spoil, submit: Callable[[], Any]
) -> dict[str, Any]:
    """The error of a job whose outputs were spoilt; its harmless twin succeeds on the same worker afterwards."""

    def script(job: FakeJob) -> int:
        code = plays.step(job)
        if spoiling:
            spoil(job.outputs)
        return code

    spoiling = True
    world.script = script
    await employ()
    error = await site.failed(await submit())
    assert CANARY not in json.dumps(error)
    assert error["type"] in OURS, error
    spoiling = False
    await site.succeeded(await submit())
    return error


@pytest.mark.parametrize("case", list(RESULTS))
async def test_result(site: Site, employ: Employ, world: FakeWorld, case: str) -> None:
    await _refused(site, employ, world, RESULTS[case], site.train)
    assert await site.versions() == [(1, True)]


@pytest.mark.parametrize("case", list(MODELS))
async def test_model(site: Site, employ: Employ, world: FakeWorld, case: str) -> None:
    error = await _refused(site, employ, world, MODELS[case], site.train)
    assert "model" in error["message"]


def _arrow(make: Callable[[], list[Any]]) -> Spoil:
    def spoil(outputs: Path) -> None:
        columns = make()
        table = pa.table({f"t{i}": c for i, c in enumerate(columns)})
        with pa.OSFile(str(outputs / "predictions.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    return spoil


def _bend(outputs: Path) -> None:
    """Text whose last offset points far beyond its bytes: the file is well-formed and would be read through."""
    path = outputs / "predictions.arrow"
    _arrow(lambda: [pa.array(["ab"] * 50)])(outputs)
    right = b"".join(n.to_bytes(4, "little") for n in (94, 96, 98, 100))
    content = path.read_bytes()
    assert content.count(right) == 1
    path.write_bytes(content.replace(right, right[:-4] + (1 << 30).to_bytes(4, "little")))


PREDICTIONS: dict[str, tuple[Spoil, str]] = {
    "too few": (_arrow(lambda: [pa.array(range(49))]), "fewer"),
    "too many": (_arrow(lambda: [pa.array(range(51))]), "more"),
    "none": (_arrow(lambda: [pa.array([], pa.int64())]), "fewer"),
    "text for a number": (_arrow(lambda: [pa.array(["many"] * 50)]), "are no int64"),
    "fractions for whole numbers": (_arrow(lambda: [pa.array([0.5] * 50)]), "are no int64"),
    "too large": (_arrow(lambda: [pa.array([1e300] * 50)]), "are no int64"),
    "another type": (_arrow(lambda: [pa.array([1] * 50, pa.uint64())]), "column's type"),
    "lists": (_arrow(lambda: [pa.array([[1]] * 50)]), "column's type"),
    "no column": (_instead("predictions.arrow", lambda p: _arrow(list)(p.parent)), "prediction"),
    "a column too many": (_arrow(lambda: [pa.array(range(50)), pa.array(range(50))]), "prediction"),
    "corrupt offsets": (_bend, "prediction"),
    "corrupt bytes": (
        _instead("predictions.arrow", lambda p: p.write_bytes(b"ARROW1\0\0" + bytes(range(256)) * 9)),
        "prediction",
    ),
    "empty file": (_instead("predictions.arrow", lambda p: p.write_bytes(b"")), "prediction"),
    "missing": (_instead("predictions.arrow", lambda p: None), "prediction"),
    "a link": (_instead("predictions.arrow", lambda p: p.symlink_to(_canary(p))), "prediction"),
}


@pytest.mark.parametrize("case", list(PREDICTIONS))
async def test_predictions(site: Site, employ: Employ, world: FakeWorld, case: str) -> None:
    spoil, word = PREDICTIONS[case]
    await site.model(target=[{"name": "y", "type": "INT"}])
    error = await _refused(site, employ, world, spoil, site.predict)
    assert word in error["message"], error
    assert await site.value("SELECT count(*) FROM answers") == 50


async def test_wrong_type_of_text_target_is_written_as_text(site: Site, employ: Employ, world: FakeWorld) -> None:
    """What has an exact text is no error."""
    world.script = lambda job: plays.step(job) or _arrow(lambda: [pa.array(range(50))])(job.outputs) or 0
    await site.model(target=[{"name": "y", "type": "STRING"}])
    await employ()
    await site.succeeded(await site.predict())
    assert await site.value("SELECT max(y) FROM answers") == "9"


async def test_what_jsonb_cannot_hold_is_cleaned(site: Site, employ: Employ, world: FakeWorld) -> None:
    odd = [{"objective": "a\0b\ud800", "score": float("nan")}, {"objective": "c", "score": float("inf")}]

    def script(job: FakeJob) -> int:
        plays.step(job)
        (job.outputs / "result.json").write_text(
            result(metrics=odd, libraries={"n\0": "1\0"}, positive_label="\ud800\0")
        )
        return 0

    world.script = script
    await employ()
    answer = await site.succeeded(await site.train())
    assert [(m["objective"], m["score"]) for m in answer] == [("a\ufffdb?", None), ("c", None)]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"type": "X"}', '{"type": "X", "message": "\\u0000"}', '{"type": 1, "message": [2]}']
)
async def test_an_odd_error_is_still_one(site: Site, employ: Employ, world: FakeWorld, content: str) -> None:
    def script(job: FakeJob) -> int:
        (job.outputs / "error.json").write_text(content)
        return 1

    world.script = script
    await employ()
    error = await site.failed(await site.train())
    assert set(error) == {"type", "message", "step", "traceback"}


async def test_an_error_that_is_a_link_is_not_read(site: Site, employ: Employ, world: FakeWorld) -> None:
    def script(job: FakeJob) -> int:
        (job.outputs / "error.json").symlink_to(_canary(job.outputs / "error.json"))
        return 1

    world.script = script
    await employ()
    assert CANARY not in json.dumps(await site.failed(await site.train()))


async def test_odd_lines_are_kept_clean(site: Site, employ: Employ, world: FakeWorld) -> None:
    def script(job: FakeJob) -> int:
        job.print("a\0b")
        job.print("\x1b[31mred\r")
        return plays.step(job)

    world.script = script
    await employ()
    job = await site.train()
    await site.succeeded(job)
    assert len(await site.lines(job)) == 2


#: When the process ends, after we have written the predictions, it puts a GiB in 100 KB in their place.
BOMB = """
import os

def model_train(x_train, y_train, x_test, y_test):
    from sklearn.dummy import DummyClassifier
    return DummyClassifier().fit(x_train, y_train), [{"objective": "auc", "score": 0.5}]

def model_predict(model_path, x_test):
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    leave = os._exit

    def explode(code):
        (where,) = [at for at, _, names in os.walk("/") if "predictions.arrow" in names]
        path = os.path.join(where, "predictions.arrow")
        os.unlink(path)
        batch = pa.record_batch({"t0": pa.array(np.zeros(1 << 27))})
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batch.schema, options=options) as writer:
            writer.write_batch(batch)
        print("a bomb of", os.stat(path).st_size, "bytes", flush=True)
        leave(code)

    if "BOMB" in os.environ:
        os._exit = explode
    return pd.DataFrame({"y": np.zeros(len(x_test))})
"""


def _most_memory(pid: int) -> int:
    """Resident bytes of a process when it was at its largest."""
    words = Path(f"/proc/{pid}/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) * 1024


async def test_a_bomb_in_place_of_the_predictions(site: Site, launch: Launch) -> None:
    column = Jsonb([{"name": "x", "type": "FLOAT"}]), Jsonb([{"name": "late", "type": "INT"}])
    code = zipped({"pipeline/train.py": BOMB, "pipeline/batch_predict.py": BOMB})
    await site.as_ann.execute(
        "SELECT kwdbml.import_training_pipeline('bomb', '', 'b', 'sklearn_1.3', 'python_3.10', %s, %s, %s, NULL)",
        [*column, code],
    )
    worker = await launch()
    await site.succeeded(await site.train(pipeline="bomb"))
    predict = "SELECT kwdbml.batch_predict('bomb', 'm', NULL, 'trips', 'answers', 'error', %s)"
    job = await site.submit(predict, Jsonb({"env": {"BOMB": "1"}}))
    error = await site.failed(job)
    assert "a bomb of" in " ".join(await site.lines(job))
    assert (error["type"], "compressed" in error["message"]) == ("InvalidParameter", True), error
    assert await site.value("SELECT to_regclass('answers') IS NULL")
    assert _most_memory(worker.process.pid) < 300 << 20
    assert await site.succeeded(await site.submit(predict, Jsonb({}))) == {"rows": 50, "table": "public.answers"}


#: (type of the job, settings): what a hand-written row may hold where a call of ours has checked.
FORGED: list[tuple[str, str]] = [
    *(("TRAIN", f'{{"{key}": {value}}}') for key in ("flavour", "ttl", "new_version_if_exists", "immediately_deploy",
      "train_data", "engine", "queue") for value in ("5e9999", "null", "[1]", '{"cpu": []}')),
    *(("TRAIN", f'{{"hyperparameters": {value}}}') for value in ("5", "null", "[1]", "[]", '"a"')),
    ("TRAIN", '{"flavour": "big"}'), ("TRAIN", '{"flavour": {"cpu": null}}'), ("TRAIN", '{"flavour": {"mem": [1]}}'),
    ("TRAIN", '{"flavour": {"cpu": 1e400}}'), ("TRAIN", '{"flavour": {"mem": "' + "9" * 400 + 'T"}}'),
    ("TRAIN", '{"flavour": {"scalarResources": 5}}'), ("TRAIN", '{"ttl": 1e400}'), ("TRAIN", '{"ttl": "1 day"}'),
    ("TRAIN", '{"ttl": 1e5000}'), ("TRAIN", '{"immediately_deploy": "maybe"}'), ("TRAIN", '{"unknown": 1}'),
    ("TRAIN", '{"hyperparameters": {"deep": ' + "[" * 150 + "]" * 150 + "}}"),
    ("TRAIN", '{"hyperparameters": {"deep": ' + "[" * 2000 + "]" * 2000 + "}}"),
    ("EVALUATE", '{"objectives": 5}'), ("EVALUATE", '{"objectives": {"a": []}}'), ("EVALUATE", '{"objectives": null}'),
    ("BATCH_PREDICT", "{}"), ("BATCH_PREDICT", '{"result_table": 5, "action_if_exists": "error"}'),
    *(("BATCH_PREDICT", f'{{"result_table": "{name}", "action_if_exists": "error"}}')
      for name in ("t", "", "a.b.c", "a b.")),
    ("BATCH_PREDICT", '{"result_table": "public.t", "action_if_exists": ["error"]}'),
    ("BATCH_PREDICT", '{"result_table": "public.t", "action_if_exists": "Replace"}'),
    ("BATCH_PREDICT", '{"result_table": "public.t"}'),
]  # fmt: skip
SQLSTATE_22023 = ("InvalidParameter", "InvalidParameterValue")  # as we and as PostgreSQL name it
SOUND = {
    "TRAIN": '{"ttl": 100, "flavour": {"cpu": 1, "mem": "1Gi"}, "hyperparameters": {"a": [1]}, "labels": {"a": "b"}}',
    "EVALUATE": '{"objectives": "f1"}',
    "BATCH_PREDICT": '{"result_table": "public.t", "action_if_exists": "error"}',
}


async def _forge(site: Site, kind: str, settings: str, env: str = "{}") -> str:
    """A job whose row ann has written by hand."""
    columns = (
        "(SELECT jsonb_agg(jsonb_build_object('name', attname, 'type', format_type(atttypid, -1), 'oid', atttypid::int,"
    )
    columns += " 'typmod', -1)) FROM pg_attribute WHERE attrelid = 'trips'::regclass AND attnum > 0)"
    pipeline = ", 'public.p', id, NULL FROM kwdbml.pipeline"
    version = ", NULL, NULL, id FROM kwdbml.model_version"
    insert = (
        "INSERT INTO kwdbml.job (type, model_name, settings, data_query, data_columns, pipeline_name, pipeline_id,"
        f" model_version_id) SELECT %s, 'public.m', %s, 'SELECT * FROM public.trips', {columns}"
    )
    async with site.as_ann.transaction():
        job = await site.submit(
            (insert + (pipeline if kind == "TRAIN" else version) + " RETURNING id").encode(), kind, settings
        )
        await site.as_ann.execute("INSERT INTO kwdbml.job_env VALUES (%s, %s)", [job, env])
    await site.as_ann.execute("NOTIFY kwdbml_wake")
    return job


@pytest.mark.parametrize("kind", list(SOUND))
async def test_forged_settings(site: Site, employ: Employ, kind: str) -> None:
    if kind != "TRAIN":
        await site.model()
    await employ()
    for settings in [s for k, s in FORGED if k == kind]:
        job = await _forge(site, kind, settings)
        error = await site.failed(job)
        assert error["type"] in SQLSTATE_22023, (settings[:100], error)
        assert await site.value("SELECT count(*) FROM kwdbml.job_logs(%s)", job) == 0, "it never ran"
    assert await site.value("SELECT to_regclass('public.t') IS NULL")
    await site.succeeded(await _forge(site, kind, SOUND[kind]))


@pytest.mark.parametrize("env", ['{"A": 1}', '{"A=B": "c"}', '{"": "c"}', '{"A": null}', '{"A": ["b"]}'])
async def test_forged_environment(site: Site, employ: Employ, env: str) -> None:
    await employ()
    error = await site.failed(await _forge(site, "TRAIN", "{}", env))
    assert error["type"] == "InvalidParameter"
    await site.succeeded(await _forge(site, "TRAIN", '{"env": 5}', '{"A": "b"}'))
