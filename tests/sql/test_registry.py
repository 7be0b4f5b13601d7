"""import_model, set_active_version, remove_model: what they take, what they refuse, and what stays true."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.fixtures.bundles import zipped
from tests.fixtures.database import MakeRole, Role

MODEL = zipped({"model/model.joblib": "not looked at here"})
X = '[{"name": "x", "type": "float"}]'
Y = '[{"name": "y", "type": "int"}]'
IMPORT = "SELECT kwdbml.import_model(%s, 'about', %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s, %s::jsonb)"


@pytest.fixture
def ann(role: MakeRole) -> Role:
    return role("ann", create_on=["public"])


def imported(
    connection: psycopg.Connection[Any], name: str = "public.m", *, problem: str = "b", framework: str = "sklearn_1.3",
    runtime: str = "python_3.8", features: str = X, target: str = Y, model: bytes | None = MODEL,
    transformer: bytes | None = None, metrics: str | None = None,
) -> Any:  # fmt: skip
    row = connection.execute(
        IMPORT, [name, problem, framework, runtime, features, target, model, transformer, metrics]
    ).fetchone()
    assert row is not None
    return row[0]


def versions(connection: psycopg.Connection[Any], name: str = "public.m") -> list[tuple[int, int]]:
    rows = connection.execute("SELECT version, active_version FROM kwdbml.show_model(%s)", [name]).fetchall()
    return [(row[0], row[1]) for row in rows]


def test_versions_count_on_and_the_first_is_active(ann: Role) -> None:
    connection = ann.connect()
    metrics = '[{" objective ": "f1", "score": 1.5}, {"objective": "odd", "score": "NaN"}]'
    assert imported(connection, "M", metrics=metrics) == "public.M,1"
    assert imported(connection, "public.M") == "public.M,2"
    row = connection.execute("SELECT active_version, last_metrics FROM kwdbml.show_models()").fetchone()
    assert row == (1, [{"objective": "f1", "score": 1.5}, {"objective": "odd", "score": None}])
    assert versions(connection, "M") == [(1, 1), (2, 1)]


def test_the_active_version_is_set_also_to_the_newest(ann: Role) -> None:
    connection = ann.connect()
    for _ in range(3):
        imported(connection)
    ask = "SELECT kwdbml.set_active_version(%s, %s::bigint)"
    assert connection.execute(ask, ["m", 2]).fetchone() == (2,)
    assert versions(connection) == [(1, 2), (2, 2), (3, 2)]
    assert connection.execute(ask, ["m", 0]).fetchone() == (3,)
    assert connection.execute(ask, ["m", 3]).fetchone() == (3,)
    assert versions(connection) == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("call", "state"),
    [
        ("kwdbml.set_active_version('m', 9)", "42704"),
        ("kwdbml.set_active_version('m', -1)", "22023"),
        ("kwdbml.set_active_version('m', NULL)", "22004"),
        ("kwdbml.set_active_version('absent', 1)", "42704"),
        ("kwdbml.set_active_version(NULL, 1)", "22004"),
        ("kwdbml.remove_model('m', NULL)", "22004"),
        ("kwdbml.remove_model('m', 9)", "42704"),
        ("kwdbml.remove_model('m', 1)", "55006"),
        ("kwdbml.remove_model('absent')", "42704"),
    ],
)
def test_what_is_refused_changes_nothing(ann: Role, call: str, state: str) -> None:
    connection = ann.connect()
    imported(connection)
    imported(connection)
    with pytest.raises(psycopg.Error) as refused:
        connection.execute(f"SELECT {call}".encode())
    assert refused.value.sqlstate == state
    assert refused.value.diag.message_hint
    assert versions(connection) == [(1, 1), (2, 1)]


def test_versions_and_models_are_removed_and_no_number_comes_again(ann: Role, db: psycopg.Connection[Any]) -> None:
    connection = ann.connect()
    imported(connection)
    imported(connection)
    assert connection.execute("SELECT kwdbml.remove_model('m', 0)").fetchone() == ("public.m",)
    assert imported(connection) == "public.m,3"
    assert connection.execute("SELECT kwdbml.remove_model('m')").fetchone() == ("public.m",)
    assert connection.execute("SELECT * FROM kwdbml.show_models()").fetchall() == []
    assert imported(connection) == "public.m,1"
    left = db.execute("SELECT count(*), (SELECT count(*) FROM kwdbml.request) FROM kwdbml.artefact").fetchone()
    assert left == (1, 0)


@pytest.mark.parametrize(
    ("changed", "state", "says"),
    [
        ({"model": None}, "22004", "model_entity is NULL"),
        ({"model": b"PK"}, "22023", "not a ZIP"),
        ({"model": zipped({"model/other.joblib": ""})}, "22023", "no model"),
        ({"model": zipped({"model/model.joblib": "", "model/model.pkl": ""})}, "22023", "several models"),
        ({"model": zipped({"model/model.txt": ""})}, "22023", "no model"),
        ({"framework": "tensorflow_2.9", "model": zipped({"model/model.h5": ""})}, "22023", "no model"),
        ({"framework": "sklearn_9.9"}, "22023", "sklearn_9.9"),
        ({"transformer": zipped({"other.py": ""})}, "22023", "transformer_entity"),
        ({"metrics": '{"score": 1}'}, "22023", "metrics"),
        ({"metrics": '[{"objective": "f1", "score": "high"}]'}, "22023", "f1"),
        ({"problem": "x"}, "22023", "x"),
        ({"name": "kwdbml.m"}, "42501", "kwdbml"),
    ],
)
def test_a_bad_import_is_refused(ann: Role, changed: dict[str, Any], state: str, says: str) -> None:
    connection = ann.connect()
    with pytest.raises(psycopg.Error) as refused:
        imported(connection, **changed)
    assert refused.value.sqlstate == state
    assert says in str(refused.value)
    assert refused.value.diag.message_hint
    assert connection.execute("SELECT count(*) FROM kwdbml.model").fetchone() == (0,)


@pytest.mark.parametrize(
    ("framework", "file"),
    [
        ("scikit-learn_1.3", "model/model.pkl"), ("SKLEARN_1.3", "model/model.pickle"),
        ("xgboost_1.6", "model/model.json"),
        ("lightgbm_3.3", "model/model.txt"), ("tensorflow_2.9", "model/001/saved_model.pb"),
    ],
)  # fmt: skip
def test_every_file_ending(ann: Role, framework: str, file: str) -> None:
    assert imported(ann.connect(), framework=framework, model=zipped({file: ""})) == "public.m,1"


WIDE = json.dumps([{"name": f"column {n}", "type": "FLOAT"} for n in range(50)])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"problem": "m"}, ["its problem type: m, the model's: b"]),
        ({"features": Y, "target": X}, ["; its target: ", f"its features: {Y}, the model's: {X}"]),
        ({"features": WIDE}, [f"its features: {WIDE[:200]}, the model's: {X}"]),
    ],
)
def test_a_further_version_is_of_the_same_problem(ann: Role, changed: dict[str, Any], says: list[str]) -> None:
    connection = ann.connect()
    imported(connection)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="does not fit") as refused:
        imported(connection, **changed)
    told = str(refused.value.diag.message_primary)
    assert all(words.upper() in told.upper() for words in says), told
    assert len(told) < 600
    assert versions(connection) == [(1, 1)]


def test_of_two_imports_at_once_both_land_and_one_is_active(ann: Role) -> None:
    first, second = ann.connect(autocommit=False), ann.connect()
    assert imported(first) == "public.m,1"
    second.execute("SET lock_timeout = '100ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        imported(second)
    first.commit()
    assert imported(second) == "public.m,2"
    assert versions(second) == [(1, 1), (2, 1)]


def test_an_import_that_rolls_back_takes_no_number(ann: Role) -> None:
    connection = ann.connect(autocommit=False)
    imported(connection)
    connection.rollback()
    assert imported(connection) == "public.m,1"


def test_a_hand_written_request_passes_the_same_checks(ann: Role, role: MakeRole) -> None:
    connection = ann.connect()
    imported(connection)
    model = connection.execute("SELECT id FROM kwdbml.model").fetchone()
    assert model is not None
    eve = role("eve").connect()
    ask = (
        "INSERT INTO kwdbml.request (kind, arguments) VALUES (%s, jsonb_build_object('model', %s::text, 'version', 1))"
    )
    for kind in ("remove_model", "set_active_version"):
        with pytest.raises(psycopg.errors.UndefinedObject):
            eve.execute(ask, [kind, str(model[0])])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        eve.execute("INSERT INTO kwdbml.request (kind, arguments, requester) VALUES ('remove_model', '{}', 'ann')")
    for arguments in ("{}", '{"model": 5}', '{"name": "n", "schema": "public"}'):
        for kind in ("import_model", "set_active_version", "remove_model", "remove_pipeline", "grant", "revoke", "x"):
            with pytest.raises(psycopg.Error):
                eve.execute("INSERT INTO kwdbml.request (kind, arguments) VALUES (%s, %s)", [kind, arguments])
    assert versions(connection) == [(1, 1)]
    connection.execute(ask, ["set_active_version", str(model[0])])


@pytest.mark.parametrize(
    "name", ["bad name", "m;drop", "1m", "_m", "a-b", 'a"b', "a`b", "a{", "", "m" * 64, "a\nb"]
)  # fmt: skip
def test_a_name_that_no_function_could_say_is_not_asked_for_by_hand(ann: Role, name: str) -> None:
    connection = ann.connect()
    ask = (
        "INSERT INTO kwdbml.request (kind, arguments, bundles) VALUES ('import_model', jsonb_build_object('schema',"
        " 'public', 'name', %s::text, 'problem_type', 'b', 'features', %s::jsonb, 'target', %s::jsonb, 'framework',"
        " 'sklearn_1.3', 'runtime', 'python_3.8'), ARRAY[%s::bytea]) RETURNING answer #>> '{}'"
    )
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="invalid model name"):
        connection.execute(ask, [name, X, Y, MODEL])
    assert connection.execute("SELECT FROM kwdbml.model").fetchall() == []
    for good in ("m1_", "\u00fcber"):
        assert connection.execute(ask, [good, X, Y, MODEL]).fetchone() == (f"public.{good},1",)


@pytest.mark.parametrize(
    "arguments",
    [
        "'m', 'd', 'B', 'sklearn_1.3', 'python_3.8', {x}, {y}, {z}, NULL",
        "'m', 'd', 'B', 'sklearn_1.3', 'python_3.8', {x}::jsonb, {y}::jsonb, {z}, NULL",
        "'m', 'd', 'B', 'sklearn_1.3', 'python_3.8', {x}::text, {y}::text, {z}, NULL",
        "'m', NULL, 'Binary_Classification', 'SKLEARN_1.3', 'Python_3.8', {x}::jsonb, {y}::jsonb, {z}, NULL, NULL",
        "'m', 'd', 'b', 'sklearn_1.3', 'python_3.8', {x}::jsonb, {y}::jsonb, {z}, NULL, '[]'::jsonb",
        "'m', 'd', 'b', 'sklearn_1.3', 'python_3.8', {x}::text, {y}::text, {z}, NULL, '[]'::text",
        "'m', 'd', 'b', 'sklearn_1.3', 'python_3.8', {x}, {y}, {z}, NULL, metrics => '[]'",
        ("model_name => 'm', description => 'd', problem_type => 'B', framework => 'sklearn_1.3',"
         " runtime => 'python_3.8', input_schema => {x}, output_schema => {y}, model_entity => {z},"
         " transformer_entity => NULL"),
    ],
)  # fmt: skip
def test_every_form_of_import_model(ann: Role, arguments: str) -> None:
    connection = ann.connect()
    call = arguments.format(x=f"'{X}'", y=f"'{Y}'", z=f"'\\x{MODEL.hex()}'::bytea")
    for version in (1, 2):
        assert connection.execute(f"SELECT kwdbml.import_model({call})".encode()).fetchone() == (f"public.m,{version}",)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("set_active_version('m', '2')", 2), ("set_active_version('PUBLIC.m', 2::smallint)", 2),
        ("set_active_version(model_version => 0, model_name => 'm')", 3), ("remove_model('m', '2')", "public.m"),
        ("remove_model(model_version => 0, model_name => 'm')", "public.m"), ("remove_model(' m ')", "public.m"),
        ("remove_model(model_name => 'public.m')", "public.m"),
    ],
)  # fmt: skip
def test_every_form_of_changing_a_model(ann: Role, call: str, answer: Any) -> None:
    connection = ann.connect()
    for _ in range(3):
        imported(connection)
    assert connection.execute(f"SELECT kwdbml.{call}".encode()).fetchone() == (answer,)
