"""pickup: from commit to the first line of the user's ``model_train``, in a warm sandbox. No peer: a limit."""

from __future__ import annotations

import io
import time
import zipfile

from bench.report import Result, Scale, alternate, median, say, spread
from bench.server import Server, Site, WorkerProcess

LIMIT = 0.150  # seconds
_TABLE = """
CREATE TABLE bench.rows AS
SELECT i AS a, sin(i) AS b, 'k' || i % 5 AS k, i % 3 = 0 AS y FROM generate_series(1, 1000) AS i"""
_SCRIPT = """\
import time


def model_train(x_train, y_train, x_test, y_test):
    began = time.time()
    from sklearn.dummy import DummyClassifier
    return DummyClassifier().fit(x_train, y_train), {"began": began}
"""
_IMPORT = """
SELECT kwdbml.import_training_pipeline(
    pipeline_name => 'bench.own', description => '', problem_type => 'Binary_Classification',
    framework => 'sklearn_1.3', runtime => 'python_3.10',
    input_schema => '[{"name": "a", "type": "int"}, {"name": "b", "type": "float"}, {"name": "k", "type": "string"}]',
    output_schema => '[{"name": "y", "type": "int"}]', pipeline_entity => %b, transformer_entity => NULL)"""
_SUBMIT = "SELECT kwdbml.train_model('bench.own', 'bench.own', 'bench.rows', true, true)"
_BEGAN = """
SELECT (m ->> 'score')::float8 FROM kwdbml.show_job(%s), jsonb_array_elements(result) AS m
WHERE m ->> 'objective' = 'began'"""


def bundle() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pipeline/train.py", _SCRIPT)
    return buffer.getvalue()


def once(site: Site, worker: WorkerProcess) -> float:
    worker.warmed()
    with site.listening("kwdbml_job_finished") as listener:
        site.person.execute("BEGIN")
        job = str(site.value(_SUBMIT))
        committed = time.time()
        site.person.execute("COMMIT")
        site.wait(listener, job)
    return float(site.value(_BEGAN, job)) - committed


def run(server: Server, scale: Scale) -> Result:
    with server.database("bench_pickup") as site:
        site.person.execute(_TABLE)
        site.rows(_IMPORT, bundle())
        with site.worker() as worker:
            once(site, worker)
            taken = alternate(scale.rounds * scale.rows(4, 1), ours=lambda: once(site, worker))
    say("  1,000 rows × 3 features, uploaded pipeline, idle worker, warm sandbox; from before COMMIT is sent")
    spread(taken, "ms", 1000)
    mine = median(taken["ours"])
    return Result("pickup", f"{mine * 1000:.0f}ms", "-", f"{mine / LIMIT:.2f}", f"<{LIMIT * 1000:.0f}ms", mine < LIMIT)
