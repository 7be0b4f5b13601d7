"""Jobs that go well: everything that a success is lands together, and nothing else is left."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

import psycopg
import pytest

from kwdbml.engines.fake import FakeJob, FakeWorld
from tests.fixtures.database import MakeRole
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import Gate, Site, metrics, result

MIB = 1024 * 1024


async def test_a_training_lands_a_version_with_its_metrics(site: Site, employ: Employ) -> None:
    await employ()
    job = await site.train()
    assert await site.succeeded(job) == metrics()
    found = await site.row(
        "SELECT last_metrics, rows_read, libraries, framework, job_id::text FROM kwdbml.model_version"
    )
    assert found == (metrics(), 50, {"numpy": "2"}, "sklearn_1.3", job)


async def test_a_long_staging_shows_how_far_it_is(site: Site, employ: Employ, world: FakeWorld, gate: Gate) -> None:
    rows = "SELECT n AS id, n / 10.0::float8 AS x, n % 2 AS late FROM generate_series(1, 1000000) AS n"
    world.script = held = plays.Held()
    await employ()
    job = await site.train(f"{rows} UNION ALL {gate.data}")
    step = str(await site.until("SELECT step FROM kwdbml.jobs WHERE phase = 'staging'"))
    read = re.fullmatch(r"read ([1-9][0-9,]+) rows", step)
    assert read, step
    assert int(read[1].replace(",", "")) <= 1_000_000
    await gate.open()
    await held.at.wait()
    await site.until("SELECT step = 'train' AND progress = 0.5 FROM kwdbml.jobs")
    held.go.set()
    await site.one_landed(job)


async def test_the_first_version_is_active_and_a_further_one_only_when_deployed(site: Site, employ: Employ) -> None:
    await employ()
    for deploy, wanted in ((False, [(1, True)]), (False, [(1, True), (2, False)])):
        await site.succeeded(await site.train(new_version=True, deploy=deploy))
        assert await site.versions() == wanted
    await site.succeeded(await site.train(new_version=True, deploy=True))
    assert await site.versions() == [(1, False), (2, False), (3, True)]


async def test_a_failed_training_takes_no_number(site: Site, employ: Employ, world: FakeWorld) -> None:
    await employ()
    await site.succeeded(await site.train())
    world.script = plays.fail
    await site.failed(await site.train(new_version=True))
    world.script = plays.step
    await site.succeeded(await site.train(new_version=True))
    assert await site.versions() == [(1, True), (2, False)]


async def test_a_big_model_is_stored_in_chunks_with_its_hash(site: Site, employ: Employ, world: FakeWorld) -> None:
    content = os.urandom(20 * MIB + 3)

    def script(job: FakeJob) -> int:
        plays.step(job)
        (job.outputs / "model.zip").write_bytes(content)
        return 0

    world.script = script
    await employ()
    await site.succeeded(await site.train())
    stored = await site.row("SELECT bytes, sha256 FROM kwdbml.artefact WHERE kind = 'model' AND pipeline_id IS NULL")
    assert stored == (len(content), hashlib.sha256(content).hexdigest())
    chunks = await site.rows(
        "SELECT c.seq, octet_length(c.chunk) FROM kwdbml.artefact_chunk c"
        " JOIN kwdbml.artefact a ON a.id = c.artefact_id WHERE a.model_version_id IS NOT NULL ORDER BY 1"
    )
    assert chunks == [(0, 8 * MIB), (1, 8 * MIB), (2, 4 * MIB + 3)]


async def test_the_stored_model_comes_back_as_it_was(site: Site, employ: Employ, world: FakeWorld) -> None:
    content, seen = os.urandom(9 * MIB), []

    def script(job: FakeJob) -> int:
        plays.step(job)
        if plays.spec_of(job)["type"] == "TRAIN":
            (job.outputs / "model.zip").write_bytes(content)
        else:
            seen.append((job.inputs / "model.zip").read_bytes())
        return 0

    world.script = script
    await employ()
    await site.succeeded(await site.train())
    await site.succeeded(await site.predict())
    assert seen == [content]


async def test_a_transformer_that_training_made_belongs_to_the_version(
    site: Site, employ: Employ, world: FakeWorld
) -> None:
    def script(job: FakeJob) -> int:
        (job.outputs / "transformer.zip").write_bytes(b"statistics")
        return plays.step(job)

    world.script = script
    await employ()
    await site.succeeded(await site.train())
    kinds = await site.rows("SELECT kind FROM kwdbml.artefact WHERE model_version_id IS NOT NULL ORDER BY 1")
    assert kinds == [("model",), ("transformer",)]


async def test_an_evaluation_replaces_the_last_metrics(site: Site, employ: Employ) -> None:
    await employ()
    await site.model()
    job = await site.submit("SELECT kwdbml.evaluate_model('', 'm', NULL, 'trips', 'f1,auc')")
    assert await site.succeeded(job) == metrics()
    assert await site.value("SELECT last_metrics FROM kwdbml.model_version") == metrics()
    assert await site.value("SELECT model_version FROM kwdbml.jobs") == 1


async def test_a_prediction_writes_all_rows_and_says_how_many(site: Site, employ: Employ) -> None:
    await employ()
    await site.model(target=[{"name": "y", "type": "FLOAT"}], problem_type="r")
    assert await site.succeeded(await site.predict()) == {"rows": 50, "table": "public.answers"}
    assert await site.row("SELECT count(*), min(y), max(y) FROM answers") == (50, 0.5, 49.5)
    assert await site.value("SELECT rows_written FROM kwdbml.jobs") == 50
    assert await site.rows("SELECT a.id FROM answers a JOIN trips t USING (id, x, late) WHERE a.y <> t.id - 0.5") == []


async def test_the_result_table_is_the_callers_and_the_worker_has_no_right_on_it(site: Site, employ: Employ) -> None:
    worker = await employ()
    await site.model()
    await site.succeeded(await site.predict())
    name = worker.settings.dsn.get_secret_value().split("//")[1].split(":")[0]
    owner = await site.value("SELECT relowner::regrole::text FROM pg_class WHERE oid = 'answers'::regclass")
    assert owner == site.ann.name
    assert not await site.value("SELECT has_table_privilege(%s, 'answers', 'SELECT, INSERT, UPDATE, DELETE')", name)


async def test_lineage_is_recorded(site: Site, employ: Employ, world: FakeWorld) -> None:
    seen = []

    def script(job: FakeJob) -> int:
        seen.append(hashlib.sha256((job.inputs / "data.arrow").read_bytes()).hexdigest())
        return plays.step(job)

    world.script = script
    await employ()
    await site.succeeded(await site.train("SELECT * FROM trips WHERE id > 10"))
    found = await site.row(
        "SELECT j.data_hash, j.pipeline_hash = p.content_hash, j.data_query, j.libraries, j.rows_read, j.rows_dropped,"
        " j.main_score, j.attempt, j.worker LIKE 'w1:%', j.duration > interval '0'"
        " FROM kwdbml.jobs j, kwdbml.pipeline p"
    )
    assert found == (seen[0], True, "SELECT * FROM trips WHERE id > 10", {"numpy": "2"}, 40, 1, 0.9, 1, True, True)


async def test_a_version_tells_where_it_came_from_to_those_who_may_see_it(
    site: Site, employ: Employ, world: FakeWorld, role: MakeRole
) -> None:
    """show_model and kwdbml.jobs agree, and a stranger, or a grantee of PREDICT alone, sees neither."""
    seen = []

    def script(job: FakeJob) -> int:
        seen.append(hashlib.sha256((job.inputs / "data.arrow").read_bytes()).hexdigest())
        return plays.step(job)

    world.script = script
    await employ()
    for data in ("trips", "SELECT * FROM trips WHERE id > 10"):
        await site.succeeded(await site.train(data, new_version=True))
    content = await site.value("SELECT content_hash FROM kwdbml.pipeline")
    jobs = await site.rows("SELECT id FROM kwdbml.jobs ORDER BY created")
    common = {
        "creator": site.ann.name,
        "pipeline_name": "public.p",
        "pipeline_hash": content,
        "libraries": {"numpy": "2"},
        "holdout_hash": None,
        "holdout_metrics": None,
    }
    queries = [("SELECT * FROM public.trips", 50), ("SELECT * FROM trips WHERE id > 10", 40)]
    lineages = [row[0] for row in await site.rows("SELECT lineage FROM kwdbml.show_model('m')")]
    assert all(line.pop("duration_seconds") > 0 for line in lineages)
    assert lineages == [
        {**common, "job_id": job, "train_data": query, "data_hash": data_hash, "rows_read": count}
        for (job,), (query, count), data_hash in zip(jobs, queries, seen, strict=True)
    ]
    agrees = """
        SELECT count(*) FROM kwdbml.show_model('m') m JOIN kwdbml.jobs j ON j.id = m.lineage ->> 'job_id'
        WHERE m.lineage @> jsonb_build_object('creator', j.creator, 'pipeline_name', j.pipeline_name,
            'pipeline_hash', j.pipeline_hash, 'train_data', j.data_query, 'data_hash', j.data_hash,
            'rows_read', j.rows_read, 'libraries', j.libraries)"""
    assert await site.value(agrees) == 2

    bob = role("bob")
    show = "SELECT lineage FROM kwdbml.show_model('m')"
    with bob.connect() as as_bob:
        for privilege in ("", "PREDICT"):
            if privilege:
                await site.as_ann.execute("SELECT kwdbml.grant_privilege_on_model('m', %s, %s)", [bob.name, privilege])
            with pytest.raises(psycopg.errors.UndefinedObject):
                as_bob.execute(show)
            assert as_bob.execute("SELECT count(*) FROM kwdbml.model_version").fetchone() == (0,)
            assert as_bob.execute("SELECT count(*) FROM kwdbml.jobs").fetchone() == (0,)
        await site.as_ann.execute("SELECT kwdbml.grant_privilege_on_model('m', %s, 'SELECT')", [bob.name])
        assert len(as_bob.execute(show).fetchall()) == 2


async def test_nothing_is_left_after_a_success(site: Site, employ: Employ, world: FakeWorld) -> None:
    await employ()
    await site.succeeded(await site.train())
    assert world.jobs == {}
    assert list(world.root.iterdir()) == []
    loose = "SELECT count(*) FROM kwdbml.artefact WHERE num_nonnulls(pipeline_id, model_version_id) = 0"
    assert await site.value(loose) == 0


async def test_the_end_is_notified_with_the_jobs_id(site: Site, employ: Employ) -> None:
    await employ()
    job = await site.train()
    await site.succeeded(job)
    assert ("kwdbml_job_finished", job) in site.heard


async def test_progress_and_log_are_seen_while_it_runs(site: Site, employ: Employ, world: FakeWorld) -> None:
    held = plays.Held()

    async def script(job: FakeJob) -> int:
        job.print("first line\nsecond \u2026 line")
        return await held(job)

    world.script = script
    await employ()
    job = await site.train()
    await site.until("SELECT count(*) = 2 FROM kwdbml.job_logs(%s)", job)
    await site.until("SELECT progress = 0.5 FROM kwdbml.jobs")
    seen = "SELECT status, phase, step, attempt FROM kwdbml.jobs"
    assert await site.row(seen) == ("RUNNING", "running", "train", 1)
    held.go.set()
    await site.succeeded(job)
    assert await site.lines(job) == ["first line", "second \u2026 line"]


async def test_what_was_printed_before_a_failure_is_kept(site: Site, employ: Employ, world: FakeWorld) -> None:
    def script(job: FakeJob) -> int:
        job.print("almost there")
        return plays.fail(job)

    world.script = script
    await employ()
    job = await site.train()
    error = await site.failed(job)
    assert error == {
        "type": "ValueError", "message": "no such luck", "step": "train", "traceback": ["train.py, line 3"],
    }  # fmt: skip
    assert await site.lines(job) == ["almost there"]


async def test_the_positive_label_is_in_the_result(site: Site, employ: Employ, world: FakeWorld) -> None:
    def script(job: FakeJob) -> int:
        plays.step(job)
        (job.outputs / "result.json").write_text(result(positive_label="yes"))
        return 0

    world.script = script
    await employ()
    answer: Any = await site.succeeded(await site.train())
    assert [m["positive_label"] for m in answer] == ["yes", "yes"]


async def test_a_job_that_is_rolled_back_never_was(site: Site, employ: Employ, world: FakeWorld) -> None:
    await employ()
    async with site.as_ann.transaction(force_rollback=True):
        await site.train()
    await site.succeeded(await site.train(model="other"))
    assert len(world.launches) == 1
