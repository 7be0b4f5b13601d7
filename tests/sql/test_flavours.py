"""Flavours: amounts and nodes under names that admins give, and what a job gets by one."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from kwdbml import quantity
from kwdbml.errors import InvalidParameter
from tests.sql.support import Connection, Person, Worker, one, refused, run

TRAIN = "SELECT kwdbml.train_model('p', 'm', 'shop', true, true, %s)"
GPU = {
    "name": "gpu", "cpu": "4", "mem": "16Gi", "scalar_resources": Jsonb({"nvidia.com/gpu": "1"}),
    "node_selector": Jsonb({"example.org/zone": "a"}), "description": "one of the four",
    "tolerations": Jsonb([{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]),
}  # fmt: skip
FOUND = {
    "cpu": "4", "mem": "16Gi", "scalarResources": {"nvidia.com/gpu": "1"}, "node_selector": {"example.org/zone": "a"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
}  # fmt: skip


def add(connection: Connection, **row: Any) -> None:
    columns, values = ", ".join(row), ", ".join(["%s"] * len(row))
    connection.execute(f"INSERT INTO kwdbml.flavour ({columns}) VALUES ({values})".encode(), list(row.values()))


def train(connection: Connection, **settings: Any) -> str:
    return str(one(connection, TRAIN, [Jsonb(settings)]))


@pytest.fixture
def gpu(admin: Person) -> str:
    add(admin.connection, **GPU)
    return "gpu"


def test_a_job_gets_what_the_row_says(shop: Connection, pipeline: str, gpu: str, worker: Worker) -> None:
    job = train(shop, flavour={"name": gpu, "cpu": "1"})
    assert worker.spec(worker.claim(job))["flavour"] == FOUND
    shown = one(shop, "SELECT settings -> 'flavour' FROM kwdbml.show_job(%s)", [job])
    assert shown == {"name": "gpu", "cpu": "1"}


@pytest.mark.parametrize("flavour", [{}, {"name": ""}, {"name": "customFlavour"}], ids=str)
def test_amounts_of_ones_own(shop: Connection, pipeline: str, worker: Worker, flavour: dict[str, str]) -> None:
    job = train(shop, flavour={**flavour, "cpu": "1"})
    assert worker.spec(worker.claim(job))["flavour"] is None


def test_an_unknown_name_is_answered_with_the_list(shop: Connection, pipeline: str, admin: Person) -> None:
    with refused("42704", "no such flavour: gpu", hint="Flavours: none;"):
        train(shop, flavour={"name": "gpu"})
    for name in ("small", "large"):
        add(admin.connection, name=name)
    with refused("42704", "no such flavour: Small", hint="Flavours: large, small;"):
        train(shop, flavour={"name": "Small"})
    assert train(shop, flavour={"name": "small"})


def test_it_is_looked_for_again_when_the_job_is_claimed(
    shop: Connection, pipeline: str, gpu: str, admin: Person, worker: Worker
) -> None:
    job = train(shop, flavour={"name": gpu})
    run(admin.connection, "UPDATE kwdbml.flavour SET cpu = '8', mem = NULL")
    held = worker.claim(job)
    assert worker.spec(held)["flavour"] == {k: v for k, v in FOUND.items() if k != "mem"} | {"cpu": "8"}
    run(admin.connection, "DELETE FROM kwdbml.flavour")
    with refused("42704", "gpu"):
        worker.spec(held)


@pytest.mark.parametrize("flavour", ['{"name": "gpu"}', '{"name": ["gpu"]}'])
def test_a_hand_written_row_has_no_other_flavours(
    shop: Connection, pipeline: str, worker: Worker, flavour: str
) -> None:
    run(shop, (
        "INSERT INTO kwdbml.job (type, pipeline_name, pipeline_id, model_name, settings, data_query, data_columns)"
        " SELECT 'TRAIN', 'public.p', id, 'public.m', jsonb_build_object('flavour', '" + flavour + "'::jsonb),"
        " 'TABLE public.shop', '[]' FROM kwdbml.pipeline"
    ))  # fmt: skip
    with refused("42704", "gpu"):
        worker.spec(worker.claim())


@pytest.mark.parametrize(
    ("flavour", "word"),
    [
        ({"scalarResources": {"gpu": "many"}}, "many"),
        ({"scalarResources": {"gpu": {"a": 1}}}, '{"a": 1}'),
        ({"scalarResources": {"gpu": True}}, "true"),
        ({"name": " "}, "flavour.name"),
        ({"name": None}, "flavour.name"),
        ({"node_selector": {}}, "node_selector"),
    ],
)
def test_what_is_no_flavour(shop: Connection, pipeline: str, flavour: dict[str, Any], word: str) -> None:
    with refused("22023", word):
        train(shop, flavour=flavour)
    assert train(shop, flavour={"scalarResources": {"nvidia.com/gpu": 1, "memory": "1Gi"}})


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"nvidia.com/gpu": 1, "amd.com/gpu": "2"}, "one kind of scalar resource, not amd.com/gpu, nvidia.com/gpu"),
        ({"gpu": 1}, 'Kubernetes has no scalar resource "gpu"'),
        ({"a b": "1"}, 'Kubernetes has no scalar resource "a b"'),
    ],
)
def test_what_a_cluster_cannot_give(
    shop: Connection, pipeline: str, admin: Person, resources: dict[str, Any], message: str
) -> None:
    """By hand or by a flavour's name; the local engine looks at none of it."""
    named = {name: str(amount) for name, amount in resources.items()}
    add(admin.connection, name="odd", scalar_resources=Jsonb(named))
    for flavour in ({"scalarResources": resources}, {"name": "odd"}):
        with refused("22023", message):
            train(shop, engine="kubeflow", flavour=flavour)
        assert train(shop, engine="local", flavour=flavour)
    none = {"nvidia.com/gpu": 1, "amd.com/gpu": 0, "gpu": "0"}
    assert train(shop, engine="kubeflow", flavour={"scalarResources": none})


@pytest.mark.parametrize(
    ("row", "constraint"),
    [
        ({"name": "customFlavour"}, "another_name"),
        ({"name": " a"}, "another_name"),
        ({"cpu": "many"}, "cpu_is_cores_like_2_or_500m"),
        ({"mem": "1 Gi"}, "mem_is_bytes_like_512mi_or_4g"),
        ({"scalar_resources": Jsonb([])}, "scalar_resources_are_amounts_by_name"),
        ({"scalar_resources": Jsonb({"gpu": 1})}, "scalar_resources_are_amounts_by_name"),
        ({"scalar_resources": Jsonb({"gpu": "-1"})}, "scalar_resources_are_amounts_by_name"),
        ({"node_selector": Jsonb([])}, "node_selector_is_labels_of_nodes"),
        ({"node_selector": Jsonb({"disk": 1})}, "node_selector_is_labels_of_nodes"),
        ({"node_selector": Jsonb({"disk": "a b"})}, "node_selector_is_labels_of_nodes"),
        ({"node_selector": Jsonb({"{{x}}": "a"})}, "node_selector_is_labels_of_nodes"),
        ({"tolerations": Jsonb({})}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb(["gpu"])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"keys": "a"}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"key": 1}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"operator": "In"}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"effect": "None"}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"tolerationSeconds": "1"}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"tolerationSeconds": 1.5}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"key": "a b"}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"key": "a", "value": "ü"}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"key": "", "operator": "Equal"}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"operator": "Exists", "value": "x"}])}, "tolerations_are_those_of_kubernetes"),
        ({"tolerations": Jsonb([{"key": "a", "tolerationSeconds": 3}])}, "tolerations_are_those_of_kubernetes"),
    ],
)
def test_what_an_admin_gets_wrong_is_named(admin: Person, row: dict[str, Any], constraint: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        add(admin.connection, **{"name": "x", **row})
    assert caught.value.diag.constraint_name == constraint


CPUS = ("2", "0.5", "500m", "1m", "0.001", "999999.999", "999999999m", "0", "0.0", "0m", "-1", "1e3", "", "two", "1.5m")
MEMS = (
    "1", "512Mi", "4G", "4GB", "4gib", "512b", "0.5Gi", "0.001k", "999999Ti", "999999999999999999", "0", "0Mi", "-1",
    "1Pi", "Mi", "", "1Gi1",
)  # fmt: skip


@pytest.mark.parametrize(("check", "read", "amounts"), [("cpu", quantity.cores, CPUS), ("mem", quantity.memory, MEMS)])
def test_what_the_table_takes_can_be_read(db: Connection, check: str, read: Any, amounts: tuple[str, ...]) -> None:
    """The table is the stricter one, so that no row of it fails a job."""
    taken = [a for a in amounts if one(db, f"SELECT kwdbml._is_{check}(%s)", [a])]
    assert taken
    for amount in taken:
        assert read(amount) > 0
    for amount in set(amounts) - set(taken) - {"1.5m"}:
        with pytest.raises(InvalidParameter):
            read(amount)


def test_admins_write_and_everybody_reads(ann: Person, admin: Person, gpu: str) -> None:
    assert one(ann.connection, "SELECT name FROM kwdbml.flavour") == "gpu"
    with refused("42501", "flavour", hint=False):
        add(ann.connection, name="mine")
    run(admin.connection, "DELETE FROM kwdbml.flavour")


@pytest.mark.parametrize("engines", [
    {"kubeflow": {"pull_policy": "Sometimes"}}, {"kubeflow": {"image": "x"}}, {"kubeflow": {"cpu": "many"}},
    {"kubeflow": {"mem": "much"}}, {"kubeflow": {"cpu": {}}},
], ids=json.dumps)  # fmt: skip
def test_what_a_runtime_may_say_of_kubeflow(admin: Person, engines: dict[str, Any]) -> None:
    insert = (
        "INSERT INTO kwdbml.runtime (framework, runtime, runs_as, image, engines) VALUES ('f_1', 'r_1', 'sklearn',"
        " 'registry.example.org/f:1', %s)"
    )
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        admin.connection.execute(insert, [Jsonb(engines)])
    assert caught.value.diag.constraint_name == "kubeflow_takes_a_pull_policy_cpu_and_mem"
    right = {"kubeflow": {"pull_policy": "Always", "cpu": 2, "mem": "4Gi"}, "local": {"python": "old"}}
    admin.connection.execute(insert, [Jsonb(right)])
    with pytest.raises(psycopg.errors.CheckViolation):
        admin.connection.execute("UPDATE kwdbml.runtime SET engines = %s WHERE framework = 'f_1'", [Jsonb(engines)])


def test_a_job_gets_what_its_runtime_says(shop: Connection, pipeline: str, db: Connection, worker: Worker) -> None:
    run(db, (
        "INSERT INTO kwdbml.runtime (framework, runtime, runs_as, image, engines) VALUES ('f_1', 'r_1', 'sklearn',"
        " 'registry.example.org/f:1', '{\"kubeflow\": {\"cpu\": \"2\"}, \"local\": {\"python\": \"old\"}}');"
        " UPDATE kwdbml.pipeline SET framework = 'f_1', runtime = 'r_1'"
    ))  # fmt: skip
    for engine, runtime in (("kubeflow", {"cpu": "2"}), ("local", {"python": "old"})):
        spec = worker.spec(worker.claim(train(shop, engine=engine, labels={"a": "b"}), engine))
        assert (spec["image"], spec["runtime"]) == ("registry.example.org/f:1", runtime)
        assert (spec["engine"], spec["model"], spec["labels"]) == (engine, "public.m", {"a": "b"})
        assert spec["creator"] == one(shop, "SELECT current_user")
