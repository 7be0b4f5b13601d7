"""Shared file systems, the engine and the image of a job: what a person may ask of a cluster."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from kwdbml.engines.kfp import pipeline as kfp
from kwdbml.engines.kfp.settings import KubeflowSettings, S3Settings
from kwdbml.store import Claim
from kwdbml.worker.inputs import run_of
from tests.sql.support import Connection, Person, Worker, one, refused, rows, run

TRAIN = "SELECT kwdbml.train_model('p', 'm', 'shop', true, true, %s)"
FORGED = (
    "INSERT INTO kwdbml.job (type, pipeline_name, pipeline_id, model_name, settings, data_query, data_columns, engine)"
    " SELECT 'TRAIN', 'public.p', id, 'public.m', %s, 'TABLE public.shop', '[]', %s FROM kwdbml.pipeline"
)
SHARED = {"name": "shared", "mountPath": "/mnt/shared"}


def train(connection: Connection, engine: str | None = "kubeflow", **settings: Any) -> str:
    named = {"engine": engine} if engine else {}
    return str(one(connection, TRAIN, [Jsonb({**named, **settings})]))


@pytest.fixture
def volumes(admin: Person, ann: Person, bob: Person) -> str:
    """``shared`` is everyone's, ``anns`` Ann's, ``bobs`` Bob's, ``closed`` nobody's."""
    rows_of = [("shared", "pvc-a", "", ["public"]), ("anns", "pvc-b", "ann", [ann.name]),
               ("bobs", "pvc-b", "bob", [bob.name]), ("closed", "pvc-c", "", [])]  # fmt: skip
    insert = "INSERT INTO kwdbml.file_system (name, claim, sub_path, roles) VALUES (%s, %s, %s, %s)"
    for row in rows_of:
        admin.connection.execute(insert, row)
    return "shared"


def test_a_job_sees_what_its_creator_may_use(shop: Connection, pipeline: str, volumes: str, worker: Worker) -> None:
    extra = [{"name": "anns", "mountPath": "/data/", "subPath": "a/b", "readOnly": False}]
    job = train(shop, fs=SHARED, extraFS=extra)
    found = worker.spec(worker.claim(job, "kubeflow"))["file_systems"]
    assert found == {
        "shared": {"claim": "pvc-a", "sub_path": ""}, "anns": {"claim": "pvc-b", "sub_path": "ann"},
    }  # fmt: skip
    shown = one(shop, "SELECT settings - 'train_data' FROM kwdbml.show_job(%s)", [job])
    assert (shown["fs"], shown["extraFS"]) == (SHARED, extra)


@pytest.mark.parametrize("name", ["bobs", "closed", "pvc-a", "nothing"])
def test_others_are_not_there(shop: Connection, pipeline: str, volumes: str, worker: Worker, name: str) -> None:
    """The same words whether it is somebody else's or nothing; also from a row written by hand."""
    asked: dict[str, Any] = {"fs": {"name": name, "mountPath": "/mnt/x"}}
    with refused("42704", f"no such file system: {name}", hint="File systems that you may use: anns, shared."):
        train(shop, **asked)
    assert rows(shop, "SELECT * FROM kwdbml.show_jobs()") == []
    shop.execute(FORGED.encode(), [Jsonb(asked), "kubeflow"])
    with refused("42704", f"no such file system: {name}", hint="File systems that you may use: anns, shared."):
        worker.spec(worker.claim(engine="kubeflow"))
    assert train(shop, fs=SHARED)


def test_they_are_looked_for_again_when_the_job_is_claimed(
    shop: Connection, pipeline: str, volumes: str, admin: Person, worker: Worker
) -> None:
    held = worker.claim(train(shop, fs={"name": "anns", "mountPath": "/mnt/x"}), "kubeflow")
    assert worker.spec(held)["file_systems"]
    run(admin.connection, "UPDATE kwdbml.file_system SET roles = '{}' WHERE name = 'anns'")
    with refused("42704", "no such file system: anns"):
        worker.spec(held)


def test_who_sees_which(ann: Person, bob: Person, admin: Person, volumes: str, db: Connection) -> None:
    names = "SELECT array_agg(name ORDER BY name) FROM kwdbml.file_system"
    assert one(ann.connection, names) == ["anns", "shared"]
    assert one(bob.connection, names) == ["bobs", "shared"]
    assert one(admin.connection, names) == ["anns", "bobs", "closed", "shared"]
    db.execute(f'GRANT "{ann.name}" TO "{bob.name}"'.encode())
    assert one(bob.connection, names) == ["anns", "bobs", "shared"]
    for statement in (
        "INSERT INTO kwdbml.file_system (name, claim, roles) VALUES ('mine', 'pvc-c', '{public}')",
        "UPDATE kwdbml.file_system SET roles = '{public}'",
        "DELETE FROM kwdbml.file_system",
    ):
        with refused("42501", "file_system", hint=False):
            run(ann.connection, statement)


def test_they_follow_a_role_that_is_renamed(admin: Person, ann: Person, bob: Person, volumes: str) -> None:
    """Else a new role of the old name would have them; what both had is had once."""
    one(admin.connection, "SELECT kwdbml.reassign_owned(%s, %s)", [bob.name, ann.name])
    roles = "SELECT name, roles FROM kwdbml.file_system WHERE name IN ('anns', 'bobs') ORDER BY 1"
    assert rows(admin.connection, roles) == [("anns", [ann.name]), ("bobs", [ann.name])]
    run(admin.connection, f"UPDATE kwdbml.file_system SET roles = roles || '{bob.name}'::name WHERE name = 'anns'")
    one(admin.connection, "SELECT kwdbml.reassign_owned(%s, %s)", [bob.name, ann.name])
    assert rows(admin.connection, roles) == [("anns", [ann.name]), ("bobs", [ann.name])]
    run(admin.connection, "UPDATE kwdbml.file_system SET roles = '{gone}' WHERE name = 'anns'")
    one(admin.connection, "SELECT kwdbml.reassign_owned('gone', %s)", [bob.name])
    assert one(admin.connection, "SELECT roles FROM kwdbml.file_system WHERE name = 'anns'") == [bob.name]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"fs": []}, "22023", "settings.fs"),
    ({"fs": "shared"}, "22023", "settings.fs"),
    ({"fs": {"mountPath": "/mnt/x"}}, "22023", "no name"),
    ({"fs": {"name": "shared"}}, "22023", "no mountPath"),
    ({"fs": {**SHARED, "name": None}}, "22023", "no name"),
    ({"fs": {**SHARED, "claim": "pvc-c"}}, "22023", "claim"),
    ({"fs": {**SHARED, "readOnly": True}}, "0A000", "shared"),
    ({"fs": {**SHARED, "readOnly": "no"}}, "22023", "readOnly"),
    *(
        ({"fs": {**SHARED, "mountPath": path}}, "22023", path.strip()) for path in (
            "data", "/", "//mnt/x", "/mnt/../etc", "/mnt/./x", "/mnt//x", "/mnt/a:b", "/mnt/{{x}}", "/usr/lib",
            "/var/run/kwdbml", "/mnt\n/x", "/MNT/x",
        )
    ),
    *(
        ({"fs": {**SHARED, "subPath": path}}, "22023", str(path)) for path in (
            "/a", "..", "a/../../b", "a/", "{{x}}", 5,
        )
    ),
    ({"extraFS": SHARED}, "22023", "settings.extraFS"),
    ({"extraFS": [SHARED, 5]}, "22023", "settings.extraFS[1]"),
    ({"fs": SHARED, "extraFS": [{**SHARED, "mountPath": "/mnt/shared/"}]}, "22023", '"/mnt/shared"'),
    ({"extraFS": [{**SHARED, "mountPath": f"/mnt/{n}"} for n in range(65)]}, "22023", "at most 64"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "sqlstate", "word"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_what_is_no_file_system(
    shop: Connection, pipeline: str, volumes: str, settings: dict[str, Any], sqlstate: str, word: str
) -> None:
    with refused(sqlstate, word):
        train(shop, **settings)
    assert rows(shop, "SELECT * FROM kwdbml.show_jobs()") == []


@pytest.mark.parametrize(
    ("row", "constraint"),
    [
        (("", "a", "", ["public"]), "another_name"),
        (("x", "My.Claim", "", ["public"]), "claim_is_a_volume_claims_name"),
        (("x", "a", "/x", ["public"]), "sub_path_is_relative_without_dots"),
        (("x", "a", "a/../b", ["public"]), "sub_path_is_relative_without_dots"),
        (("x", "a", "a/", ["public"]), "sub_path_is_relative_without_dots"),
        (("x", "a", "", ["syspublic"]), "everyone_is_public"),
        (("x", "a", "", [None]), "everyone_is_public"),
    ],
)
def test_what_an_admin_gets_wrong_is_named(admin: Person, row: tuple[Any, ...], constraint: str) -> None:
    insert = "INSERT INTO kwdbml.file_system (name, claim, sub_path, roles) VALUES (%s, %s, %s, %s)"
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        admin.connection.execute(insert, row)
    assert caught.value.diag.constraint_name == constraint
    admin.connection.execute(insert, ("x", "a", "a/.b/c", ["public"]))


def test_only_a_cluster_has_them(shop: Connection, pipeline: str, volumes: str, admin: Person, worker: Worker) -> None:
    """The engine is the named one, else the deployment's; a row by hand is as it says."""
    for engine in ("local", None):
        for asked in ({"fs": SHARED}, {"extraFS": [SHARED]}):
            with refused("22023", 'engine "local" has no shared file systems'):
                train(shop, engine, **asked)
    assert train(shop, "local", extraFS=[])
    run(admin.connection, "INSERT INTO kwdbml.settings VALUES ('default_engine', '\"kubeflow\"')")
    assert train(shop, None, fs=SHARED)
    with refused("22023", 'engine "local" has no shared file systems'):
        train(shop, "LOCAL", fs=SHARED)
    run(shop, "SELECT kwdbml.cancel_job(id) FROM kwdbml.show_jobs(ARRAY['RUNNING'])")
    shop.execute(FORGED.encode(), [Jsonb({"engine": "kubeflow", "fs": SHARED}), "local"])
    with refused("22023", 'engine "local" has no shared file systems'):
        worker.spec(worker.claim())


# -- the engine ----------------------------------------------------------------------------------------------------


def test_a_job_waits_for_a_worker_of_its_engine(shop: Connection, pipeline: str, worker: Worker) -> None:
    with refused("22023", "spark", hint="Engines: local, kubeflow."):
        train(shop, "spark")
    job = train(shop, "KUBEFLOW")
    shown = rows(shop, "SELECT engine, phase, waiting_for FROM kwdbml.jobs")
    assert shown == [("kubeflow", "queued", "a worker for engine kubeflow")]
    assert rows(worker.connection, "SELECT * FROM kwdbml.worker_claim('test', ARRAY['local'], '1 min')") == []
    worker.claim(job, "kubeflow")
    assert rows(shop, "SELECT engine, phase, waiting_for FROM kwdbml.jobs") == [("kubeflow", "staging", None)]


def test_the_deployments_engine(shop: Connection, pipeline: str, admin: Person) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        run(admin.connection, "INSERT INTO kwdbml.settings VALUES ('default_engine', '\"spark\"')")
    run(admin.connection, "INSERT INTO kwdbml.settings VALUES ('default_engine', '\"kubeflow\"')")
    for engine, found in ((None, "kubeflow"), ("local", "local")):
        job = train(shop, engine)
        assert one(shop, "SELECT engine FROM kwdbml.jobs WHERE id = %s", [job]) == found


# -- the image -----------------------------------------------------------------------------------------------------


def test_an_image_is_an_admins_to_allow(shop: Connection, pipeline: str, admin: Person, worker: Worker) -> None:
    """It is code that a cluster runs. The local engine runs none, and keeps to writing it down."""
    with refused("42501", '"evil:1" is not allowed', hint="Allowed by the setting images: none."):
        train(shop, image="evil:1")
    assert train(shop, "local", image="evil:1")
    allow = "INSERT INTO kwdbml.settings VALUES ('images', %s)"
    admin.connection.execute(allow, ['["registry.example.org/ml/*", "exact:1"]'])
    run(admin.connection, (
        "INSERT INTO kwdbml.runtime (framework, runtime, runs_as, image) VALUES ('f_1', 'r_1', 'sklearn', 'known:1')"
    ))  # fmt: skip
    for image in ("registry.example.org/ml/a:1", f"registry.example.org/ml/b@sha256:{'0' * 64}", "exact:1", "known:1"):
        assert train(shop, image=image)
    for image in ("exact:12", "registry.example.org/ml", "registry.example.org/mlx/a:1", "x/registry.example.org/ml/a"):
        with refused("42501", image, hint="registry.example.org/ml/*, exact:1"):
            train(shop, image=image)
    run(shop, "SELECT kwdbml.cancel_job(id) FROM kwdbml.show_jobs(ARRAY['RUNNING'])")
    shop.execute(FORGED.encode(), [Jsonb({"image": "evil:1"}), "kubeflow"])
    with refused("42501", '"evil:1" is not allowed'):
        worker.spec(worker.claim(engine="kubeflow"))


def test_a_star_in_the_place_of_a_tag_is_one(shop: Connection, pipeline: str, admin: Person) -> None:
    allow = "INSERT INTO kwdbml.settings VALUES ('images', %s)"
    admin.connection.execute(allow, ['["python:*", "registry.example.org:*", "digest@*", "a.example/b:*"]'])
    for image in ("python:3.11", f"digest@sha256:{'0' * 64}", f"python:3@sha256:{'0' * 64}", "a.example/b:1"):
        assert train(shop, image=image)
    for image in ("python:5000/evil/image:1", "registry.example.org:5000/evil:1", "a.example/b:1/c"):
        with refused("42501", image, hint="Allowed by the setting images: python:*"):
            train(shop, image=image)


def test_what_is_no_image(shop: Connection, pipeline: str, admin: Person) -> None:
    run(admin.connection, "INSERT INTO kwdbml.settings VALUES ('images', '[\"*\"]')")
    assert train(shop, image="anything/at-all:1")
    for image in ("a b", "-x", "a/../b", "x@sha256:0", "{{x}}", "*"):
        with refused("22023", image):
            train(shop, image=image)


@pytest.mark.parametrize("value", ['"*"', "{}", "[1]", '[""]', '["a*"]', '["*a"]', '["a/*/b"]', '["a b"]'])
def test_what_is_no_list_of_images(admin: Person, value: str) -> None:
    insert = "INSERT INTO kwdbml.settings VALUES ('images', %s)"
    with pytest.raises(psycopg.errors.CheckViolation, match="images_is_a_list_of_names_in_full_or_up_to_a_star"):
        admin.connection.execute(insert, [value])
    admin.connection.execute(insert, ['["*", "a:1", "a/*", "a:*", "a@*"]'])


# -- and all of it as Kubeflow Pipelines gets it -------------------------------------------------------------------

S3 = S3Settings(endpoint="http://s3:9000", bucket="bucket", access_key="key", secret_key="hush")  # type: ignore[arg-type]
SETTINGS = KubeflowSettings(host="http://kfp:8888", image="kwdbml/runtime:1", s3=S3)


def test_nothing_that_was_accepted_is_refused_at_the_launch(
    shop: Connection, pipeline: str, admin: Person, worker: Worker
) -> None:
    """Of everything that is checked twice, here and by the engine, the longest and strangest that passes here."""
    longest = "a" * 63
    run(admin.connection, (
        "INSERT INTO kwdbml.settings VALUES ('images', '[\"*\"]');"
        " INSERT INTO kwdbml.flavour VALUES ('f', '999999.999', '0.001k', '{\"example.org/gpu\": \"1Ki\"}',"
        f" '{{\"example.org/{longest}\": \"{longest}\", \"A_.b\": \"\"}}',"
        ' \'[{"key": "k", "operator": "Equal", "value": "", "effect": ""},'
        ' {"operator": "Exists", "value": "", "effect": "NoExecute", "tolerationSeconds": 60}]\');'
        f" INSERT INTO kwdbml.file_system VALUES ('f s', '{longest}', 'a b/.c', '{{public}}')"
    ))  # fmt: skip
    job = train(
        shop, flavour={"name": "f"}, image=f"registry.example.org:5000/A/b_c:1@sha256:{'0' * 64}",
        labels={"": "", "a b": "ü", "x": "{{y}}"}, annotations={"a/b/c": "d" * 1000},
        fs={"name": "f s", "mountPath": "/mnt/ü b", "subPath": "c d/é"},
    )  # fmt: skip
    held = worker.claim(job, "kubeflow")
    claim = Claim(held.job, held.attempt, held.token, held.run_name, "kubeflow", "RUNNING", False, "staging", None)
    found = run_of(claim, worker.spec(held))
    filled = kfp.fill(found, SETTINGS, "s3://bucket/x")
    [config] = filled.spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    (mount,) = config["pvcMount"]
    assert (mount["constant"], mount["mountPath"], mount["subPath"]) == (longest, "/mnt/ü b", "a b/.c/c d/é")
    assert config["nodeSelector"]["labels"]["A_.b"] == ""
    assert filled.parameters["creator"] == one(shop, "SELECT current_user")
