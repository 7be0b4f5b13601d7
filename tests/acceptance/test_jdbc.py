"""The real JDBC driver: what a Java program or a BI tool sends, and what it gets.

The driver gives every string the type varchar and every list a type, where psycopg sends untyped literals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.fixtures.database import MakeRole
from tests.sql.support import PIPELINE_ZIP, Connection, Worker, one, run

JAR = Path("/usr/share/java/postgresql.jar")
INSTALL = "apt-get install libpostgresql-jdbc-java default-jre-headless (scripts/test does it)"
SHOP = (
    "CREATE TABLE shop (amount double precision, kind text, late integer)",
    "INSERT INTO shop SELECT n, 'a', n % 2 FROM generate_series(1, 30) AS n",
    "SELECT kwdbml.create_training_pipeline('p', 'logistic_regression', 'late', 'shop')",
)


@pytest.fixture(scope="session")
def driver() -> Any:
    """The driver's class, in a JVM that lives as long as the process."""
    import jpype

    assert JAR.exists(), f"{JAR} is missing: {INSTALL}"
    if not jpype.isJVMStarted():
        try:
            # -Xrs: signals stay Python's
            jpype.startJVM("-Xrs", "-Xmx128m", classpath=[str(JAR)], convertStrings=True)
        except jpype.JVMNotFoundException as error:
            raise AssertionError(f"no Java: {INSTALL}") from error
    return jpype.JClass("org.postgresql.Driver")()


class Java:
    """A java.sql.Connection and the few calls that the tests make of it."""

    def __init__(self, driver: Any, dsn: str) -> None:
        import jpype

        where = conninfo_to_dict(dsn)
        properties = jpype.JClass("java.util.Properties")()
        for name in ("user", "password"):
            properties.setProperty(name, where[name])
        self.connection = driver.connect(f"jdbc:postgresql://127.0.0.1:{where['port']}/{where['dbname']}", properties)
        self._types = jpype.JClass("java.sql.Types")
        self._string = jpype.JClass("java.lang.String")
        self._bytes = jpype.JArray(jpype.JByte)

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        """Rows as {label: text}, the parameters set by what Java programs call for their types."""
        prepared = self.connection.prepareStatement(statement)
        for n, value in enumerate(parameters, 1):
            self._set(prepared, n, value)
        return read(prepared.executeQuery())

    def value(self, statement: str, *parameters: Any) -> Any:
        return next(iter(self.rows(statement, *parameters)[0].values()))

    def _set(self, prepared: Any, n: int, value: Any) -> None:
        if isinstance(value, tuple):  # (how, value)
            how, what = value
            if how == "null":
                prepared.setNull(n, getattr(self._types, what))
            elif how == "object":
                prepared.setObject(n, what)
            else:
                prepared.setObject(n, what, getattr(self._types, how))
        elif isinstance(value, bool):
            prepared.setBoolean(n, value)
        elif isinstance(value, int):
            prepared.setLong(n, value)
        elif isinstance(value, bytes):
            prepared.setBytes(n, self._bytes(value))
        elif isinstance(value, list):
            prepared.setArray(n, self.connection.createArrayOf("text", [self._string(v) for v in value]))
        else:
            prepared.setString(n, value)


def read(result: Any) -> list[dict[str, Any]]:
    meta = result.getMetaData()
    labels = [str(meta.getColumnLabel(n)) for n in range(1, meta.getColumnCount() + 1)]
    found = []
    while result.next():
        found.append({label: result.getString(label) for label in labels})
    return found


def types(result: Any) -> dict[str, str]:
    meta = result.getMetaData()
    return {str(meta.getColumnLabel(n)): str(meta.getColumnTypeName(n)) for n in range(1, meta.getColumnCount() + 1)}


@pytest.fixture
def java(driver: Any, role: MakeRole) -> Iterator[Java]:
    """Ann, through Java, with a table shop and a pipeline p."""
    ann = role("ann", create_on=["public"])
    run(ann.connect(), *SHOP)
    connected = Java(driver, ann.dsn)
    yield connected
    connected.connection.close()


@pytest.fixture
def model(java: Java, worker_dsn: str, db: Connection) -> str:
    """Public.m, version 1."""
    job = java.value("SELECT kwdbml.train_model('p', 'm', 'shop', true, true)")
    with psycopg.connect(worker_dsn, autocommit=True) as connection:
        Worker(worker_dsn, connection).finish_training(job)
    return "public.m"


IMPORT = "SELECT kwdbml.import_training_pipeline(?, ?, ?, ?, ?, ?, ?, ?, ?)"
NAMED_IMPORT = (
    "SELECT kwdbml.import_training_pipeline(pipeline_name => ?, description => ?, problem_type => ?, framework => ?,"
    " runtime => ?, input_schema => ?, output_schema => ?, pipeline_entity => ?, transformer_entity => ?)"
)
INPUT, OUTPUT = '[{"name": "x", "type": "FLOAT"}]', '{"name": "y", "type": "INT"}'


@pytest.mark.parametrize("call", [IMPORT, NAMED_IMPORT])
@pytest.mark.parametrize("entity", [PIPELINE_ZIP, PIPELINE_ZIP.hex().encode()])
@pytest.mark.parametrize("nothing", [("null", "BINARY"), ("null", "NULL"), ("null", "VARBINARY")])
def test_import_training_pipeline(
    java: Java, db: Connection, call: str, entity: bytes, nothing: tuple[str, str]
) -> None:
    assert java.value(call, "up", "d", "B", "sklearn_1.3", "python_3.8", INPUT, OUTPUT, entity, nothing) == "public.up"
    assert one(db, "SELECT string_agg(chunk, '') FROM kwdbml.artefact_chunk") == PIPELINE_ZIP


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("?, ?, ?, ?", ["q", "random_forest", "late", "shop"]),
        ("?, ?, ?, ?, ?, ?, ?, ?", ["q", "random_forest", "late", "shop", "B", ["amount"], "{}", "d"]),
        ("?, ?, ?, ?, ?, ?, ?", ["q", "random_forest", "late", "shop", ("null", "VARCHAR"), ("null", "ARRAY"), "{}"]),
        ("?, ?, ?, ?, features => ?", ["q", "random_forest", "late", "SELECT * FROM shop", ["amount", "kind"]]),
    ],
)
def test_create_training_pipeline(java: Java, call: str, arguments: list[Any]) -> None:
    assert java.value(f"SELECT kwdbml.create_training_pipeline({call})", *arguments) == "public.q"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("?, ?, ?, ?, ?", ["p", "m", "shop", True, False]),
        ("?, ?, ?, ?, ?, ?", ["p", "m", "shop", True, False, '{"queue": "night"}']),
        ("?, ?, ?, ?, ?, ?", ["p", "m", "shop", True, False, ("OTHER", '{"queue": "night"}')]),
        ("?, ?, ?, ?, ?, ?", ["p", "m", "shop", True, False, ("null", "VARCHAR")]),
        ("?, ?, ?, ?, ?", [("object", "p"), ("object", "m"), ("object", "shop"), ("object", True), ("object", False)]),
        ("?, ?, ?, ?, ?, settings => ?", ["p", "m", "SELECT * FROM shop WHERE late IS NOT NULL", True, True, "{}"]),
    ],
)
def test_train_model(java: Java, call: str, arguments: list[Any]) -> None:
    job = java.value(f"SELECT kwdbml.train_model({call})", *arguments)
    found = java.rows("SELECT * FROM kwdbml.show_job(?)", job)
    assert [(r["id"], r["type"], r["status"]) for r in found] == [(job, "TRAIN", "RUNNING")]


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("?, ?, ?, ?, ?", ["", "m", 1, "shop", "auc"]),
        ("?, ?, ?, ?, ?", [("null", "VARCHAR"), "m", ("null", "BIGINT"), "shop", "f1,auc"]),
        ("?, ?, ?, ?, ?, ?", ["p", "m", 0, "shop", "auc", "{}"]),
        ("?, ?, ?, ?, ?, ?", ["p", "m", ("INTEGER", 1), "shop", "auc", ("OTHER", "{}")]),
    ],
)
def test_evaluate_model(java: Java, model: str, call: str, arguments: list[Any]) -> None:
    job = java.value(f"SELECT kwdbml.evaluate_model({call})", *arguments)
    assert java.rows("SELECT * FROM kwdbml.show_job(?)", job)[0]["model_version"] == "1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["m", 1, "shop", "r", "replace"],
        ["m", "1", "shop", "r", "replace"],
        ["m", ("null", "BIGINT"), "shop", "r", "replace"],
        ["m", 1, "shop", "r", "replace", "{}"],
        ["m", "1", "shop", "r", "replace", "{}"],
        ["m", 1, "shop", "r", "replace", ("OTHER", "{}")],
        ["", "m", 1, "shop", "r", "replace"],
        ["p", "m", 1, "shop", "r", "replace"],
        ["p", "m", "1", "shop", "r", "replace"],
        [("null", "VARCHAR"), "m", "1", "shop", "r", "replace"],
        ["p", "m", 1, "shop", "r", "replace", "{}"],
        ["p", "m", ("null", "BIGINT"), "shop", "r", "replace", ("OTHER", "{}")],
    ],
)
def test_batch_predict(java: Java, model: str, arguments: list[Any]) -> None:
    job = java.value(f"SELECT kwdbml.batch_predict({', '.join('?' * len(arguments))})", *arguments)
    shown = java.rows("SELECT * FROM kwdbml.show_job(?)", job)[0]
    assert (shown["model_name"], shown["model_version"]) == ("public.m", "1")
    assert json.loads(shown["settings"])["result_table"] == "public.r"


@pytest.mark.parametrize(
    ("call", "arguments", "count"),
    [
        ("", [], 2),
        ("?", ["public.m"], 2),
        ("?", ["{RUNNING}"], 1),
        ("?", [["RUNNING"]], 1),
        ("?", [("null", "VARCHAR")], 2),
        ("?, ?", ["m", 1], 1),
        ("?, ?", ["m", ("INTEGER", 1)], 1),
        ("?, ?", ["m", ("null", "BIGINT")], 2),
        ("?, ?, ?", ["m", ["TRAIN", "EVALUATE"], ["*"]], 2),
        ("?, ?, ?", ["m", "{TRAIN}", ["*"]], 1),
        ("?, ?, ?", ["m", 1, ["EVALUATE"]], 1),
        ("?, ?, ?, ?", ["m", ("null", "BIGINT"), ["TRAIN"], ["SUCCEEDED"]], 1),
        ("?, ?, ?, ?", [("null", "VARCHAR"), ("null", "BIGINT"), ("null", "ARRAY"), ("null", "ARRAY")], 2),
        ("job_status => ?", [["SUCCEEDED"]], 1),
        ("model_name => ?, job_type => ?", ["m", ["TRAIN"]], 1),
    ],
)
def test_show_jobs(java: Java, model: str, call: str, arguments: list[Any], count: int) -> None:
    java.value("SELECT kwdbml.evaluate_model('', 'm', 1, 'shop', 'auc')")
    assert len(java.rows(f"SELECT * FROM kwdbml.show_jobs({call})", *arguments)) == count


def test_the_life_of_a_job(java: Java) -> None:
    import jpype

    job = java.value("SELECT kwdbml.train_model(?, ?, ?, ?, ?)", "p", "m", "shop", True, True)
    uuid = jpype.JClass("java.util.UUID").fromString(job)
    for parameter in (job, ("object", uuid)):
        assert java.rows("SELECT * FROM kwdbml.show_job(?)", parameter)[0]["status"] == "RUNNING"
        assert java.rows("SELECT * FROM kwdbml.job_logs(?)", parameter) == []
        assert java.value("SELECT kwdbml.wait_job(?, interval '0')", parameter) == "RUNNING"
    assert java.rows("SELECT kwdbml.cancel_job(?)", job) == [{"cancel_job": job}]
    call = java.connection.prepareCall("CALL kwdbml.wait_for_job(?, NULL, ?)")
    call.setString(1, job)
    call.registerOutParameter(2, jpype.JClass("java.sql.Types").VARCHAR)
    call.execute()
    assert call.getString(2) == "CANCELED"


def test_errors_carry_their_sqlstate_and_hint(java: Java) -> None:
    import jpype

    with pytest.raises(jpype.JClass("java.sql.SQLException")) as caught:
        java.rows("SELECT * FROM kwdbml.show_job(?)", "00000000-0000-0000-0000-000000000000")
    assert caught.value.getSQLState() == "42704"
    assert "Hint: SELECT * FROM kwdbml.show_jobs()" in str(caught.value.getMessage())


def test_models_and_pipelines(java: Java, model: str) -> None:
    assert java.rows("SELECT * FROM kwdbml.show_models()")[0]["name"] == "m"
    for call, arguments in (("?", ["m"]), ("?, ?", ["m", 1])):
        for function in ("show_model", "show_models"):
            assert java.rows(f"SELECT * FROM kwdbml.{function}({call})", *arguments)[0]["version"] == "1"
    assert java.rows("SELECT * FROM kwdbml.show_training_pipeline(?)", "p")[0]["framework"] == "sklearn"
    assert len(java.rows("SELECT * FROM kwdbml.algorithms()")) == 6
    assert java.value("SELECT kwdbml.remove_training_pipeline(?)", "p") == "public.p"


def test_result_set_types(java: Java) -> None:
    statement = java.connection.createStatement()
    flat = types(statement.executeQuery("SELECT * FROM kwdbml.jobs"))
    listed = types(statement.executeQuery("SELECT * FROM kwdbml.show_jobs()"))
    for name, expected in (("id", "text"), ("status", "text"), ("created", "timestamptz"), ("model_version", "int4")):
        assert flat[name] == listed[name] == expected
    assert list(flat)[:12] == list(listed)
    assert {flat[n] for n in ("progress", "main_score")} == {"float8"}
    assert "uuid" not in {*flat.values(), *listed.values()}


FUNCTIONS = {
    "import_training_pipeline", "create_training_pipeline", "algorithms", "show_training_pipelines",
    "show_training_pipeline", "remove_training_pipeline", "train_model", "evaluate_model", "batch_predict", "show_jobs",
    "show_job", "cancel_job", "remove_job", "wait_job", "job_logs", "show_models", "show_model",
}  # fmt: skip


def described(result: Any) -> list[dict[str, str]]:
    """Rows of metadata; the driver writes some labels in capitals and some not."""
    return [{label.lower(): str(value or "") for label, value in row.items()} for row in read(result)]


def test_metadata_of_functions(java: Java) -> None:
    meta = java.connection.getMetaData()
    found = described(meta.getFunctions(None, "kwdbml", "%"))
    assert {r["function_name"] for r in found} >= FUNCTIONS
    assert all(r["remarks"] for r in found), [r["function_name"] for r in found if not r["remarks"]]
    columns = described(meta.getFunctionColumns(None, "kwdbml", "train\\_model", "%"))
    assert {r["column_name"] for r in columns} >= {"pipeline_name", "model_name", "train_data", "settings"}
    procedures = described(meta.getProcedures(None, "kwdbml", "wait\\_for\\_job"))
    assert {r["procedure_name"] for r in procedures} == {"wait_for_job"}


def test_metadata_of_tables(java: Java) -> None:
    meta = java.connection.getMetaData()
    tables = {r["table_name"]: r for r in described(meta.getTables(None, "kwdbml", "%", None))}
    assert tables["jobs"]["table_type"] == "VIEW"
    assert tables["jobs"]["remarks"]
    columns = {r["column_name"]: r["type_name"] for r in described(meta.getColumns(None, "kwdbml", "jobs", "%"))}
    assert columns["id"] == "text"
    assert columns["duration"] == "interval"
    assert len(columns) > 25
