"""What the submission functions refuse at the call, and that nothing is left of a refused call."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.support import (
    Connection,
    Person,
    Worker,
    grant_model,
    grant_pipeline,
    import_pipeline,
    one,
    refused,
    rows,
    run,
)

TRAIN: dict[str, Any] = {"pipeline": "p", "model": "n", "data": "shop", "new": True, "deploy": True, "settings": "{}"}
EVALUATE: dict[str, Any] = {
    "pipeline": "",
    "model": "m",
    "version": 1,
    "data": "shop",
    "objectives": "auc",
    "settings": "{}",
}
PREDICT: dict[str, Any] = {
    "pipeline": "", "model": "m", "version": 1, "data": "shop", "table": "r", "action": "error", "settings": "{}",
}  # fmt: skip


def train(connection: Connection, **changes: Any) -> Any:
    call = "SELECT kwdbml.train_model(%(pipeline)s, %(model)s, %(data)s, %(new)s, %(deploy)s, %(settings)s::text)"
    return one(connection, call, {**TRAIN, **changes})


def evaluate(connection: Connection, **changes: Any) -> Any:
    call = (
        "SELECT kwdbml.evaluate_model(%(pipeline)s, %(model)s, %(version)s::bigint, %(data)s, %(objectives)s,"
        " %(settings)s::text)"
    )
    return one(connection, call, {**EVALUATE, **changes})


def predict(connection: Connection, **changes: Any) -> Any:
    call = (
        "SELECT kwdbml.batch_predict(%(pipeline)s, %(model)s, %(version)s::bigint, %(data)s, %(table)s, %(action)s,"
        " %(settings)s::text)"
    )
    return one(connection, call, {**PREDICT, **changes})


def test_the_twins_work(shop: Connection, model: str) -> None:
    for submit in (train, evaluate, predict):
        assert one(shop, "SELECT status FROM kwdbml.show_job(%s)", [submit(shop)]) == "RUNNING"


@pytest.mark.parametrize(
    ("changes", "sqlstate", "word"),
    [
        ({"pipeline": None}, "22004", "pipeline"),
        ({"pipeline": ""}, "22023", '""'),
        ({"pipeline": "nobody"}, "42704", "public.nobody"),
        ({"model": None}, "22004", "model"),
        ({"model": "a b"}, "22023", "a b"),
        ({"model": "nowhere.n"}, "3F000", "nowhere"),
        ({"data": None}, "22004", "train_data"),
        ({"data": " "}, "22023", "train_data"),
        ({"data": "nothing"}, "42P01", "nothing"),
        ({"new": None}, "22004", "new_version_if_exists"),
        ({"deploy": None}, "22004", "immediately_deploy"),
        ({"model": "m", "new": False}, "42710", "public.m"),
        ({"data": "SELECT amount, kind FROM shop"}, "22023", '"late"'),
        ({"data": "SELECT late FROM shop"}, "22023", '"amount", "kind"'),
        ({"data": 'SELECT amount AS "Amount", kind, late FROM shop'}, "22023", '"amount"'),
        ({"data": "SELECT '{1}'::int[] AS amount, kind, late FROM shop"}, "22023", '"amount" of type integer[]'),
        ({"data": "SELECT amount, kind, '{}'::json AS late FROM shop"}, "22023", '"late" of type json'),
        ({"data": "SELECT amount, ''::bytea AS kind, late FROM shop"}, "22023", '"kind" of type bytea'),
        ({"settings": '{"hyperparameters": {"nope": 1}}'}, "22023", "nope"),
    ],
)
def test_train_model(shop: Connection, model: str, changes: dict[str, Any], sqlstate: str, word: str) -> None:
    with refused(sqlstate, word):
        train(shop, **changes)
    assert len(rows(shop, "SELECT * FROM kwdbml.show_jobs()")) == 1  # that of the fixture


@pytest.mark.parametrize(
    ("changes", "sqlstate", "word"),
    [
        ({"pipeline": "nobody"}, "42704", "public.nobody"),
        ({"model": None}, "22004", "model"),
        ({"model": "nobody"}, "42704", "public.nobody"),
        ({"version": 7}, "42704", "version 7"),
        ({"version": -1}, "22023", "-1"),
        ({"version": 2**40}, "42704", str(2**40)),
        ({"data": None}, "22004", "evaluate_data"),
        ({"data": "SELECT amount, kind FROM shop"}, "22023", '"late"'),
        ({"objectives": None}, "22004", "objectives"),
        ({"objectives": ""}, "22023", "objectives is empty"),
        ({"objectives": " "}, "22023", "objectives is empty"),
        ({"objectives": "auc,"}, "22023", 'an empty name in objectives "auc,"'),
        ({"objectives": "auc,,"}, "22023", 'an empty name in objectives "auc,,"'),
        ({"objectives": "|"}, "22023", 'an empty name in objectives "|"'),
        ({"objectives": "rmse"}, "22023", "rmse"),
        ({"objectives": "auc|f1"}, "22023", "2 groups"),
        ({"pipeline": "other"}, "22023", "public.other"),
    ],
)
def test_evaluate_model(shop: Connection, model: str, changes: dict[str, Any], sqlstate: str, word: str) -> None:
    import_pipeline(shop, "other", input='{"name": "else", "type": "INT"}')
    with refused(sqlstate, word):
        evaluate(shop, **changes)
    assert len(rows(shop, "SELECT * FROM kwdbml.show_jobs()")) == 1


@pytest.mark.parametrize(
    ("changes", "sqlstate", "word"),
    [
        ({"pipeline": "nobody"}, "42704", "public.nobody"),
        ({"model": None}, "22004", "model"),
        ({"version": 3}, "42704", "version 3"),
        ({"data": None}, "22004", "batch_data"),
        ({"data": "SELECT amount FROM shop"}, "22023", '"kind"'),
        ({"table": None}, "22004", "result_table"),
        ({"table": ""}, "22023", "result table"),
        ({"table": "a.b.c.d"}, "22023", "a.b.c.d"),
        ({"table": "other.public.r"}, "22023", "other.public.r"),
        ({"table": "SELECT 1"}, "22023", "SELECT 1"),
        ({"table": "x" * 64}, "22023", "x" * 64),
        ({"table": "nowhere.r"}, "3F000", "nowhere"),
        ({"table": "pg_temp.r"}, "22023", "pg_temp.r would be a temporary table"),
        ({"table": "pg_temp_3.r"}, "22023", "pg_temp_3.r would be a temporary table"),
        ({"table": "secret.r"}, "42501", "secret"),
        ({"table": "shop"}, "42P07", "shop"),
        ({"action": None}, "22004", "action_if_exists"),
        ({"action": "merge"}, "22023", "merge"),
    ],
)
def test_batch_predict(
    shop: Connection, model: str, db: Connection, changes: dict[str, Any], sqlstate: str, word: str
) -> None:
    run(db, "CREATE SCHEMA secret")
    with refused(sqlstate, word):
        predict(shop, **changes)
    assert len(rows(shop, "SELECT * FROM kwdbml.show_jobs()")) == 1


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ('{"nope": 1}', "nope"),
        ("[]", "settings"),
        ("not json", "settings"),
        ('{"queue": NaN}', "NaN"),
        ('{"queue": "\\ud800"}', "settings"),
        ('{"queue": "a\\u0000b"}', "settings"),
        ("[" * 100_000, "settings"),
        ('{"engine": "spark"}', "spark"),
        ('{"engine": 1}', "1"),
        ('{"queue": ""}', "queue"),
        ('{"priority": "urgent"}', "urgent"),
        ('{"labels": {"a": 1}}', "labels"),
        ('{"annotations": []}', "annotations"),
        ('{"flavour": {"gpu": 1}}', "gpu"),
        ('{"flavour": {"cpu": "many"}}', "many"),
        ('{"flavour": {"mem": "much"}}', "much"),
        ('{"env": {"a=b": "c"}}', "a=b"),
        ('{"env": ["a"]}', "env"),
        ('{"ttl": "1h"}', "1h"),
        ('{"ttl": true}', "true"),
        ('{"ttl": null}', "null"),
        ('{"queue": null}', "null"),
        ('{"priority": null}', "null"),
        ('{"flavour": {"name": 3}}', "flavour.name"),
        ('{"retries": 101}', "101"),
        ('{"retries": -1}', "-1"),
        ('{"retries": 1.5}', "1.5"),
        ('{"hyperparameters": []}', "hyperparameters"),
    ],
)
def test_settings(shop: Connection, model: str, settings: str, word: str) -> None:
    for submit in (train, evaluate, predict):
        with refused("22023", word):
            submit(shop, settings=settings)


def test_each_privilege_of_its_own(shop: Connection, model: str, bob: Person, db: Connection) -> None:
    run(shop, "GRANT SELECT ON shop TO public")
    for submit, word in ((train, "public.p"), (evaluate, "public.m"), (predict, "public.m")):
        with refused("42704", word):
            submit(bob.connection)
    grant_model(db, bob.name, "SELECT")
    grant_pipeline(db, bob.name, "SELECT")
    for submit, word in ((train, "public.p"), (evaluate, "public.m"), (predict, "public.m")):
        with refused("42501", word):
            submit(bob.connection)
    for submit, grant, privilege in (
        (train, grant_pipeline, "TRAIN"), (evaluate, grant_model, "EVALUATE"), (predict, grant_model, "PREDICT"),
    ):  # fmt: skip
        grant(db, bob.name, privilege)
        assert submit(bob.connection)


def test_select_on_the_data_is_needed(shop: Connection, model: str, db: Connection, bob: Person) -> None:
    grant_pipeline(db, "public", "TRAIN")
    for privilege in ("EVALUATE", "PREDICT"):
        grant_model(db, "public", privilege)
    for submit in (train, evaluate, predict):
        for data in ("shop", "SELECT * FROM shop WHERE id > 1", "SELECT s.* FROM shop AS s"):
            with refused("42501", "shop", hint=data == "shop"):
                submit(bob.connection, data=data)


@pytest.mark.parametrize(("privileges", "lacking"), [(["SELECT"], "CREATE"), (["SELECT", "CREATE"], "UPDATE")])
def test_a_further_version_of_anothers_model(
    shop: Connection, model: str, bob: Person, db: Connection, privileges: list[str], lacking: str
) -> None:
    run(shop, "GRANT SELECT ON shop TO public")
    grant_pipeline(db, bob.name, "TRAIN")
    for privilege in privileges:
        grant_model(db, bob.name, privilege)
    with refused("42501", "public.m", hint=f"You need {lacking}"):
        train(bob.connection, model="m")
    grant_model(db, bob.name, lacking)
    assert train(bob.connection, model="m", deploy=lacking == "UPDATE")


def test_another_shape_is_no_further_version(shop: Connection, model: str) -> None:
    import_pipeline(shop, "other", input='[{"name": "kind", "type": "STRING"}]')
    does_not_fit = "training pipeline public.other does not fit model public.m: its features differ"
    with refused("22023", does_not_fit):
        train(shop, pipeline="other", model="m")
    with refused("22023", does_not_fit):
        evaluate(shop, pipeline="other")
    import_pipeline(shop, "third", output='[{"name": "id", "type": "INT"}]')
    with refused("22023", "its target differs"):
        train(shop, pipeline="third", model="m")
    import_pipeline(shop, "fourth", problem_type="M")
    with refused("22023", 'its problem type is "m", not "b"'):
        train(shop, pipeline="fourth", model="m")


def test_the_name_of_a_model_that_one_does_not_see(shop: Connection, model: str, bob: Person, db: Connection) -> None:
    """Taken is taken, for who wants to make something in that schema; asking for it answers nothing."""
    run(shop, "GRANT SELECT ON shop TO public")
    grant_pipeline(db, bob.name, "TRAIN")
    with refused("42710", "model public.m already exists", hint="not yours to extend"):
        train(bob.connection, model="m", new=False)
    with refused("42501", "permission denied for model public.m", hint="You need CREATE"):
        train(bob.connection, model="m")
    for submit in (evaluate, predict):
        with refused("42704", "no such model: public.m"):
            submit(bob.connection)
    assert rows(bob.connection, "SELECT * FROM kwdbml.show_jobs()") == []
    assert train(bob.connection, model="free", new=False)


def test_taken_names_are_told_where_one_may_look(model: str, bob: Person, db: Connection) -> None:
    ask = "SELECT kwdbml._model_taken('lab', 'm'), kwdbml._model_taken('lab', 'n')"
    run(db, "CREATE SCHEMA lab", "UPDATE kwdbml.model SET schema = 'lab'")
    assert rows(bob.connection, ask) == [(False, False)]
    run(db, "SET ROLE kwdbml_worker")  # it is the role that counts, not the superuser who has set it
    assert rows(db, ask) == [(False, False)]
    run(db, "RESET ROLE", f'GRANT USAGE ON SCHEMA lab TO "{bob.name}"')
    assert rows(bob.connection, ask) == [(True, False)]


@pytest.mark.parametrize("problem_type", ["R", "M"])
def test_positive_label_of_no_binary_problem(shop: Connection, worker: Worker, problem_type: str) -> None:
    import_pipeline(shop, "uploaded", problem_type=problem_type, output='[{"name": "id", "type": "INT"}]')
    run(shop, f"SELECT kwdbml.create_training_pipeline('p', 'random_forest', 'id', 'shop', '{problem_type}')")
    worker.finish_training(train(shop, model="m"))
    settings = '{"hyperparameters": {"positive_label": 1}}'
    for submit, changes in (
        (train, {}),
        (train, {"pipeline": "uploaded"}),
        (evaluate, {"objectives": "auc"}),
        (predict, {}),
    ):
        metric = {"objectives": "r2" if problem_type == "R" else "f1"} if submit is evaluate else {}
        with refused("22023", "positive_label is for binary classification"):
            submit(shop, settings=settings, **{**changes, **metric})
    assert len(rows(shop, "SELECT * FROM kwdbml.show_jobs()")) == 1


def test_positive_label_of_a_binary_problem(shop: Connection, model: str) -> None:
    for submit in (train, evaluate, predict):
        assert submit(shop, settings='{"hyperparameters": {"positive_label": 1}}')


@pytest.mark.parametrize(
    ("data", "sqlstate", "word", "hint"),
    [
        ("SELECT $1 FROM shop", "42P02", "$1", "no parameters"),
        ("SELECT 'a'::int AS late FROM shop", "22P02", '"a"', "CASE"),
        ("SELECT nope FROM shop", "42703", "nope", "lower case"),
        ("SELECT * FROM nothing", "42P01", "nothing", "search_path"),
        ("nothing", "42P01", "nothing", "search_path"),
        ("SELECT nope(amount) FROM shop", "42883", "nope(", "cast"),
        ("SELECT amount + kind AS x FROM shop", "42883", "+", "cast"),
        ("SELECT count(*), kind FROM shop", "42803", "kind", "GROUP BY"),
        ("SELECT kind::nope FROM shop", "42704", "nope", "exists"),
        ("SELECT 1 / 0 AS amount", "22012", "division by zero", "nullif"),
    ],
)
def test_what_postgresql_says_of_a_query(
    shop: Connection, model: str, data: str, sqlstate: str, word: str, hint: str
) -> None:
    for submit, argument in ((train, "train_data"), (evaluate, "evaluate_data"), (predict, "batch_data")):
        with refused(sqlstate, f"{argument}: ", word, hint=hint):
            submit(shop, data=data)


def test_a_cancelation_is_no_fault_of_the_query(shop: Connection, pipeline: str) -> None:
    run(shop, "CREATE FUNCTION slow() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(60)'",
        "SET statement_timeout = '300ms'")  # fmt: skip
    with refused("57014", "canceling statement due to statement timeout", hint=False):
        train(shop, data="SELECT slow() AS amount, kind, late FROM shop")


def test_a_transaction_that_may_not_write(shop: Connection, pipeline: str) -> None:
    run(shop, "SET default_transaction_read_only = on")
    with refused("25006", "read-only", hint="BEGIN READ WRITE"):
        train(shop)


def test_an_error_has_one_line_of_context(shop: Connection, model: str) -> None:
    """Psql shows it all: each PL/pgSQL function on the way would be another line."""
    for submit in (train, evaluate, predict):
        with refused("42P01") as error:
            submit(shop, data="nothing")
        assert len((error.value.diag.context or "").splitlines()) == 1


def test_the_pipelines_own_evaluator_takes_any_name(shop: Connection, model: str, db: Connection) -> None:
    run(db, "UPDATE kwdbml.pipeline SET scripts = '{train,evaluate}'")
    job = evaluate(shop, pipeline="p", objectives="My Score, other")
    assert one(shop, "SELECT settings ->> 'objectives' FROM kwdbml.show_job(%s)", [job]) == "My Score, other"
    with refused("22023", "objectives is empty"):
        evaluate(shop, pipeline="p", objectives="")


def test_a_wide_data_set_trains_and_is_refused_as_a_result(shop: Connection, model: str, worker: Worker) -> None:
    wide = "SELECT amount, kind, late, " + ", ".join(f"1 AS c{n}" for n in range(1597)) + " FROM shop"
    assert train(shop, data=wide)
    with refused("54000", "1601", "1600"):
        predict(shop, data=wide)
