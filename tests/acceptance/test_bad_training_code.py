"""A train.py that does not do what it should, in the real sandbox: the error says what, and the worker lives."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest

from tests.acceptance.conftest import Serve
from tests.fixtures.bundles import zipped
from tests.fixtures.database import MakeRole

#: What such a job may use; the time is for the one that loops, which still has to start on a busy machine.
LIMITS = '{"flavour": {"mem": "512Mi"}}'
SHORT = '{"ttl": 8}'
FUNCTION = "def model_train(x_train, y_train, x_test, y_test):\n"

#: code → (the error's type, what its message or traceback names)
BAD = {
    "a syntax error": ("def model_train(x) return 1\n", "SyntaxError", "train.py"),
    "no function": ("x = 1\n", "BadBundle", "model_train"),
    "raises": (FUNCTION + "    raise ValueError('no luck')\n", "ValueError", "no luck"),
    "returns the wrong thing": (FUNCTION + "    return 1, 2, 3\n", "BadReturn", "tuple of 3"),
    "sys.exit": ("import sys\n" + FUNCTION + "    sys.exit(3)\n", "CalledExit", "sys.exit(3)"),
    "os._exit": ("import os\n" + FUNCTION + "    os._exit(0)\n", "Error", ""),
    "allocates all memory": (FUNCTION + "    x = [bytearray(1 << 26) for _ in range(1 << 20)]\n", "", "memory"),
    "loops for ever": (FUNCTION + "    while True: pass\n", "DeadlineExceeded", "ttl"),
    "writes outside": (FUNCTION + "    open('/usr/lib/canary', 'w')\n", "OSError", "Read-only"),
    "opens a socket": (
        "import socket\n" + FUNCTION + "    socket.create_connection(('127.0.0.1', 5432), 2)\n",
        "ConnectionRefusedError",
        "",
    ),
    "leaves children": (
        "import os, time\n" + FUNCTION + "    if os.fork() == 0:\n        os.setsid()\n        time.sleep(3600)\n"
        "    raise RuntimeError('parent')\n",
        "RuntimeError",
        "parent",
    ),
}
FLOOD = FUNCTION + "    for n in range(1_000_000): print('x' * 100)\n    raise ValueError('dry')\n"


@pytest.fixture
def ann(serve: Serve, role: MakeRole) -> psycopg.Connection[Any]:
    serve()
    connection = role("ann", create_on=["public"]).connect()
    connection.execute("CREATE TABLE t AS SELECT n AS a, n % 2 AS y FROM generate_series(1, 200) AS n")
    return connection


def train(ann: psycopg.Connection[Any], code: str, settings: str = LIMITS) -> tuple[str, str, dict[str, Any] | None]:
    """(job, status, error) of a training with this train.py."""
    ann.execute(
        "SELECT kwdbml.import_training_pipeline('p', '', 'b', 'sklearn_1.3', 'python_3.10',"
        ' \'{"name": "a", "type": "INT"}\', \'{"name": "y", "type": "INT"}\', %s, NULL)',
        [zipped({"pipeline/train.py": code})],
    )
    row = ann.execute("SELECT kwdbml.train_model('p', 'm', 't', true, true, %s)", [settings]).fetchone()
    assert row is not None
    ann.execute("SELECT kwdbml.wait_job(%s, '240 s')", [row[0]])
    ended = ann.execute("SELECT id, status, error FROM kwdbml.show_job(%s)", [row[0]]).fetchone()
    ann.execute("SELECT kwdbml.remove_training_pipeline('p')")
    assert ended is not None
    return cast("tuple[str, str, dict[str, Any] | None]", ended)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_is_the_jobs_error_and_the_worker_goes_on(ann: psycopg.Connection[Any]) -> None:
    for what, (code, kind, named) in BAD.items():
        _, status, error = train(ann, code, SHORT if kind == "DeadlineExceeded" else LIMITS)
        assert status == "FAILED", what
        assert error is not None
        assert kind in ("", error["type"]), (what, error)
        assert named.lower() in (error["message"] + str(error["traceback"])).lower(), (what, error)
        assert not any("kwdbml/" in line for line in error["traceback"]), "the user's frames alone"
    good = (
        FUNCTION
        + "    from sklearn.tree import DecisionTreeClassifier as Tree\n    return Tree().fit(x_train, y_train)\n"
    )
    assert train(ann, good, "{}")[1] == "SUCCEEDED", "the harmless twin"


def test_a_flood_of_output_is_cut_in_the_middle(ann: psycopg.Connection[Any]) -> None:
    job, _, error = train(ann, FLOOD, '{"ttl": 240}')
    assert error is not None
    assert error["message"] == "dry"
    kept = ann.execute("SELECT sum(octet_length(line)), count(*) FROM kwdbml.job_logs(%s)", [job]).fetchone()
    assert kept is not None
    assert 1 << 20 < kept[0] < 11 << 20
    cut = ann.execute("SELECT count(*) FROM kwdbml.job_logs(%s) WHERE line LIKE '%% lines cut: %%'", [job]).fetchone()
    assert cut == (1,)
