"""import_training_pipeline: what is stored, what is refused, and that nothing of a bundle runs."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import zips
from tests.fixtures.bundles import zipped
from tests.sql.support import (
    INPUT,
    OUTPUT,
    PIPELINE_ZIP,
    TRAIN_PY,
    Connection,
    Person,
    bundle,
    import_pipeline,
    one,
    refused,
    rows,
    run,
)

TRANSFORMER = bundle(prediction__data_preparation_prediction_py="def preprocess(inputs, data_path): pass\n")


def test_it_stores_what_was_declared(ann: Person) -> None:
    assert import_pipeline(ann.connection, transformer=TRANSFORMER) == "public.up"
    found = rows(ann.connection, (
        "SELECT schema, name, description, creator, problem_type, features, target, framework, runtime"
        " FROM kwdbml.show_training_pipelines()"
    ))  # fmt: skip
    assert found == [(
        "public", "up", "mine", ann.name, "b",
        [{"name": "amount", "type": "FLOAT"}, {"name": "kind", "type": "STRING"}], [{"name": "late", "type": "INT"}],
        "sklearn_1.3", "python_3.8",
    )]  # fmt: skip


def test_the_bytes_come_back_in_chunks(ann: Person, db: Connection) -> None:
    big = zipped({"pipeline/train.py": TRAIN_PY, "pipeline/big.bin": bytes(9 * 1024 * 1024)})
    import_pipeline(ann.connection, pipeline=big)
    assert one(db, "SELECT max(octet_length(chunk)) FROM kwdbml.artefact_chunk") == 8388608
    assert one(db, "SELECT count(*) FROM kwdbml.artefact_chunk") == 2
    assert one(db, "SELECT string_agg(chunk, '' ORDER BY seq) FROM kwdbml.artefact_chunk") == big
    kept = rows(db, "SELECT kind, bytes, sha256 = encode(sha256(%s), 'hex') FROM kwdbml.artefact", [big])
    assert kept == [("pipeline", len(big), True)]


@pytest.mark.parametrize(
    ("given", "stored"),
    [("R", "r"), ("regression", "r"), ("B", "b"), ("BINARY_Classification", "b"), ("m", "m"),
     ("Multi_Classification", "m"), ("multi_classfication", "m")],
)  # fmt: skip
def test_problem_types(ann: Person, given: str, stored: str) -> None:
    import_pipeline(ann.connection, problem_type=given)
    assert one(ann.connection, "SELECT problem_type FROM kwdbml.show_training_pipelines()") == stored


@pytest.mark.parametrize(
    "framework", ["SKLEARN_1.3", "scikit-learn_1.3", "xgboost_1.6", "lightgbm_3.3", "tensorflow_2.9"]
)
@pytest.mark.parametrize("runtime", ["python_3.8", "Python_3.10"])
def test_frameworks_and_runtimes(ann: Person, framework: str, runtime: str) -> None:
    import_pipeline(ann.connection, framework=framework, runtime=runtime)
    stored = rows(ann.connection, "SELECT framework, runtime FROM kwdbml.show_training_pipelines()")
    assert stored == [(framework.lower().replace("scikit-learn", "sklearn"), runtime.lower())]


def test_an_admin_adds_a_runtime(ann: Person, admin: Person) -> None:
    with refused("22023", "sklearn_9.9"):
        import_pipeline(ann.connection, framework="sklearn_9.9")
    run(
        admin.connection,
        "INSERT INTO kwdbml.runtime (framework, runtime, runs_as) VALUES ('sklearn_9.9', 'python_3.8', 'sklearn')",
    )
    assert import_pipeline(ann.connection, framework="sklearn_9.9") == "public.up"
    with refused("42501", "runtime", hint=False):
        run(ann.connection, "INSERT INTO kwdbml.runtime (framework, runtime, runs_as) VALUES ('a', 'b', 'c')")


def test_a_missing_runtime_is_answered_with_the_list(ann: Person) -> None:
    with pytest.raises(Exception, match="no runtime") as caught:
        import_pipeline(ann.connection, framework="torch_2")
    assert "sklearn_1.3: python_3.10" in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        '{"name": "x", "type": "FLOAT"}',
        '[{"name": "x", "type": "float"}]',
        '[{" name ": " x ", "type": "Float"}]',
        '[{"name": "x", "type": "FLOAT", "more": 1}]',
    ],
)
def test_schemas_of_columns(ann: Person, given: str) -> None:
    import_pipeline(ann.connection, input=given)
    features = one(ann.connection, "SELECT features FROM kwdbml.show_training_pipelines()")
    assert features == [{"name": "x", "type": "FLOAT"}]


@pytest.mark.parametrize("cast", ["jsonb", "text", None])
def test_typed_and_untyped_schemas(ann: Person, cast: str | None) -> None:
    as_type = f"::{cast}" if cast else ""
    name = one(ann.connection, (
        f"SELECT kwdbml.import_training_pipeline('up', NULL, 'B', 'sklearn_1.3', 'python_3.8', '{INPUT}'{as_type},"
        f" '{OUTPUT}'{as_type}, '\\x{PIPELINE_ZIP.hex()}', NULL)"
    ))  # fmt: skip
    assert name == "public.up"
    assert one(ann.connection, "SELECT description FROM kwdbml.show_training_pipelines()") == ""


@pytest.mark.parametrize("cast", ["::jsonb", "::text", ""])
def test_named_notation(ann: Person, cast: str) -> None:
    name = one(ann.connection, (
        "SELECT kwdbml.import_training_pipeline(pipeline_name => 'up', description => 'd', problem_type => 'B',"
        " framework => 'sklearn_1.3', runtime => 'python_3.8', input_schema => %(input)s" + cast +
        ", output_schema => %(output)s" + cast + ", pipeline_entity => %(zip)s, transformer_entity => NULL)"
    ), {"input": INPUT, "output": OUTPUT, "zip": PIPELINE_ZIP})  # fmt: skip
    assert name == "public.up"


def test_hexadecimal_text_is_recognised(ann: Person, db: Connection) -> None:
    """The vendor's JDBC example sends a ZIP's bytes in hexadecimal, without the backslash and x."""
    import_pipeline(ann.connection, pipeline=PIPELINE_ZIP.hex().encode())
    assert one(db, "SELECT string_agg(chunk, '' ORDER BY seq) FROM kwdbml.artefact_chunk") == PIPELINE_ZIP


@pytest.mark.parametrize(
    ("changes", "sqlstate", "word"),
    [
        ({"name": None}, "22004", "name is NULL"),
        ({"problem_type": None}, "22004", "problem_type"),
        ({"problem_type": "cluster"}, "22023", "cluster"),
        ({"framework": None}, "22004", "framework"),
        ({"runtime": None}, "22004", "runtime"),
        ({"runtime": "python_2.7"}, "22023", "python_2.7"),
        ({"input": None}, "22004", "input_schema"),
        ({"output": None}, "22004", "output_schema"),
        ({"input": "[]"}, "22023", "input_schema"),
        ({"input": '[{"name": "x"}]'}, "22023", '"x"'),
        ({"input": '[{"name": "", "type": "INT"}]'}, "22023", "input_schema"),
        ({"output": '[{"name": "y", "type": "DATE"}]'}, "22023", "DATE"),
        ({"input": '[{"name": "late", "type": "INT"}]'}, "22023", "late"),
        ({"input": "not json"}, "22023", "input_schema"),
        ({"output": json.dumps([{"name": "é" * 32, "type": "INT"}])}, "22023", "63 bytes"),
        ({"pipeline": None}, "22004", "pipeline_entity"),
    ],
)
def test_bad_arguments(ann: Person, changes: dict[str, Any], sqlstate: str, word: str) -> None:
    with refused(sqlstate, word):
        import_pipeline(ann.connection, **changes)
    assert rows(ann.connection, "SELECT * FROM kwdbml.show_training_pipelines()") == []


def test_the_hint_fits_the_argument(shop: Connection) -> None:
    for changes in ({"input": "{x}"}, {"output": "{x}"}):
        with refused("22023", "schema is not JSON", hint='[{"name": "x", "type": "FLOAT"}'):
            import_pipeline(shop, **changes)
    with refused("22023", "hyperparameters is not JSON", hint='{"max_depth": 3}'):
        run(shop, "SELECT kwdbml.create_training_pipeline('q', 'xgboost', 'late', 'shop', NULL, NULL, '{x}'::text)")
    import_pipeline(shop, "up")
    with refused("22023", "settings is not JSON", hint='{"queue": "night"}'):
        run(shop, "SELECT kwdbml.train_model('up', 'm', 'shop', true, true, '{x}'::text)")


def linked() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("pipeline/train.py", TRAIN_PY)
        link = zipfile.ZipInfo("pipeline/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return target.getvalue()


def bomb() -> bytes:
    """100 bytes that say that they expand to 3 GB."""
    content = zipped({"pipeline/train.py": TRAIN_PY})
    at = content.index(b"PK\x01\x02") + 24
    return content[:at] + (3_000_000_000).to_bytes(4, "little") + content[at + 4 :]


def encrypted() -> bytes:
    content = bytearray(zipped({"pipeline/train.py": TRAIN_PY}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "sqlstate", "word"),
    [
        (b"", "22023", "not a ZIP"),
        (b"hello", "22023", "not a ZIP"),
        (PIPELINE_ZIP[:-10], "22023", "not a ZIP"),
        (zipped({}), "22023", "lacks pipeline/train.py"),
        (zipped({"train.py": TRAIN_PY}), "22023", "lacks pipeline/train.py"),
        (zipped({"pipeline/train.py": TRAIN_PY, "../evil.py": ""}), "22023", "../evil.py"),
        (zipped({"pipeline/train.py": TRAIN_PY, "a/../../evil.py": ""}), "22023", "evil.py"),
        (zipped({"pipeline/train.py": TRAIN_PY, "/etc/cron.d/x": ""}), "22023", "/etc/cron.d/x"),
        (zipped({"pipeline/train.py": TRAIN_PY, "C:\\evil": ""}), "22023", "evil"),
        (linked(), "22023", "pipeline/link"),
        (bomb(), "54000", "3000000000"),
        (encrypted(), "22023", "encrypted"),
        (zipped({f"f{n}": "" for n in range(10_001)}), "54000", "10001"),
    ],
)
def test_bad_bundles(ann: Person, content: bytes, sqlstate: str, word: str) -> None:
    with refused(sqlstate, "pipeline_entity", word):
        import_pipeline(ann.connection, pipeline=content)


@pytest.mark.parametrize(("make", "sqlstate", "word"), zips.REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_bundles_made_to_harm(ann: Person, make: Callable[[], bytes], sqlstate: str, word: str) -> None:
    with refused(sqlstate, "pipeline_entity", word):
        import_pipeline(ann.connection, pipeline=make())
    with refused(sqlstate, "transformer_entity", word):
        import_pipeline(ann.connection, transformer=make())
    assert rows(ann.connection, "SELECT * FROM kwdbml.show_training_pipelines()") == []
    assert import_pipeline(ann.connection, pipeline=zips.good()) == "public.up"


def test_scripts_in_the_root_get_their_own_hint(ann: Person) -> None:
    with refused("22023", hint="folder pipeline/"):
        import_pipeline(ann.connection, pipeline=zipped({"train.py": TRAIN_PY}))


def test_the_limit_is_a_setting_of_the_admin(ann: Person, admin: Person) -> None:
    run(admin.connection, "INSERT INTO kwdbml.settings VALUES ('bundle_limit', '50')")
    with refused("54000", str(len(PIPELINE_ZIP)), "50"):
        import_pipeline(ann.connection)
    with refused("42501", "settings", hint=False):
        run(ann.connection, "UPDATE kwdbml.settings SET value = '1000000'")
    run(admin.connection, "UPDATE kwdbml.settings SET value = '1000000'")
    assert import_pipeline(ann.connection) == "public.up"


def test_a_transformer_without_scripts_is_refused(ann: Person) -> None:
    with refused("22023", "transformer_entity"):
        import_pipeline(ann.connection, transformer=zipped({"readme.txt": ""}))


def test_a_taken_name(ann: Person, bob: Person) -> None:
    import_pipeline(ann.connection)
    for person in (ann, bob):
        with refused("42710", "public.up"):
            import_pipeline(person.connection)
    assert import_pipeline(ann.connection, "Up") == "public.Up"


def test_bundles_cannot_be_added_later(ann: Person, bob: Person) -> None:
    import_pipeline(ann.connection)
    attach = "SELECT kwdbml._attach_bundle(id, 'transformer', 'x') FROM kwdbml.pipeline"
    for connection in (ann.connection, bob.connection):
        if rows(connection, "SELECT FROM kwdbml.pipeline"):
            with refused("42501", "transaction", hint=False):
                run(connection, attach)


def test_rolled_back_it_never_was(ann: Person, db: Connection) -> None:
    with ann.connection.transaction(force_rollback=True):
        import_pipeline(ann.connection)
    assert one(db, "SELECT count(*) FROM kwdbml.pipeline") == 0
    assert one(db, "SELECT count(*) FROM kwdbml.artefact") == 0


def test_nothing_of_a_bundle_runs_in_the_server(ann: Person, db: Connection) -> None:
    """Neither its scripts nor its pickles, where the server's own user could write the canary."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o777)
        canary = Path(place) / "canary"
        evil = f"open({str(canary)!r}, 'w')\n"
        pickled = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
        scripts: dict[str, str | bytes] = {
            "pipeline/train.py": evil,
            "pipeline/__init__.py": evil,
            "sitecustomize.py": evil,
        }
        extra: dict[str, str | bytes] = {"modules.zip": zipped({"numpy.py": evil}), "requirements.txt": "numpy\n"}
        import_pipeline(ann.connection, pipeline=zipped({**scripts, **extra}))
        model = "SELECT kwdbml.import_model('m', '', 'b', 'sklearn_1.3', 'python_3.8', %s, %s, %s, NULL)"
        bundle = zipped({"model/model.pkl": pickled, **extra})
        assert one(ann.connection, model, [INPUT, OUTPUT, bundle]) == "public.m,1"
        assert list(Path(place).iterdir()) == []
        run(db, f"COPY (SELECT 1) TO '{canary}'")  # the twin: the server can
        assert canary.exists()
        canary.unlink()


def test_schemas_keep_text_of_any_script(ann: Person) -> None:
    name = '温度 "C", it\'s'
    import_pipeline(ann.connection, input=json.dumps([{"name": name, "type": "FLOAT"}]))
    assert one(ann.connection, "SELECT features -> 0 ->> 'name' FROM kwdbml.show_training_pipelines()") == name
