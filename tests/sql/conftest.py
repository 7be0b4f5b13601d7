"""People, a table, a pipeline and a model, as most tests of the SQL side need them."""

from __future__ import annotations

import pytest

from tests.fixtures.database import Connect, MakeRole
from tests.sql.support import Connection, Person, Worker, one, run

SHOP = """
CREATE TABLE shop (id bigint PRIMARY KEY, amount double precision, kind text, late integer);
INSERT INTO shop SELECT n, n * 1.5, (ARRAY['a', 'b', NULL])[n % 3 + 1], n % 2 FROM generate_series(1, 30) AS n;
"""


@pytest.fixture
def ann(role: MakeRole) -> Person:
    """Whose table, pipeline, model and jobs it all is."""
    one_role = role("ann", create_on=["public"])
    return Person(one_role, one_role.connect())


@pytest.fixture
def bob(role: MakeRole) -> Person:
    """A stranger, who may make tables of his own."""
    one_role = role("bob", create_on=["public"])
    return Person(one_role, one_role.connect())


@pytest.fixture
def admin(role: MakeRole) -> Person:
    """A member of kwdbml_admin, and no superuser."""
    one_role = role("admin", member_of=["kwdbml_admin"])
    return Person(one_role, one_role.connect())


@pytest.fixture
def worker(worker_dsn: str, connect: Connect) -> Worker:
    return Worker(worker_dsn, connect(worker_dsn))


@pytest.fixture
def shop(ann: Person) -> Connection:
    """Ann's connection, with her table shop (id, amount, kind, late)."""
    run(ann.connection, SHOP)
    return ann.connection


@pytest.fixture
def pipeline(shop: Connection) -> str:
    """Ann's pipeline of built-in code over amount and kind → late."""
    return str(one(shop, (
        "SELECT kwdbml.create_training_pipeline('p', 'logistic_regression', 'late', 'shop',"
        " features => ARRAY['amount', 'kind'])"
    )))  # fmt: skip


@pytest.fixture
def job(shop: Connection, pipeline: str) -> str:
    """A TRAIN job of Ann's that waits."""
    return str(one(shop, "SELECT kwdbml.train_model('p', 'm', 'shop', true, true)"))


@pytest.fixture
def model(job: str, worker: Worker) -> str:
    """Ann's model public.m, version 1."""
    worker.finish_training(job)
    return "public.m"


@pytest.fixture
def two_versions(shop: Connection, model: str, worker: Worker) -> str:
    """Public.m with versions 1 (active) and 2."""
    worker.finish_training(one(shop, "SELECT kwdbml.train_model('p', 'm', 'shop', true, false)"))
    return model
