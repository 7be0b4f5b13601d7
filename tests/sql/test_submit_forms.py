"""train_model, evaluate_model, batch_predict: every form of the call makes the same row."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.sql.support import Connection, one, refused, rows, run

TRAIN = "SELECT kwdbml.train_model({})"
EVALUATE = "SELECT kwdbml.evaluate_model({})"
PREDICT = "SELECT kwdbml.batch_predict({})"


def show(connection: Connection, job: str) -> dict[str, Any]:
    cursor = connection.execute("SELECT * FROM kwdbml.show_job(%s)", [job])
    names = [c.name for c in cursor.description or ()]
    return dict(zip(names, cursor.fetchall()[0], strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        "'p', 'm', 'shop', true, false",
        "'public.p', 'public.m', 'shop', 'true', 'false'",
        "'p', 'm', 'shop', true, false, '{}'",
        "'p', 'm', 'shop', true, false, '{}'::jsonb",
        "'p', 'm', 'shop', true, false, '{}'::text",
        "'p', 'm', 'shop', true, false, NULL",
        "'p'::text, 'm'::varchar, 'shop'::text, true, false",
        (
            "pipeline_name => 'p', model_name => 'm', train_data => 'shop', new_version_if_exists => true,"
            " immediately_deploy => false"
        ),
        "'p', 'm', immediately_deploy => false, new_version_if_exists => true, train_data => 'shop', settings => '{}'",
    ],
)
def test_train_model(shop: Connection, pipeline: str, arguments: str) -> None:
    found = show(shop, one(shop, TRAIN.format(arguments)))
    assert (found["type"], found["status"], found["model_name"]) == ("TRAIN", "RUNNING", "public.m")
    assert (found["pipeline_name"], found["model_version"]) == ("public.p", None)
    assert found["settings"] == {"train_data": "shop", "new_version_if_exists": True, "immediately_deploy": False}


@pytest.mark.parametrize("settings", ['{"queue": "night"}', Jsonb({"queue": "night"})])
def test_train_model_with_bind_parameters(shop: Connection, pipeline: str, settings: object) -> None:
    arguments = ["p", "m", "shop", True, False, settings]
    for call in ("%s, %s, %s, %s, %s, %s", "%s::text, %s::text, %s::text, %s, %s, settings => %s"):
        found = show(shop, one(shop, TRAIN.format(call), arguments))
        assert found["settings"]["queue"] == "night"


def test_bind_parameters_that_the_server_prepares(shop: Connection, pipeline: str) -> None:
    run(
        shop,
        "PREPARE t (text, text, text, boolean, boolean, text) AS SELECT kwdbml.train_model($1, $2, $3, $4, $5, $6)",
    )
    for _ in range(7):  # past the five custom plans
        job = one(shop, "EXECUTE t ('p', 'm', 'shop', true, false, '{\"priority\": \"high\"}')")
        assert show(shop, job)["settings"]["priority"] == "high"


@pytest.mark.parametrize(
    ("arguments", "pipeline_name", "version"),
    [
        ("'p', 'm', 1, 'shop', 'auc'", "public.p", 1),
        ("'', 'm', 1, 'shop', 'auc'", None, 1),
        ("NULL, 'm', 1, 'shop', 'auc'", None, 1),
        ("NULL, 'm', NULL, 'shop', 'auc'", None, 1),
        ("'', 'public.m', 0, 'shop', 'auc', '{}'", None, 2),
        ("'', 'm', '2', 'shop', 'auc', '{}'::jsonb", None, 2),
        ("'', 'm', 2::smallint, 'shop', 'auc', '{}'::text", None, 2),
        (
            (
                "pipeline_name => NULL, model_name => 'm', model_version => 2, evaluate_data => 'shop',"
                " objectives => 'auc'"
            ),
            None,
            2,
        ),
    ],
)
def test_evaluate_model(
    shop: Connection, two_versions: str, arguments: str, pipeline_name: str | None, version: int
) -> None:
    found = show(shop, one(shop, EVALUATE.format(arguments)))
    assert (found["type"], found["pipeline_name"], found["model_version"]) == ("EVALUATE", pipeline_name, version)
    assert found["settings"] == {"evaluate_data": "shop", "objectives": "auc"}


@pytest.mark.parametrize("version", [1, None])
def test_evaluate_model_with_bind_parameters(shop: Connection, model: str, version: int | None) -> None:
    job = one(shop, EVALUATE.format("%s, %s, %s, %s, %s, %s"), [None, "m", version, "shop", "f1, auc", '{"ttl": 5}'])
    assert show(shop, job)["settings"] == {"evaluate_data": "shop", "objectives": "f1, auc", "ttl": 5}


FORMS = [
    ("'m', 1, 'shop', 'r', 'replace'", None, 1),
    ("'m', '1', 'shop', 'r', 'REPLACE'", None, 1),
    ("'m', NULL, 'shop', 'r', 'replace'", None, 1),
    ("'m', 0, 'shop', 'r', 'replace', '{}'", None, 2),
    ("'m', '0', 'shop', 'r', 'replace', '{}'", None, 2),
    ("'m', NULL, 'shop', 'r', 'replace', '{}'", None, 1),
    ("'m', 2, 'shop', 'r', 'replace', '{}'::jsonb", None, 2),
    ("'m', 2, 'shop', 'r', 'replace', '{}'::text", None, 2),
    ("'m'::text, '2'::text, 'shop'::text, 'r'::text, 'replace'::text", None, 2),
    ("'m'::text, '2'::text, 'shop'::text, 'r'::text, 'replace'::text, '{}'::text", None, 2),
    ("'', 'm', 1, 'shop', 'r', 'replace'", None, 1),
    ("NULL, 'm', 1, 'shop', 'r', 'replace'", None, 1),
    ("'', 'm', '1', 'shop', 'r', 'replace'", None, 1),
    ("'p', 'm', 1, 'shop', 'r', 'replace'", "public.p", 1),
    ("'p', 'm', '1', 'shop', 'r', 'replace'", "public.p", 1),
    ("'p', 'm', NULL, 'shop', 'r', 'replace'", "public.p", 1),
    ("'p', 'm', 2, 'shop', 'r', 'replace', '{}'", "public.p", 2),
    ("'p', 'm', '2', 'shop', 'r', 'replace', '{}'", "public.p", 2),
    ("'p', 'm', NULL, 'shop', 'r', 'replace', '{}'::jsonb", "public.p", 1),
    ("'p', 'm', 2, 'shop', 'r', 'replace', '{}'::text", "public.p", 2),
    (("model_name => 'm', model_version => 2, batch_data => 'shop', result_table => 'r',"
      " action_if_exists => 'replace'"), None, 2),
    (("model_name => 'm', model_version => NULL, batch_data => 'shop', result_table => 'r',"
      " action_if_exists => 'replace',"
      " settings => '{}'"), None, 1),
    (("pipeline_name => 'p', model_name => 'm', model_version => 1, batch_data => 'shop', result_table => 'r',"
     " action_if_exists => 'replace'"), "public.p", 1),
    (("pipeline_name => '', model_name => 'm', model_version => 1, batch_data => 'shop', result_table => 'r',"
     " action_if_exists => 'replace', settings => '{}'"), None, 1),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "pipeline_name", "version"), FORMS)
def test_batch_predict(
    shop: Connection, two_versions: str, arguments: str, pipeline_name: str | None, version: int
) -> None:
    found = show(shop, one(shop, PREDICT.format(arguments)))
    assert (found["type"], found["pipeline_name"], found["model_version"]) == ("BATCH_PREDICT", pipeline_name, version)
    assert found["settings"] == {"batch_data": "shop", "result_table": "public.r", "action_if_exists": "replace"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["m", 1, "shop", "r", "append"],
        ["m", "1", "shop", "r", "append"],
        ["m", None, "shop", "r", "append"],
        ["m", 1, "shop", "r", "append", "{}"],
        ["m", "1", "shop", "r", "append", Jsonb({})],
        ["", "m", 1, "shop", "r", "append"],
        [None, "m", "1", "shop", "r", "append"],
        ["p", "m", 1, "shop", "r", "append", "{}"],
        ["p", "m", None, "shop", "r", "append", Jsonb({})],
    ],
)
def test_batch_predict_with_bind_parameters(shop: Connection, model: str, arguments: list[Any]) -> None:
    found = show(shop, one(shop, PREDICT.format(", ".join(["%s"] * len(arguments))), arguments))
    assert (found["model_name"], found["model_version"]) == ("public.m", 1)
    assert found["settings"]["action_if_exists"] == "append"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("'m', 'one', 'shop', 'r', 'append'", '"one"'),
        ("'m', '99999999999999999999', 'shop', 'r', 'append'", '"99999999999999999999"'),
        ("'m', 'one', 'shop', 'r', 'append', '{}'", '"shop"'),  # six texts without a version: the third should be it
        ("'', 'm', 'one'::text, 'shop', 'r', 'append', '{}'::text", '"one"'),
    ],
)
def test_batch_predict_with_a_version_that_is_none(shop: Connection, model: str, arguments: str, word: str) -> None:
    with refused("22023", "invalid model version", word):
        one(shop, PREDICT.format(arguments))


def test_batch_predict_with_bound_typed_text(shop: Connection, model: str) -> None:
    """As a driver sends it that says of every string that it is one."""
    for count, arguments in (
        (5, ["m", "1", "shop", "r", "append"]),
        (6, ["m", "1", "shop", "r", "append", "{}"]),
        (6, ["", "m", "1", "shop", "r", "append"]),
    ):
        job = one(shop, PREDICT.format(", ".join(["%s::text"] * count)), arguments)
        assert show(shop, job)["model_version"] == 1


EVERYTHING: dict[str, Any] = {
    "engine": "LOCAL", "queue": "night", "priority": "high", "labels": {"team": "数据"}, "annotations": {"why": "test"},
    "flavour": {"name": "customFlavour", "cpu": 1, "mem": "1Gi"}, "env": {"TOKEN": "s3cret"}, "image": "img", "ttl": 60,
    "retries": 3, "hyperparameters": {"C": 2.0},
}  # fmt: skip


def test_settings_land_in_their_columns(shop: Connection, pipeline: str) -> None:
    job = one(shop, TRAIN.format("'p', 'm', 'shop', true, true, %s"), [Jsonb(EVERYTHING)])
    found = rows(shop, "SELECT engine, queue, priority, labels, annotations FROM kwdbml.jobs WHERE id = %s", [job])
    assert found == [("local", "night", "HIGH", {"team": "数据"}, {"why": "test"})]
    shown = show(shop, job)["settings"]
    assert shown["env"] == ["TOKEN"]
    assert {k: shown[k] for k in EVERYTHING if k != "env"} == {k: v for k, v in EVERYTHING.items() if k != "env"}
    assert one(shop, "SELECT env FROM kwdbml.job_env") == {"TOKEN": "s3cret"}


def test_the_id_is_that_of_the_row(shop: Connection, pipeline: str) -> None:
    job = one(shop, TRAIN.format("'p', 'm', 'shop', true, true"))
    assert one(shop, "SELECT id FROM kwdbml.show_job(%s)", [job]) == job
    composed = "SELECT status FROM kwdbml.show_job(kwdbml.train_model('p', 'm', 'shop', true, true))"
    assert one(shop, composed) == "RUNNING"


def test_submitting_wakes_the_workers(shop: Connection, pipeline: str, db: Connection) -> None:
    run(db, "LISTEN kwdbml_wake")
    one(shop, TRAIN.format("'p', 'm', 'shop', true, true"))
    assert next(db.notifies(timeout=10, stop_after=1)).channel == "kwdbml_wake"
