"""Names that go to something else between a check and what follows it; queries that will not stop; claims of trust."""

from __future__ import annotations

import psycopg
import pytest

from tests.worker.conftest import Employ
from tests.worker.site import Gate, Site, zipped

EVIL = """
CREATE TYPE public.t AS ENUM ('a');
CREATE TYPE public.b AS ENUM ('z');
CREATE TABLE public.canary (touched_by text);
GRANT INSERT ON public.canary TO PUBLIC;
CREATE TABLE public.source AS SELECT x, 'a'::public.t AS c FROM public.trips;
CREATE TABLE public.answers (x float8, c public.t, y bigint);
CREATE FUNCTION public.evil(public.t) RETURNS public.b LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.canary VALUES (current_user); RETURN 'z'; END $$;
CREATE CAST (public.t AS public.b) WITH FUNCTION public.evil(public.t) AS ASSIGNMENT
"""


async def test_a_type_that_takes_the_name_of_another(site: Site, employ: Employ) -> None:
    """By name the table would have the right shape, and the INSERT would run the cast as the extension's owner."""
    await site.model(target=[{"name": "y", "type": "INT"}])
    await site.as_ann.execute(EVIL.encode())
    await employ()
    async with await psycopg.AsyncConnection.connect(site.ann.dsn) as swapper:
        await swapper.execute("ALTER TABLE answers ALTER c TYPE public.b USING 'z'::public.b")
        await swapper.execute("ALTER TYPE public.t RENAME TO gone")
        await swapper.execute("ALTER TYPE public.b RENAME TO t")
        job = await site.predict("source", action="append")
        await site.until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'answers'::regclass")
    error = await site.failed(job)
    assert error["type"] == "DatatypeMismatch"
    assert await site.value("SELECT count(*) FROM public.canary") == 0
    assert await site.value("SELECT count(*) FROM answers") == 0
    await site.as_ann.execute("CREATE TABLE public.twin (x float8, c public.gone, y bigint)")
    await site.succeeded(await site.predict("source", table="public.twin", action="append"))


async def test_a_query_that_swallows_its_cancellation(site: Site, employ: Employ, gate: Gate) -> None:
    await site.as_ann.execute(
        b"CREATE FUNCTION public.stubborn() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOOP BEGIN PERFORM pg_sleep(1000);"
        b" EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"
    )
    await employ()
    job = await site.train("SELECT t.*, stubborn() FROM trips t")
    await site.until("SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    await site.as_ann.execute("SELECT kwdbml.cancel_job(%s)", [job])
    await site.succeeded(await site.train(model="other"))
    assert await site.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 0


async def test_uploaded_code_cannot_call_itself_built_in(site: Site) -> None:
    async with site.as_ann.transaction():
        made = await site.as_ann.execute(
            "INSERT INTO kwdbml.pipeline (schema, name, problem_type, framework, runtime, features, target, algorithm,"
            " content_hash) VALUES ('public', 'forged', 'b', 'sklearn', 'builtin', '[]', '[]', 'linear_regression', '')"
            " RETURNING id"
        )
        row = await made.fetchone()
        assert row is not None
        code = zipped({"pipeline/train.py": "print('canary')"})
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with site.as_ann.transaction():
                await site.as_ann.execute("SELECT kwdbml._attach_bundle(%s, 'pipeline', %s)", [row[0], code])
    assert await site.value("SELECT count(*) FROM kwdbml.artefact f JOIN kwdbml.pipeline p ON p.id = f.pipeline_id"
                            " WHERE p.name = 'forged'") == 0  # fmt: skip
