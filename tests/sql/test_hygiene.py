"""Rules that every function of the schema keeps, read from the catalogue: one added next year is checked too."""

from __future__ import annotations

from typing import Any

import psycopg

OWN = "FROM pg_proc p WHERE p.pronamespace = 'kwdbml'::regnamespace"
#: What anybody may call although it runs as the owner. Each says in its file why that gives nothing away.
DEFINER_FOR_ALL = {
    "_attach_bundle", "_has_all", "_load", "_model_right", "_model_taken", "_owns_model", "_owns_pipeline",
    "_pipeline_right", "_usable_version", "_version_right",
}  # fmt: skip


def names(db: psycopg.Connection[Any], condition: str) -> set[str]:
    found = db.execute(f"SELECT DISTINCT p.proname {OWN} AND {condition}".encode()).fetchall()
    return {row[0] for row in found}


def test_a_definer_function_pins_its_search_path(db: psycopg.Connection[Any]) -> None:
    pinned = "p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp']"
    assert names(db, f"p.prosecdef AND NOT coalesce({pinned}, false)") == set()
    assert len(names(db, f"p.prosecdef AND {pinned}")) > 20


def test_a_definer_function_belongs_to_who_made_the_extension(db: psycopg.Connection[Any]) -> None:
    owner = "(SELECT e.extowner FROM pg_extension e WHERE e.extname = 'kwdbml')"
    assert names(db, f"p.proowner <> {owner}") == set()


def test_who_may_call_a_definer_function_is_listed(db: psycopg.Connection[Any]) -> None:
    trigger = "p.prorettype = 'trigger'::regtype"
    everybody = "has_function_privilege('public', p.oid, 'EXECUTE')"
    assert names(db, f"p.prosecdef AND {everybody}") == DEFINER_FOR_ALL
    assert names(db, f"{trigger} AND {everybody}") == set()  # one on a table of one's own believes whatever row it gets
    others = names(db, f"p.prosecdef AND NOT {trigger} AND NOT {everybody}")
    assert others == {name for name in others if name.startswith("worker_")}


def test_what_changes_tables_for_others_is_nobodys(db: psycopg.Connection[Any]) -> None:
    assert names(db, "p.proname LIKE '\\_do\\_%' AND has_function_privilege('public', p.oid, 'EXECUTE')") == set()


def test_nothing_is_strict_and_everything_has_a_comment(db: psycopg.Connection[Any]) -> None:
    assert names(db, "p.proisstrict") == set()
    assert names(db, "obj_description(p.oid, 'pg_proc') IS NULL") == set()


def test_every_table_has_row_level_security(db: psycopg.Connection[Any]) -> None:
    tables = db.execute(
        "SELECT relname FROM pg_class"
        " WHERE relnamespace = 'kwdbml'::regnamespace AND relkind = 'r' AND NOT relrowsecurity"
    ).fetchall()
    assert tables == []


def test_views_are_the_callers(db: psycopg.Connection[Any]) -> None:
    views = db.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace AND relkind = 'v'"
        " AND NOT coalesce(reloptions @> ARRAY['security_invoker=true'], false)"
    ).fetchall()
    assert views == []
