"""The main job, in SQL, as an ordinary role: is a flight out of New York going to be more than 15 minutes late?

``scripts/demo`` sets up and calls this. Every statement is run and printed by psql; Python only loads the data and
waits. Exits with 1 when a job did not succeed.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from scripts import demo_data
from scripts.demo_session import Demo, heading

ROOT = Path(__file__).resolve().parents[1]

#: What is known before departure. Missing: the weather of some hours, the tail number of some flights, and with it
#: who built the plane.
FEATURES = (
    "month", "day", "hour", "minute", "distance", "temp", "wind_speed", "precip", "visib", "seats",
    "carrier", "origin", "dest", "manufacturer",
)  # fmt: skip

#: What the uploaded bundle uses.
BUNDLE_FEATURES = {
    **dict.fromkeys(("month", "day", "hour", "minute", "distance"), "int"),
    **dict.fromkeys(("temp", "wind_speed", "precip", "visib"), "float"),
    **dict.fromkeys(("carrier", "origin", "dest"), "string"),
}

VIEW = """\
CREATE OR REPLACE VIEW late_flights AS
SELECT f.id, f.month, f.day, f.hour, f.minute, f.distance, f.carrier, f.flight, f.origin, f.dest, f.tailnum,
       p.manufacturer, p.seats, w.temp, w.wind_speed, w.precip, w.visib,
       f.arr_delay > 15 AS late
FROM public.flights f
LEFT JOIN public.weather w ON (w.origin, w.time_hour) = (f.origin, f.time_hour)
LEFT JOIN public.planes p ON p.tailnum = f.tailnum"""

CREATE = """\
SELECT kwdbml.create_training_pipeline(
    pipeline_name => 'late_builtin', algorithm => 'hist_gradient_boosting', target => 'late',
    train_data => 'late_flights', features => ARRAY[{features}],
    description => 'more than 15 minutes late? by built-in code')"""

IMPORT = """\
SELECT kwdbml.import_training_pipeline(
    pipeline_name => 'late_own', description => 'more than 15 minutes late? by code of our own',
    problem_type => 'Binary_Classification', framework => 'sklearn_1.3', runtime => 'python_3.10',
    input_schema => '[{inputs}]',
    output_schema => '[{{"name": "late", "type": "int"}}]',
    pipeline_entity => :'bundle', transformer_entity => NULL)"""

TRAIN = """\
SELECT kwdbml.train_model('{pipeline}', '{model}', 'late_flights', true, true)"""

EVALUATE = """\
SELECT kwdbml.evaluate_model('{pipeline}', '{model}', NULL,
    'SELECT * FROM late_flights WHERE month = 12', '{objectives}')"""

PREDICT = """\
SELECT kwdbml.batch_predict('late_by_builtin', NULL::bigint, 'late_flights', 'late_predictions', 'replace')"""

JUDGE = """\
SELECT late AS really_late, prediction AS predicted_late, count(*) AS flights
FROM late_predictions GROUP BY 1, 2 ORDER BY 1, 2"""

JOBS = "SELECT * FROM kwdbml.show_jobs()"


def bundle() -> str:
    """The uploaded pipeline, zipped on the fly, as psql's bytea text."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "late_pipeline.zip"
        command = [
            sys.executable,
            *map(str, (ROOT / "examples" / "build.py", ROOT / "examples" / "late_pipeline", target)),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return "\\x" + target.read_bytes().hex()


def up(arguments: list[str]) -> str:
    """The superuser's DSN, as a shell would have it: $(kwdbml up | tail -n 1)."""
    heading("The embedded server and a worker")
    command = [sys.executable, "-m", "kwdbml", "up", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        raise SystemExit("kwdbml up did not succeed")
    return done.stdout.splitlines()[-1]


def tidy(demo: Demo) -> None:
    """Remove what an earlier run left: a second demo shows the same."""
    for (job,) in demo.rows("SELECT id FROM kwdbml.show_jobs(ARRAY['RUNNING'])"):
        demo.run(f"SELECT kwdbml.cancel_job('{job}')")
    for schema, name in demo.rows("SELECT schema, name FROM kwdbml.show_training_pipelines()"):
        demo.run(f"SELECT kwdbml.remove_training_pipeline('{schema}.{name}')")


def main_job(demo: Demo) -> None:
    heading("What to learn from: a view over flights, weather and planes")
    tidy(demo)
    demo.run(VIEW)
    demo.run("SELECT late, count(*) AS flights FROM late_flights GROUP BY late ORDER BY late")

    heading("A training pipeline of built-in code, and one of our own code (examples/late_pipeline)")
    demo.run(CREATE.format(features=", ".join(f"'{name}'" for name in FEATURES)))
    inputs = ",\n".join(f'{{"name": "{name}", "type": "{kind}"}}' for name, kind in BUNDLE_FEATURES.items())
    demo.run(IMPORT.format(inputs=inputs.replace("\n", "\n                      ")), bundle=bundle())

    heading("Train both")
    demo.jobs(
        TRAIN.format(pipeline="late_builtin", model="late_by_builtin"),
        TRAIN.format(pipeline="late_own", model="late_by_own"),
    )

    heading("Evaluate both on December")
    demo.jobs(
        EVALUATE.format(pipeline="", model="late_by_builtin", objectives="auc,f1,precision,recall"),
        EVALUATE.format(pipeline="late_own", model="late_by_own", objectives="auc,f1,caught_in_top_tenth"),
    )

    heading("Predict every flight into a table")
    demo.jobs(PREDICT)
    if not demo.failed:
        demo.run(JUDGE)

    heading("All jobs")
    demo.run(JOBS)


def farewell(dsn: str, arguments: list[str]) -> None:
    heading("Go on yourself")
    text = io.StringIO()
    text.write(f"  psql '{dsn}'\n")
    text.write("      SELECT * FROM kwdbml.show_models();   SELECT * FROM late_predictions LIMIT 10;\n")
    stop = " ".join([".venv/bin/kwdbml", "down", *arguments])
    text.write(f"  {stop}   stops the worker and the server; the data stays\n")
    print(text.getvalue(), flush=True)


def main() -> int:
    arguments = sys.argv[1:]
    superuser = up(arguments)
    with psycopg.connect(superuser, autocommit=True) as connection:
        heading("The data: every flight out of New York in 2013")
        demo_data.load(connection)
        dsn = demo_data.make_role(connection, superuser)
    with Demo(dsn) as demo:
        main_job(demo)
        failed = demo.failed
    if failed:
        print(f"{len(failed)} of the jobs did not succeed: {', '.join(failed)}", file=sys.stderr)
    farewell(dsn, arguments)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
