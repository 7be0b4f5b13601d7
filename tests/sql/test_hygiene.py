"""Rules that every function of the schema keeps, read from the catalogue: one added next year is checked too.

Each rule is a query for what breaks it; the tests at the end break each rule and see it found.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from tests.sql.support import rows, run

OWN = "FROM pg_proc p WHERE p.pronamespace = 'kwdbml'::regnamespace"
PINNED = "'search_path=pg_catalog, pg_temp' = ANY (coalesce(p.proconfig, '{}'))"
TRIGGER = "p.prorettype = 'trigger'::regtype"
EVERYBODY = "has_function_privilege('public', p.oid, 'EXECUTE')"
OWNER = "(SELECT e.extowner FROM pg_extension e WHERE e.extname = 'kwdbml')"
#: What anybody may call although it runs as the owner. Each says in its file why that gives nothing away.
DEFINER_FOR_ALL = (
    "_attach_bundle(uuid,text,bytea)", "_has_all(text,uuid,name,text[])", "_load()", "_model_right(uuid,text,name)",
    "_model_taken(text,text)", "_owns_model(uuid,name)", "_owns_pipeline(uuid,name)",
    "_pipeline_right(uuid,text,name)", "_version_right(uuid,text,name)",
)  # fmt: skip
#: Views that read with their owner's rights, because they ask who reads them.
OWNERS_VIEWS = ("_usable",)

#: rule → a query for what breaks it
RULES = {
    "a definer function pins its search_path": (
        f"SELECT p.oid::regprocedure::text {OWN} AND p.prosecdef AND NOT {PINNED}"
    ),
    # what is found first in pg_temp is not found where pg_catalog is asked first and pg_temp last
    "a pinned search_path is this one": (
        f"SELECT p.oid::regprocedure::text {OWN} AND NOT {PINNED}"
        " AND EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c LIKE 'search_path=%%')"
    ),
    "functions belong to who made the extension": f"SELECT p.oid::regprocedure::text {OWN} AND p.proowner <> {OWNER}",
    "tables, views and types do too": (
        f"SELECT relname FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace AND relowner <> {OWNER}"
        f" UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'kwdbml'::regnamespace AND typowner <> {OWNER}"
        f" UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'kwdbml' AND nspowner <> {OWNER}"
    ),
    "who may call a definer function is listed": (
        f"SELECT p.oid::regprocedure::text {OWN} AND p.prosecdef AND {EVERYBODY}"
        " AND substr(p.oid::regprocedure::text, 8) <> ALL (%(definer_for_all)s)"
    ),
    "other definer functions are the worker's": (
        f"SELECT p.oid::regprocedure::text {OWN} AND p.prosecdef AND NOT {TRIGGER} AND NOT {EVERYBODY}"
        " AND p.proname NOT LIKE 'worker\\_%%'"
    ),
    "the worker's functions are the worker's alone": (
        f"SELECT p.oid::regprocedure::text {OWN} AND p.proname LIKE 'worker\\_%%' AND (NOT p.prosecdef OR {EVERYBODY}"
        " OR NOT has_function_privilege('kwdbml_worker', p.oid, 'EXECUTE'))"
    ),
    "trigger functions and what changes tables for others are nobody's": (
        f"SELECT p.oid::regprocedure::text {OWN} AND ({TRIGGER} OR p.proname LIKE '\\_do\\_%%') AND {EVERYBODY}"
    ),
    "nobody else was granted a function": (
        "SELECT p.oid::regprocedure::text || ' to ' || a.grantee::regrole FROM pg_proc p, aclexplode(p.proacl) AS a"
        " WHERE p.pronamespace = 'kwdbml'::regnamespace AND a.grantee NOT IN (0, p.proowner)"
        " AND NOT (p.proname LIKE 'worker\\_%%' AND a.grantee = 'kwdbml_worker'::regrole)"
    ),
    "nobody else was granted a table or column": (
        "SELECT c.relname || ' to ' || a.grantee::regrole FROM pg_class c CROSS JOIN LATERAL ("
        " SELECT * FROM aclexplode(c.relacl) UNION ALL SELECT x.* FROM pg_attribute t, aclexplode(t.attacl) AS x"
        " WHERE t.attrelid = c.oid) AS a"
        " WHERE c.relnamespace = 'kwdbml'::regnamespace AND a.grantee NOT IN (0, c.relowner, 'kwdbml_admin'::regrole)"
    ),
    "nobody can pass a right on": (
        "SELECT a.privilege_type || ' to ' || a.grantee::regrole FROM ("
        " SELECT p.proowner AS owner, p.proacl AS acl FROM pg_proc p WHERE p.pronamespace = 'kwdbml'::regnamespace"
        " UNION ALL SELECT relowner, relacl FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace"
        " UNION ALL SELECT c.relowner, t.attacl FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid"
        " WHERE c.relnamespace = 'kwdbml'::regnamespace"
        " UNION ALL SELECT nspowner, nspacl FROM pg_namespace WHERE nspname = 'kwdbml') AS o, aclexplode(o.acl) AS a"
        " WHERE a.is_grantable AND a.grantee <> o.owner"
    ),
    "the schema is to use and not to fill": (
        "SELECT a.privilege_type || ' to ' || a.grantee::regrole FROM pg_namespace n, aclexplode(n.nspacl) AS a"
        " WHERE n.nspname = 'kwdbml' AND a.grantee <> n.nspowner AND (a.grantee, a.privilege_type) <> (0, 'USAGE')"
    ),
    # a body that was read when the function was made knows its tables and functions by OID
    "SQL functions are read when they are made": (
        f"SELECT p.oid::regprocedure::text {OWN} AND p.prosqlbody IS NULL"
        " AND p.prolang = (SELECT l.oid FROM pg_language l WHERE l.lanname = 'sql')"
    ),
    "nothing is strict": f"SELECT p.oid::regprocedure::text {OWN} AND p.proisstrict",
    "functions have a comment": f"SELECT p.oid::regprocedure::text {OWN} AND obj_description(p.oid, 'pg_proc') IS NULL",
    "tables have row-level security": (
        "SELECT relname FROM pg_class"
        " WHERE relnamespace = 'kwdbml'::regnamespace AND relkind IN ('r', 'p') AND NOT relrowsecurity"
    ),
    "views are the caller's": (
        "SELECT relname FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace AND relkind IN ('v', 'm', 'f')"
        " AND NOT coalesce(reloptions @> ARRAY['security_invoker=true'], false) AND relname <> ALL (%(owners_views)s)"
    ),
    "the owner's views are barriers": (
        "SELECT relname FROM pg_class WHERE relnamespace = 'kwdbml'::regnamespace AND relname = ANY (%(owners_views)s)"
        " AND NOT coalesce(reloptions @> ARRAY['security_barrier=true'], false)"
    ),
}  # fmt: skip
LISTS = {"definer_for_all": list(DEFINER_FOR_ALL), "owners_views": list(OWNERS_VIEWS)}


def broken(db: psycopg.Connection[Any], rule: str) -> list[str]:
    return [row[0] for row in rows(db, RULES[rule], LISTS)]


@pytest.mark.parametrize("rule", RULES)
def test_rule(db: psycopg.Connection[Any], rule: str) -> None:
    assert broken(db, rule) == []


def test_there_is_something_to_rule(db: psycopg.Connection[Any]) -> None:
    (found,) = rows(db, (
        f"SELECT count(*) FILTER (WHERE p.prosecdef), count(*) FILTER (WHERE p.prosecdef AND {EVERYBODY}),"
        f" count(*) FILTER (WHERE {TRIGGER}), count(*) {OWN}"
    ))  # fmt: skip
    assert found[0] > 20
    assert found[1] == len(DEFINER_FOR_ALL)
    assert found[2] > 3
    assert found[3] > 100


BAD = "CREATE FUNCTION kwdbml.{}() RETURNS {} LANGUAGE plpgsql {} AS 'BEGIN RETURN NULL; END'"
DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
#: rule → statements that break it
BREAKS = {
    "a definer function pins its search_path": [BAD.format("bad", "text", "SECURITY DEFINER")],
    "a pinned search_path is this one": [BAD.format("bad", "text", "SET search_path = pg_temp, pg_catalog")],
    "functions belong to who made the extension": [
        BAD.format("bad", "text", ""), "ALTER FUNCTION kwdbml.bad() OWNER TO kwdbml_admin"],
    "tables, views and types do too": ["CREATE TABLE kwdbml.bad ()", "ALTER TABLE kwdbml.bad OWNER TO kwdbml_admin"],
    "who may call a definer function is listed": [BAD.format("bad", "text", DEFINER)],
    "other definer functions are the worker's": [
        BAD.format("bad", "text", DEFINER), "REVOKE ALL ON FUNCTION kwdbml.bad FROM PUBLIC"],
    "the worker's functions are the worker's alone": [BAD.format("worker_bad", "text", DEFINER)],
    "trigger functions and what changes tables for others are nobody's": [BAD.format("bad", "trigger", DEFINER)],
    "nobody else was granted a function": [
        BAD.format("bad", "text", ""), "GRANT EXECUTE ON FUNCTION kwdbml.bad TO pg_monitor"],
    "nobody else was granted a table or column": ["GRANT SELECT (token) ON kwdbml.attempt TO kwdbml_worker"],
    "nobody can pass a right on": ["GRANT DELETE ON kwdbml.job TO kwdbml_admin WITH GRANT OPTION"],
    "the schema is to use and not to fill": ["GRANT CREATE ON SCHEMA kwdbml TO kwdbml_admin"],
    "SQL functions are read when they are made": [
        "CREATE FUNCTION kwdbml.bad() RETURNS text LANGUAGE sql AS 'SELECT NULL'"],
    "nothing is strict": [BAD.format("bad", "text", "STRICT")],
    "functions have a comment": [BAD.format("bad", "text", "")],
    "tables have row-level security": ["CREATE TABLE kwdbml.bad ()"],
    "views are the caller's": ["CREATE VIEW kwdbml.bad AS SELECT * FROM kwdbml.job"],
    "the owner's views are barriers": ["ALTER VIEW kwdbml._usable RESET (security_barrier)"],
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_what_breaks_a_rule_is_found(db: psycopg.Connection[Any], rule: str) -> None:
    run(db, *BREAKS[rule])
    found = broken(db, rule)
    assert found
    if "bad" in BREAKS[rule][0]:
        assert all("bad" in name for name in found)


#: What stands before a bracket in PL/pgSQL and is no function.
WORDS = {
    "all", "and", "any", "array", "as", "by", "case", "cast", "coalesce", "conflict", "distinct", "else", "elsif",
    "except", "exists", "extract", "filter", "from", "greatest", "if", "in", "interval", "into", "is", "lateral",
    "least", "not", "nullif", "on", "operator", "or", "over", "overlay", "position", "return", "returning", "row",
    "select", "set", "some", "substring", "table", "then", "trim", "union", "using", "values", "when", "where",
    "while", "with", "within",
}  # fmt: skip


def bodies(db: psycopg.Connection[Any], condition: str) -> dict[str, str]:
    """Signature → PL/pgSQL text without comments and quoted text."""
    found = rows(db, (
        f"SELECT p.oid::regprocedure::text, p.prosrc {OWN} AND p.prosqlbody IS NULL AND {condition}"
        " AND p.prolang = (SELECT l.oid FROM pg_language l WHERE l.lanname = 'plpgsql')"
    ))  # fmt: skip
    return {name: re.sub(r"--[^\n]*|'(?:[^']|'')*'", " ", text) for name, text in found}


def unqualified_calls(text: str) -> set[str]:
    called = re.findall(r"(?<![.\w])([A-Za-z_]\w*)\s*\(", text)
    return {name.lower() for name in called} - WORDS


def unqualified_relations(text: str) -> set[str]:
    """Names after FROM, JOIN, INTO and UPDATE that are neither qualified, nor called, nor made by WITH."""
    text = re.sub(r"\bFOR (?:NO KEY )?UPDATE(?: OF \w+)?|\bsubstring\s*\([^)]*\)", " ", text)
    named = re.findall(
        r"(?<!DISTINCT )\b(?:FROM|JOIN|INSERT INTO|UPDATE|TABLE)\s+(?:ONLY\s+)?([A-Za-z_]\w*)\b(?!\s*[.(\w]*[.(])", text
    )
    own = set(re.findall(r"(?:WITH(?: RECURSIVE)?|,)\s+([a-z_]\w*)(?:\s*\([^)]*\))?\s+AS\s*\(", text))
    return {name for name in named if name.lower() not in WORDS | own and not name.startswith("pg_")}


def test_what_runs_with_the_callers_path_calls_nothing_by_a_bare_name(db: psycopg.Connection[Any]) -> None:
    found = {name: unqualified_calls(text) for name, text in bodies(db, f"NOT {PINNED}").items()}
    assert {name: calls for name, calls in found.items() if calls} == {}
    assert len(found) > 10


def test_no_table_is_found_by_a_bare_name(db: psycopg.Connection[Any]) -> None:
    """Also not with the path pinned: a bare name that is not in pg_catalog is looked for among temporary tables."""
    found = {name: unqualified_relations(text) for name, text in bodies(db, "true").items()}
    assert {name: relations for name, relations in found.items() if relations} == {}
    assert len(found) > 60


def test_bare_names_are_found(db: psycopg.Connection[Any]) -> None:
    run(db, (
        "CREATE FUNCTION kwdbml.bad() RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM count(*) FROM model m JOIN"
        " kwdbml.job j ON true; DELETE FROM settings WHERE name = 'x'; RETURN upper('a'); END$$"
    ))  # fmt: skip
    (text,) = bodies(db, "p.proname = 'bad'").values()
    assert unqualified_calls(text) == {"count", "upper"}
    assert unqualified_relations(text) == {"model", "settings"}
