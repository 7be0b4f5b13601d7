"""An upgrade leads to the same catalogue as a fresh install, and what was released has not changed."""

from __future__ import annotations

import hashlib
from typing import Any

import psycopg
import pytest
from psycopg import sql

from extension import build

#: Everything that belongs to the extension, as text: equal lists mean equal catalogues. Columns by position, because
#: SELECT * and COPY go by it.
CATALOGUE = """
WITH members AS (
    SELECT d.classid, d.objid FROM pg_depend d
    JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
    WHERE e.extname = 'kwdbml' AND d.deptype = 'e'),
tables AS (SELECT c.* FROM pg_class c JOIN members m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid)
SELECT 'object ' || i.type || ' ' || i.identity || ' '
    || coalesce(obj_description(m.objid, m.classid::regclass::name), '')
FROM members m, pg_identify_object(m.classid, m.objid, 0) i
UNION ALL SELECT 'function ' || pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '')
    || pg_get_userbyid(p.proowner)
FROM pg_proc p JOIN members m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
UNION ALL SELECT format('column %s %s %s %s %s %s %s %s %s', t.oid::regclass, a.attnum, a.attname,
    format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage, pg_get_expr(d.adbin, d.adrelid),
    a.attacl, col_description(t.oid, a.attnum))
FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (t.oid, a.attnum)
UNION ALL SELECT format('attribute %s %s %s %s', t.oid::regtype,
    row_number() OVER (PARTITION BY t.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod))
FROM pg_type t JOIN members m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
JOIN pg_attribute a ON a.attrelid = t.typrelid AND NOT a.attisdropped AND a.attnum > 0
UNION ALL SELECT format('label %s %s', e.enumtypid::regtype, e.enumlabel) FROM pg_enum e
UNION ALL SELECT format('constraint %s %s %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
FROM pg_constraint c JOIN tables t ON t.oid = c.conrelid
UNION ALL SELECT 'index ' || pg_get_indexdef(x.indexrelid) FROM pg_index x JOIN tables t ON t.oid = x.indrelid
UNION ALL SELECT format('policy %s %s %s %s %s %s', p.polrelid::regclass, p.polname, p.polcmd, p.polroles::regrole[],
    pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_policy p JOIN tables t ON t.oid = p.polrelid
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(g.oid)
FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid WHERE NOT g.tgisinternal
UNION ALL SELECT format('relation %s %s %s %s %s %s', t.oid::regclass, t.relkind, t.relrowsecurity, t.relacl,
    t.reloptions, CASE t.relkind WHEN 'v' THEN pg_get_viewdef(t.oid) END) FROM tables t
UNION ALL SELECT format('dumped %s %s', c.table_name, c.condition)
FROM pg_extension e, unnest(e.extconfig::regclass[], e.extcondition) AS c(table_name, condition)
WHERE e.extname = 'kwdbml'
ORDER BY 1
"""


#: Every version that was released; PostgreSQL goes step by step from each of them.
EARLIER = sorted(
    version
    for script in build.HERE.glob("kwdbml--*.sql")
    if (version := script.stem.removeprefix("kwdbml--")) != build.version() and "--" not in version
)


def _catalogue(connection: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in connection.execute(CATALOGUE.encode()).fetchall()]


@pytest.mark.parametrize("version", EARLIER)
def test_an_upgrade_leads_to_what_a_fresh_install_makes(db: psycopg.Connection[Any], version: str) -> None:
    fresh = _catalogue(db)
    db.execute("DROP EXTENSION kwdbml")
    db.execute(sql.SQL("CREATE EXTENSION kwdbml VERSION {}").format(sql.Literal(version)))
    assert _catalogue(db) != fresh
    db.execute("ALTER EXTENSION kwdbml UPDATE")
    upgraded = _catalogue(db)
    assert [line for line in upgraded if line not in fresh] == []
    assert [line for line in fresh if line not in upgraded] == []
    assert len(fresh) > 300


def test_what_was_released_has_not_changed() -> None:
    lines = (build.HERE / "RELEASED.sha256").read_text(encoding="ascii").splitlines()
    scripts = {script.name for script in build.HERE.glob("kwdbml--*.sql")}
    assert {line.split()[1] for line in lines} == scripts - build.scripts().keys()
    for line in lines:
        digest, name = line.split()
        found = hashlib.sha256((build.HERE / name).read_bytes()).hexdigest()
        assert found == digest, f"{name} was released: write a step below sql/upgrades/ instead"
