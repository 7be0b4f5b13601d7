"""Result tables: which are taken, checked at the call and again at the end, and how the rows land."""

from __future__ import annotations

import pytest

from tests.sql.support import Connection, Held, Person, Worker, one, refused, rows, run

TABLE = "CREATE TABLE r (id bigint, amount double precision, kind text, late integer, prediction bigint)"
COPY = "COPY {}.{} ({}) FROM STDIN"


def predict(connection: Connection, action: str = "replace", table: str = "r", data: str = "shop") -> str:
    return str(one(connection, "SELECT kwdbml.batch_predict('public.m', 1, %s, %s, %s)", [data, table, action]))


def land(worker: Worker, held: Held, lines: list[str]) -> None:
    """The final transaction, as the worker makes it."""
    with worker.connection.transaction():
        write(worker, held, lines)


def write(worker: Worker, held: Held, lines: list[str]) -> None:
    opened = rows(worker.connection, "SELECT * FROM kwdbml.worker_result_open(%s, %s)", held.key)[0]
    names = ", ".join('"' + c["name"].replace('"', '""') + '"' for c in opened[2])
    with worker.connection.cursor().copy(COPY.format(opened[0], opened[1], names).encode()) as copy:
        for line in lines:
            copy.write(line + "\n")
    worker.land(held, rows_written=len(lines), result={"rows": len(lines)})


ROWS = ["1\t1.5\ta\t0\t1", "2\t2.5\t\\N\t1\t0"]
LANDED = [(1, 1.5, "a", 0, 1), (2, 2.5, None, 1, 0)]


@pytest.mark.parametrize(
    ("setup", "action", "before"),
    [
        ([], "error", []), ([], "append", []), ([], "replace", []), ([TABLE], "append", [(9, None, None, None, None)]),
        ([TABLE], "replace", []),
        ([TABLE, "ALTER TABLE r ADD PRIMARY KEY (id)", "CREATE INDEX ON r (amount)"],
         "append", [(9, None, None, None, None)]),
        ([TABLE.replace("id bigint, ", "").replace(")", ", id bigint)")], "replace", []),
    ],
)  # fmt: skip
def test_how_rows_land(
    shop: Connection, model: str, worker: Worker, ann: Person, setup: list[str], action: str, before: list[object]
) -> None:
    run(shop, *setup)
    if setup:
        run(shop, "INSERT INTO r (id) VALUES (9)")
    job = predict(shop, action)
    land(worker, worker.claim(job), ROWS)
    assert rows(shop, "SELECT id, amount, kind, late, prediction FROM r ORDER BY id") == [*LANDED, *before]
    assert one(shop, "SELECT tableowner FROM pg_tables WHERE tablename = 'r'") == ann.name
    assert one(shop, "SELECT status FROM kwdbml.show_job(%s)", [job]) == "SUCCEEDED"
    with refused("42501", hint=False):
        run(worker.connection, "INSERT INTO public.r (id) VALUES (1)")


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        ("SELECT amount, kind FROM shop", ["amount", "kind", "late"]),
        ("SELECT amount, kind, late FROM shop", ["amount", "kind", "late", "prediction"]),
        (
            "SELECT amount, kind, late, 1 AS prediction FROM shop",
            ["amount", "kind", "late", "prediction", "prediction_late"],
        ),
        ('SELECT amount, kind, 1 AS "a ""b" FROM shop', ["amount", "kind", 'a "b', "late"]),
    ],
)
def test_the_name_of_the_prediction(
    shop: Connection, model: str, worker: Worker, data: str, columns: list[str]
) -> None:
    land(worker, worker.claim(predict(shop, data=data)), [])
    found = shop.execute("SELECT * FROM r").description
    assert [c.name for c in found or ()] == columns


#: code of Ann's in every shape that a table can carry; the sequence remembers also what was rolled back
TRAPS = """
CREATE SEQUENCE public.touched;
CREATE FUNCTION public.trap(i bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN PERFORM nextval('public.touched'); RETURN i; END $$;
CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval('public.touched'); RETURN NEW; END $$;
"""
CHECKS = [
    ("CREATE TRIGGER g BEFORE INSERT ON r FOR EACH ROW EXECUTE FUNCTION trap()", "triggers"),
    (("CREATE CONSTRAINT TRIGGER g AFTER INSERT ON r DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
      " EXECUTE FUNCTION trap()"), "triggers"),
    ("CREATE TRIGGER g BEFORE DELETE ON r FOR EACH STATEMENT EXECUTE FUNCTION trap()", "triggers"),
    ("CREATE TRIGGER g AFTER TRUNCATE ON r FOR EACH STATEMENT EXECUTE FUNCTION trap()", "triggers"),
    ("CREATE TRIGGER g AFTER INSERT ON r FOR EACH ROW EXECUTE FUNCTION trap(); ALTER TABLE r DISABLE TRIGGER g",
     "triggers"),
    ("ALTER TABLE r ADD FOREIGN KEY (id) REFERENCES shop (id)", "foreign keys"),
    ("ALTER TABLE r ADD UNIQUE (id); CREATE TABLE f (id bigint REFERENCES r (id))", "foreign keys"),
    ("CREATE RULE u AS ON INSERT TO r DO ALSO SELECT trap(NEW.id)", "rules"),
    ("CREATE RULE u AS ON DELETE TO r DO INSTEAD SELECT trap(OLD.id)", "rules"),
    (("CREATE POLICY p ON r WITH CHECK (trap(id) > 0); ALTER TABLE r ENABLE ROW LEVEL SECURITY,"
      " FORCE ROW LEVEL SECURITY"), "row-level security"),
    ("ALTER TABLE r ADD CHECK (trap(id) > 0)", "CHECK"),
    ("ALTER TABLE r ADD EXCLUDE (id WITH =)", "exclusion"),
    ("CREATE INDEX ON r ((trap(id)))", "expression"),
    ("CREATE INDEX ON r (id) WHERE trap(id) > 0", "partial indexes"),
    ("CREATE STATISTICS s ON trap(id), late FROM r", "statistics"),
    ("CREATE TABLE child () INHERITS (r)", "inheritance"),
    (("DROP TABLE r; CREATE TABLE parent (id bigint); CREATE TABLE r (amount float8, kind text, late"
      " int, prediction bigint)"
      " INHERITS (parent)"), "inheritance"),
    ("ALTER TABLE r DROP prediction; ALTER TABLE r ADD prediction bigint GENERATED ALWAYS AS (trap(id)) STORED",
     "generated"),
    ("ALTER TABLE r DROP prediction; ALTER TABLE r ADD prediction bigint GENERATED ALWAYS AS IDENTITY", "identity"),
    ("CREATE DOMAIN d AS bigint CHECK (trap(VALUE) > 0); ALTER TABLE r ALTER id TYPE d", "domain"),
    ("DROP TABLE r; CREATE VIEW r AS TABLE shop", "not an ordinary table"),
    ("DROP TABLE r; CREATE MATERIALIZED VIEW r AS TABLE shop", "not an ordinary table"),
    ("DROP TABLE r; CREATE TABLE r (id bigint) PARTITION BY LIST (id)", "not an ordinary table"),
]  # fmt: skip
SHAPES = [
    ("ALTER TABLE r DROP prediction", "lacks column prediction"),
    ("ALTER TABLE r ADD more int", "further column more"),
    ("ALTER TABLE r ADD more bigint; ALTER TABLE r ALTER more SET DEFAULT trap(1)", "further column more"),
    ("ALTER TABLE r ALTER late TYPE bigint", "late is bigint, not integer"),
    ("ALTER TABLE r RENAME kind TO \"Kind\"", "Kind"),
]  # fmt: skip


@pytest.mark.parametrize(("sqlstate", "cases"), [("42809", CHECKS), ("42804", SHAPES)], ids=["code", "shape"])
@pytest.mark.parametrize("action", ["append", "replace"])
def test_tables_that_are_not_taken(
    shop: Connection, model: str, worker: Worker, db: Connection, ann: Person, action: str, sqlstate: str,
    cases: list[tuple[str, str]],
) -> None:  # fmt: skip
    """At the call; and where it became so after the call, in the final transaction. Nothing of hers ever runs."""
    run(db, f'GRANT CREATE ON DATABASE {db.info.dbname} TO "{ann.name}"')
    run(shop, TRAPS, "SET search_path = lab, public")
    fresh = ("DROP SCHEMA IF EXISTS lab CASCADE", "CREATE SCHEMA lab", TABLE)
    run(shop, *fresh)
    held = worker.claim(predict(shop, action))
    for statement, word in cases:
        run(shop, *fresh, statement)
        with refused(sqlstate, "r", word, hint="INSERT"):
            predict(shop, action)
        with refused(sqlstate, word):
            land(worker, held, ROWS)
        assert one(shop, "SELECT is_called FROM touched") is False, statement
    assert one(shop, "SELECT status FROM kwdbml.show_job(%s)", [held.job]) == "RUNNING"
    run(shop, *fresh, "ALTER TABLE r ALTER id SET DEFAULT trap(1)")
    land(worker, held, ROWS)  # the twin: the same table without any of it; what is filled needs no default
    assert rows(shop, "SELECT id FROM r ORDER BY id") == [(1,), (2,)]
    assert one(shop, "SELECT is_called FROM touched") is False
    run(shop, CHECKS[0][0], "INSERT INTO r (id) VALUES (3)")  # the trap is one
    assert one(shop, "SELECT is_called FROM touched") is True


@pytest.mark.parametrize(
    ("grant", "action", "sqlstate"),
    [
        ("SELECT", "append", "42501"), ("INSERT", "append", None), ("INSERT", "replace", "42501"),
        ("INSERT, DELETE", "replace", None), ("INSERT, DELETE", "error", "42P07"),
    ],
)  # fmt: skip
def test_rights_on_anothers_table(
    shop: Connection,
    model: str,
    bob: Person,
    worker: Worker,
    grant: str,
    action: str,
    sqlstate: str | None,
    ann: Person,
) -> None:
    run(bob.connection, TABLE, f'GRANT {grant} ON r TO "{ann.name}"')
    if sqlstate:
        with refused(sqlstate, "r"):
            predict(shop, action)
        return
    held = worker.claim(predict(shop, action))
    run(bob.connection, f'REVOKE ALL ON r FROM "{ann.name}"')
    with refused("42501", "r"):
        land(worker, held, ROWS)
    run(bob.connection, f'GRANT {grant} ON r TO "{ann.name}"')
    land(worker, held, ROWS)
    assert one(bob.connection, "SELECT count(*) FROM r") == 2


def test_create_on_the_schema_is_asked_again(
    shop: Connection, model: str, worker: Worker, db: Connection, ann: Person
) -> None:
    held = worker.claim(predict(shop))
    run(db, f'REVOKE CREATE ON SCHEMA public FROM "{ann.name}"')
    with refused("42501", "public"):
        land(worker, held, ROWS)
    run(db, f'GRANT CREATE ON SCHEMA public TO "{ann.name}"')
    land(worker, held, ROWS)


def test_a_table_that_appears_meanwhile(shop: Connection, model: str, worker: Worker) -> None:
    held = worker.claim(predict(shop, "error"))
    run(shop, TABLE)
    with refused("42P07", "r"):
        land(worker, held, ROWS)
    assert one(shop, "SELECT count(*) FROM r") == 0


def test_the_schema_cannot_be_swapped_while_rows_land(
    shop: Connection, model: str, worker: Worker, db: Connection, ann: Person
) -> None:
    """Another schema of the same name could hold a table with a trigger, which would run as the extension's owner."""
    run(
        db,
        f'CREATE SCHEMA lab AUTHORIZATION "{ann.name}"',
        f'GRANT CREATE ON DATABASE {db.info.dbname} TO "{ann.name}"',
    )
    run(shop, TABLE.replace(" r ", " lab.r "), "SET lock_timeout = '200ms'")
    held = worker.claim(predict(shop, table="lab.r"))
    with worker.connection.transaction():
        write(worker, held, ROWS)
        with refused("55P03", hint=False):
            run(shop, "ALTER SCHEMA lab RENAME TO away")
    run(shop, "ALTER SCHEMA lab RENAME TO away")
    assert one(shop, "SELECT count(*) FROM away.r") == 2


def test_nor_while_a_plain_table_is_read(shop: Connection, worker: Worker, db: Connection, ann: Person) -> None:
    run(
        db,
        f'CREATE SCHEMA lab AUTHORIZATION "{ann.name}"',
        f'GRANT CREATE ON DATABASE {db.info.dbname} TO "{ann.name}"',
    )
    run(shop, "CREATE TABLE lab.t AS TABLE shop", "SET lock_timeout = '200ms'",
        "SELECT kwdbml.create_training_pipeline('p', 'random_forest', 'late', 'lab.t')",
        "SELECT kwdbml.train_model('p', 'm', 'lab.t', true, true)")  # fmt: skip
    held = worker.claim()
    with worker.connection.transaction(force_rollback=True):
        statement = one(worker.connection, "SELECT statement FROM kwdbml.worker_stage(%s, %s)", held.key)
        assert statement.startswith("SELECT * FROM kwdbml.")
        with refused("55P03", hint=False):
            run(shop, "ALTER SCHEMA lab RENAME TO away")
    run(shop, "ALTER SCHEMA lab RENAME TO away")


def test_canceled_while_landing(shop: Connection, model: str, worker: Worker) -> None:
    job = predict(shop)
    held = worker.claim(job)
    one(shop, "SELECT kwdbml.cancel_job(%s)", [job])
    with refused("55000", job):
        land(worker, held, ROWS)
    assert one(shop, "SELECT to_regclass('r')") is None
    assert one(shop, "SELECT phase FROM kwdbml.jobs WHERE id = %s", [job]) == "canceling"


@pytest.mark.parametrize(
    ("result_table", "sqlstate"),
    [
        ("null", "22023"), ("5", "22023"), ('""', "22023"), ('"r"', "22023"), ('"db.public.r"', "22023"),
        ('"public..r"', "22023"), ('"public.\\"r"', "22023"), ('"public.r; DROP TABLE shop"', "22023"),
        ('"pg_temp.r"', "22023"), ('"kwdbml.job"', "42501"), ('"kwdbml.new"', "42501"), ('"nowhere.r"', "3F000"),
    ],
)  # fmt: skip
def test_the_worker_believes_no_row(
    shop: Connection, model: str, worker: Worker, db: Connection, result_table: str, sqlstate: str
) -> None:
    """What stands in a hand-written request is read and checked again."""
    job = predict(shop)
    db.execute(
        "UPDATE kwdbml.job SET settings = settings || jsonb_build_object('result_table', %s::jsonb)", [result_table]
    )
    held = worker.claim(job)
    with refused(sqlstate):
        worker.call("worker_result_open", held)
    assert one(shop, "SELECT count(*) FROM shop") == 30
    db.execute("""UPDATE kwdbml.job SET settings = settings || '{"result_table": "public.\\"R r\\""}'""")
    land(worker, held, ROWS)
    assert rows(shop, 'SELECT id FROM "R r" ORDER BY id') == [(1,), (2,)]


def test_settings_show_the_arguments_and_nothing_else(shop: Connection, model: str) -> None:
    one(shop, "SELECT kwdbml.batch_predict('m', 1, 'shop', '\"R r\"', 'REPLACE', '{\"ttl\": 9}')")
    assert one(shop, "SELECT settings FROM kwdbml.show_jobs('m', 1)") == {
        "batch_data": "shop", "result_table": 'public."R r"', "action_if_exists": "replace", "ttl": 9,
    }  # fmt: skip
