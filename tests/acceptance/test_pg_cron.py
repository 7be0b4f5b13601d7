"""Scheduled SQL with the real pg_cron: an ordinary role schedules train_model, and the job is its own.

A server of its own; pg_cron knows no seconds, so this takes up to a minute and a bit. Nothing runs the job: what the
schedule submits is what is tested.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.fixtures.local import LocalServer
from tests.fixtures.server import MakeServer

SETTINGS = {
    "shared_preload_libraries": "pg_cron",
    # without it pg_cron connects over TCP, and TCP asks for a password
    "cron.use_background_workers": "on",
    "cron.database_name": "postgres",
    "max_worker_processes": "20",
}
SCHEDULE = "SELECT cron.schedule('nightly', '* * * * *', $$SELECT kwdbml.train_model('p', 'm', 'shop', true, true)$$)"
INSTALL = "pg_cron is missing: apt-get install postgresql-NN-cron (NN: PostgreSQL's version); scripts/test does it"


@pytest.fixture
def cron_server(make_server: MakeServer) -> LocalServer:
    try:
        server = make_server(settings=SETTINGS)
    except Exception as error:  # pragma: no cover - says how to install
        error.add_note(INSTALL)
        raise
    with psycopg.connect(server.dsn(), autocommit=True) as db:
        db.execute("CREATE EXTENSION pg_cron")
        db.execute("CREATE EXTENSION kwdbml CASCADE")
        db.execute("CREATE ROLE ann LOGIN PASSWORD 'ann'")
        db.execute("GRANT USAGE ON SCHEMA cron TO ann")
        db.execute("GRANT CREATE ON SCHEMA public TO ann")
    return server


def until(found: Callable[[], list[tuple[Any, ...]]], seconds: float) -> list[tuple[Any, ...]]:
    """What is found, as soon as it is; cron's minute is the one thing that no test can hurry."""
    give_up = time.monotonic() + seconds
    while not (answer := found()) and time.monotonic() < give_up:
        time.sleep(0.5)
    return answer


@pytest.mark.slow
def test_an_ordinary_role_schedules_a_training(cron_server: LocalServer) -> None:
    with psycopg.connect(cron_server.dsn("postgres", "ann", "ann"), autocommit=True) as ann:
        ann.execute("CREATE TABLE shop AS SELECT n AS amount, n % 2 = 0 AS late FROM generate_series(1, 20) AS n")
        ann.execute("SELECT kwdbml.create_training_pipeline('p', 'logistic_regression', 'late', 'shop')")
        ann.execute(SCHEDULE)
        jobs = until(
            lambda: ann.execute("SELECT type, status, creator, model_name FROM kwdbml.show_jobs()").fetchall(), 75
        )
        runs = ann.execute("SELECT status, return_message FROM cron.job_run_details").fetchall()
        assert jobs == [("TRAIN", "RUNNING", "ann", "public.m")], runs
        ann.execute("SELECT cron.unschedule('nightly')")
