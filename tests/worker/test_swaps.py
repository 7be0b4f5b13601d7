"""Names that go to something else between a check and what follows it; queries that will not stop; claims of trust."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from kwdbml.engines.fake import FakeWorld
from tests.fixtures.bundles import zipped
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import WANTED_LOCKS, Gate, Site

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
        await site.until(f"SELECT count(*) > 0 FROM {WANTED_LOCKS} AND relation = 'answers'::regclass")
    error = await site.failed(job)
    assert error["type"] == "DatatypeMismatch"
    assert await site.value("SELECT count(*) FROM public.canary") == 0
    assert await site.value("SELECT count(*) FROM answers") == 0
    await site.as_ann.execute("CREATE TABLE public.twin (x float8, c public.gone, y bigint)")
    await site.succeeded(await site.predict("source", table="public.twin", action="append"))


TRAPS = """
CREATE SEQUENCE public.touched;
GRANT USAGE ON SEQUENCE public.touched TO PUBLIC;
CREATE TABLE public.canary (touched_by text);
GRANT INSERT ON public.canary TO PUBLIC;
CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM nextval('public.touched'); INSERT INTO public.canary VALUES (current_user); RETURN NEW; END $$;
CREATE FUNCTION public.trap(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    PERFORM nextval('public.touched'); INSERT INTO public.canary VALUES (current_user); RETURN true; END $$;
CREATE TYPE public.t AS ENUM ('a');
CREATE DOMAIN public.d AS public.t CHECK (public.trap(VALUE::text));
CREATE TABLE public.source AS SELECT x, 'a'::public.t AS c FROM public.trips;
"""


async def _untouched(site: Site) -> None:
    """No trap has gone off; the sequence remembers also what was rolled back."""
    assert await site.value("SELECT is_called FROM public.touched") is False
    assert await site.value("SELECT count(*) FROM public.canary") == 0


async def _live(site: Site, insert: LiteralString) -> None:
    """The trap is one: who walks into it touches the canary."""
    await site.as_ann.execute(insert)
    assert await site.value("SELECT is_called FROM public.touched") is True


@pytest.fixture
async def trapped(site: Site) -> Site:
    """With a model, and with traps and two schemas of ann's."""
    await site.model(target=[{"name": "y", "type": "INT"}])
    await site.as_ann.execute(TRAPS.encode())
    await site.run(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
        sql.Identifier(await site.value("SELECT current_database()")), sql.Identifier(site.ann.name)))  # fmt: skip
    for schema in ("good", "evil"):
        await site.as_ann.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        await site.as_ann.execute(sql.SQL("CREATE TABLE {} (x float8, c public.t, y bigint)").format(
            sql.Identifier(schema, "answers")))  # fmt: skip
    await site.as_ann.execute("CREATE TRIGGER trap BEFORE INSERT ON evil.answers FOR EACH ROW EXECUTE FUNCTION trap()")
    return site


async def test_a_schema_that_takes_the_name_of_another(trapped: Site, employ: Employ) -> None:
    """Renamed before the landing looks, committed while it waits."""
    site = trapped
    await employ()
    async with await psycopg.AsyncConnection.connect(site.ann.dsn) as swapper:
        await swapper.execute("ALTER SCHEMA good RENAME TO gone")
        await swapper.execute("ALTER SCHEMA evil RENAME TO good")
        job = await site.predict("source", table="good.answers", action="append")
        await site.until(f"SELECT count(*) > 0 FROM {WANTED_LOCKS} AND locktype = 'transactionid'")
    error = await site.failed(job)
    assert (error["type"], "triggers" in error["message"]) == ("WrongObjectType", True), error
    await _untouched(site)
    assert await site.value("SELECT count(*) FROM gone.answers") == 0
    await site.succeeded(await site.predict("source", table="gone.answers", action="append"))
    await _untouched(site)
    await _live(site, "INSERT INTO good.answers VALUES (1, 'a', 1)")


@pytest.mark.parametrize("action", ["append", "replace"])
async def test_a_schema_is_not_swapped_while_the_landing_goes_on(trapped: Site, employ: Employ, action: str) -> None:
    """The landing has checked and waits for the table: now nobody takes the name away."""
    site = trapped
    await employ()
    async with (
        await psycopg.AsyncConnection.connect(site.ann.dsn) as holder,
        await psycopg.AsyncConnection.connect(site.ann.dsn, options="-c lock_timeout=100ms") as swapper,
    ):
        await holder.execute("LOCK TABLE good.answers IN SHARE MODE")
        job = await site.predict("source", table="good.answers", action=action)
        await site.until(f"SELECT count(*) > 0 FROM {WANTED_LOCKS} AND relation = 'good.answers'::regclass")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await swapper.execute("ALTER SCHEMA good RENAME TO gone")
    assert await site.succeeded(job) == {"rows": 50, "table": "good.answers"}
    assert await site.value("SELECT count(*) FROM good.answers") == 50
    await _untouched(site)
    await _live(site, "INSERT INTO evil.answers VALUES (1, 'a', 1)")


async def test_a_new_table_goes_to_the_schema_that_was_meant_or_nowhere(trapped: Site, employ: Employ) -> None:
    site = trapped
    await employ()
    async with await psycopg.AsyncConnection.connect(site.ann.dsn) as swapper:
        await swapper.execute("ALTER SCHEMA good RENAME TO gone")
        await swapper.execute("ALTER SCHEMA evil RENAME TO good")
        job = await site.predict("source", table="good.fresh", action="error")
        await site.until(f"SELECT count(*) > 0 FROM {WANTED_LOCKS} AND locktype = 'transactionid'")
    assert (await site.succeeded(job))["rows"] == 50  # tried again: the name means the other schema now
    assert await site.value("SELECT to_regclass('gone.fresh') IS NULL AND to_regclass('good.fresh') IS NOT NULL")
    await _untouched(site)


async def test_a_domain_that_takes_the_name_of_the_checked_type(
    trapped: Site, employ: Employ, world: FakeWorld
) -> None:
    """Between the call and the landing: the type is meant by its OID, and the table gets it under its new name."""
    site, held = trapped, plays.Held()
    world.script = held
    await employ()
    job = await site.predict("source", table="public.fresh")
    await held.at.wait()
    await site.as_ann.execute("ALTER TYPE public.t RENAME TO gone")
    await site.as_ann.execute("ALTER DOMAIN public.d RENAME TO t")
    held.go.set()
    assert (await site.succeeded(job))["rows"] == 50
    kind = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'fresh'::regclass AND attname = 'c'"
    assert await site.value(kind) == "gone"
    await _untouched(site)
    await _live(site, "SELECT 'a'::public.t")


@pytest.mark.parametrize(("kind", "sound"), [("t", True), ("d", False)])
async def test_a_table_of_ours_that_was_made_of_another_type(trapped: Site, kind: str, sound: bool) -> None:
    """What only a swap within a moment could do: the columns are compared by OID, and the landing is tried again."""
    site = trapped
    await site.run(sql.SQL("CREATE TABLE public.made (c public.{})").format(sql.Identifier(kind)))
    check = (
        "SELECT kwdbml._check_made('made'::regclass, kwdbml._result_columns(jsonb_build_array(jsonb_build_object("
        "'name', 'c', 'type', 'public.t', 'oid', 'public.t'::regtype::oid::bigint, 'typmod', -1)), '[]'))"
    )
    if sound:
        await site.run(check)
    else:
        with pytest.raises(psycopg.errors.LockNotAvailable, match="changed its name"):
            await site.run(check)
    await _untouched(site)


async def test_a_domain_that_comes_into_the_table(trapped: Site, employ: Employ) -> None:
    """While the landing waits for the table, its column becomes a domain over the type, by the type's name."""
    site = trapped
    await employ()
    async with await psycopg.AsyncConnection.connect(site.ann.dsn) as swapper:
        await swapper.execute("ALTER TABLE good.answers ALTER c TYPE public.d")
        await swapper.execute("ALTER TYPE public.t RENAME TO gone")
        await swapper.execute("ALTER DOMAIN public.d RENAME TO t")
        job = await site.predict("source", table="good.answers", action="append")
        await site.until(f"SELECT count(*) > 0 FROM {WANTED_LOCKS} AND relation = 'good.answers'::regclass")
    error = await site.failed(job)
    assert (error["type"], "domain" in error["message"]) == ("WrongObjectType", True), error
    await _untouched(site)
    assert await site.value("SELECT count(*) FROM good.answers") == 0
    await site.as_ann.execute("CREATE TABLE public.twin (x float8, c public.gone, y bigint)")
    await site.succeeded(await site.predict("source", table="public.twin", action="append"))
    await _untouched(site)
    await _live(site, "INSERT INTO good.answers VALUES (1, 'a', 1)")


async def test_a_domain_with_the_name_of_a_base_type(trapped: Site, employ: Employ) -> None:
    site = trapped
    for name in ("float8", "int8", "bigint", "double precision", "int4", "integer"):
        await site.as_ann.execute(
            sql.SQL("CREATE DOMAIN public.{} AS pg_catalog.{} CHECK (public.trap(VALUE::text))").format(
                sql.Identifier(name), sql.SQL("float8" if name in ("float8", "double precision") else "int8")
            )
        )
    await site.as_ann.execute(
        sql.SQL("ALTER ROLE {} SET search_path = public, pg_catalog").format(sql.Identifier(site.ann.name))
    )
    async with await psycopg.AsyncConnection.connect(site.ann.dsn, autocommit=True) as misled:
        submitted = await misled.execute(
            "SELECT kwdbml.batch_predict('m', NULL::bigint, 'trips', 'public.fresh', 'error')"
        )
        row = await submitted.fetchone()
    assert row is not None
    # at the call, in a session of hers that looks into public first, she is who walks into it: nobody else was there
    assert await site.value("SELECT count(*) FROM public.canary WHERE touched_by <> %s", site.ann.name) == 0
    await site.run("DELETE FROM public.canary; SELECT setval('public.touched', 1, false)")
    await employ()
    await site.succeeded(row[0])
    await _untouched(site)
    kinds = (
        "SELECT count(*) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE attrelid = 'fresh'::regclass"
    )
    assert await site.value(kinds + " AND attnum > 0 AND t.typnamespace <> 'pg_catalog'::regnamespace") == 0
    await _live(site, "SELECT 1::public.float8")


async def test_a_query_that_swallows_its_cancellation(site: Site, employ: Employ, gate: Gate) -> None:
    await site.as_ann.execute(
        b"CREATE FUNCTION public.stubborn() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOOP BEGIN PERFORM pg_sleep(1000);"
        b" EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"
    )
    await employ()
    job = await site.train("SELECT t.*, stubborn() FROM trips t")
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    await site.until(f"SELECT ({sleeping}) > 0")
    await site.as_ann.execute("SELECT kwdbml.cancel_job(%s)", [job])
    await site.succeeded(await site.train(model="other"))
    assert await site.value(sleeping) == 0


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
