"""``settings.promote``: what is asked for, who may ask, and what the landing decides under the model's lock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fixtures.bundles import zipped
from tests.sql.support import Connection, Held, Person, Worker, grant_pipeline, import_pipeline, one, refused, rows, run

TRAIN = "SELECT kwdbml.train_model('p', 'm', 'shop', true, %s, %s::jsonb)"
SAME, OTHER = "a" * 64, "b" * 64


def ask(connection: Connection, objective: str = "auc", deploy: bool = False) -> str:
    return str(one(connection, TRAIN, [deploy, json.dumps({"promote": "if_better", "objective": objective})]))


def metric(score: float | None, objective: str = "auc") -> list[dict[str, Any]]:
    return [{"objective": "other", "score": 7}, {"objective": objective, "score": score}]


def measured(
    ours: float | None, theirs: float | None = None, rows_hash: str | None = SAME, objective: str = "auc", **rest: Any
) -> dict[str, Any]:
    """The part of an outcome that says how the versions did."""
    better = "lower" if objective == "rmse" else "higher"
    held = {"hash": rows_hash, "rows": 6, "metrics": metric(ours, objective), "problem": None}
    return {"better": better, "held_out": {**held, "active": {"metrics": metric(theirs, objective)}, **rest}}


def decision(connection: Connection, held: Held) -> dict[str, Any]:
    found: dict[str, Any] = one(connection, "SELECT decision FROM kwdbml.jobs WHERE id = %s", [str(held.job)])
    return found


def active(connection: Connection, model: str = "m") -> int:
    return int(one(connection, "SELECT DISTINCT active_version FROM kwdbml.show_model(%s)", [model]))


def promote(shop: Connection, worker: Worker, outcome: dict[str, Any], **asked: Any) -> dict[str, Any]:
    """A whole job, compared with what is active when it is claimed; its decision."""
    held = worker.claim(ask(shop, **asked))
    worker.call("worker_compared", held)
    finish(worker, held, outcome)
    return decision(shop, held)


def finish(worker: Worker, held: Held, outcome: dict[str, Any]) -> None:
    with worker.connection.transaction():
        put = worker.call("worker_put", held, None, "model", 0, b"model")
        worker.land(held, artefacts=[{"id": str(put), "bytes": 5, "sha256": "x"}], **outcome)


# -- the call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "word", "hint"),
    [
        ({"promote": "if_better"}, "objective", "f1"),
        ({"promote": "always", "objective": "auc"}, '"always"', "if_better"),
        ({"promote": True, "objective": "auc"}, "true", "if_better"),
        ({"promote": None, "objective": "auc"}, "null", "if_better"),
        ({"objective": "auc"}, "without promote", "if_better"),
        ({"promote": "if_better", "objective": "rmse"}, '"rmse" for problem type b', "precision, recall, f1, auc"),
        ({"promote": "if_better", "objective": "f1,auc"}, '"f1,auc"', "precision, recall, f1, auc"),
        ({"promote": "if_better", "objective": ["f1"]}, "objective", "text"),
        ({"promote": "if_better", "objective": " "}, "objective", "text"),
    ],
)
def test_what_is_refused_at_the_call(
    shop: Connection, pipeline: str, settings: dict[str, Any], word: str, hint: str
) -> None:
    with refused("22023", word, hint=hint):
        one(shop, TRAIN, [False, json.dumps(settings)])
    assert rows(shop, "SELECT FROM kwdbml.job") == []
    assert ask(shop)


@pytest.mark.parametrize(("promotes", "objective"), [("IF_BETTER", "AUC"), ("If_Better", "Auc"), ("if_better", "auc")])
def test_any_case(shop: Connection, model: str, worker: Worker, promotes: str, objective: str) -> None:
    one(shop, TRAIN, [False, json.dumps({"promote": promotes, "objective": objective})])
    held = worker.claim()
    worker.call("worker_compared", held)
    finish(worker, held, measured(0.9, 0.1))
    found = decision(shop, held)
    assert (found["promoted"], found["objective"], found["candidate"]) == (True, "auc", 0.9)


@pytest.mark.parametrize("key", ["promote", "objective"])
def test_only_a_training_promotes(shop: Connection, model: str, key: str) -> None:
    value = {"promote": "if_better", "objective": "f1"}
    settings = json.dumps({key: value[key]})
    with refused("22023", key, "train_model"):
        one(shop, "SELECT kwdbml.evaluate_model('', 'm', 1, 'shop', 'f1', %s::jsonb)", [settings])
    with refused("22023", key, "train_model"):
        one(shop, "SELECT kwdbml.batch_predict('m', 1, 'shop', 'r', 'error', %s::jsonb)", [settings])


def test_of_several_targets_one_decides(shop: Connection, worker: Worker) -> None:
    output = '[{"name": "late", "type": "int"}, {"name": "a.b", "type": "float"}]'
    import_pipeline(shop, "two", problem_type="R", output=output)
    call = "SELECT kwdbml.train_model('two', 'm2', %s, true, false, %s::jsonb)"
    data = 'SELECT amount, kind, late, amount AS "a.b" FROM shop'
    with refused("22023", '"rmse"', hint="late.rmse"):
        one(shop, call, [data, json.dumps({"promote": "if_better", "objective": "rmse"})])
    with refused("22023", '"A.b.rmse"', hint="a.b.rmse"):
        one(shop, call, [data, json.dumps({"promote": "if_better", "objective": "A.b.rmse"})])
    one(shop, call, [data, json.dumps({"promote": "if_better", "objective": "a.b.RMSE"})])
    held = worker.claim()
    finish(worker, held, measured(1.0, objective="a.b.rmse"))
    assert decision(shop, held)["candidate"] == 1.0


@pytest.mark.parametrize("lacking", ["UPDATE", "EVALUATE"])
def test_what_one_needs_on_the_model(db: Connection, shop: Connection, model: str, bob: Person, lacking: str) -> None:
    """What immediately_deploy needs, and what an evaluation of the active version does."""
    run(shop, "GRANT SELECT ON shop TO PUBLIC")
    grant_pipeline(db, bob.name, "TRAIN")
    grant = "SELECT kwdbml.grant_privilege_on_model('public.m', %s, %s)"
    for privilege in {"CREATE", "UPDATE", "EVALUATE"} - {lacking}:
        one(shop, grant, [bob.name, privilege])
    call = TRAIN.replace("'p', 'm'", "'public.p', 'public.m'").replace("'shop'", "'public.shop'")
    asked = [False, '{"promote": "if_better", "objective": "auc"}']
    with refused("42501", "public.m", hint=lacking):
        one(bob.connection, call, asked)
    one(shop, grant, [bob.name, lacking])
    assert one(bob.connection, call, asked)


@pytest.mark.parametrize(("privilege", "lost"), [("EVALUATE", "compare"), ("EVALUATE", "land"), ("UPDATE", "land")])
def test_rights_that_are_lost_later(
    db: Connection, shop: Connection, model: str, bob: Person, worker: Worker, privilege: str, lost: str
) -> None:
    run(shop, "GRANT SELECT ON shop TO PUBLIC")
    grant_pipeline(db, bob.name, "TRAIN")
    one(shop, "SELECT kwdbml.grant_privilege_on_model('m', %s, 'CREATE|UPDATE|EVALUATE')", [bob.name])
    call = TRAIN.replace("'p', 'm'", "'public.p', 'public.m'").replace("'shop'", "'public.shop'")
    held = worker.claim(one(bob.connection, call, [False, '{"promote": "if_better", "objective": "auc"}']))
    if lost == "land":
        assert worker.call("worker_compared", held)["version"] == 1
    one(shop, "SELECT kwdbml.revoke_privilege_on_model('m', %s, %s)", [bob.name, privilege])
    with refused("42501", "public.m"):
        if lost == "compare":
            worker.call("worker_compared", held)
        else:
            finish(worker, held, measured(0.9, 0.1))
    assert rows(shop, "SELECT version FROM kwdbml.show_model('m')") == [(1,)]
    one(shop, "SELECT kwdbml.grant_privilege_on_model('m', %s, %s)", [bob.name, privilege])
    worker.call("worker_compared", held)
    finish(worker, held, measured(0.9, 0.1))
    assert active(shop) == 2


# -- what the worker is given --------------------------------------------------------------------------------------


def test_the_bundles_of_the_active_version(shop: Connection, model: str, worker: Worker) -> None:
    held = worker.claim(ask(shop))
    kinds = "SELECT kind FROM kwdbml.worker_artefacts(%s, %s) ORDER BY 1"
    assert rows(worker.connection, kinds, held.key) == []
    assert worker.call("worker_compared", held) == {
        "version": 1, "framework": "sklearn", "user_code": False, "problem": None,
    }  # fmt: skip
    assert rows(worker.connection, kinds, held.key) == [("active-model",)]
    found = one(worker.connection, "SELECT artefact FROM kwdbml.worker_artefacts(%s, %s)", held.key)
    assert worker.call("worker_chunk", held, found, 0) == b"model"


def test_an_imported_one_with_its_data_preparation(shop: Connection, pipeline: str, worker: Worker) -> None:
    preparing = zipped({"prediction/data_preparation_prediction.py": "def preprocess(inputs, data_path): return {}\n"})
    features = '[{"name": "amount", "type": "FLOAT"}, {"name": "kind", "type": "STRING"}]'
    one(shop, (
        "SELECT kwdbml.import_model('m', '', 'b', 'xgboost_1.6', 'python_3.8', %s::jsonb,"
        " '{\"name\": \"late\", \"type\": \"INT\"}'::jsonb, %s, %s)"
    ), [features, zipped({"model/model.json": "{}"}), preparing])  # fmt: skip
    held = worker.claim(ask(shop))
    told = worker.call("worker_compared", held)
    assert (told["framework"], told["user_code"]) == ("xgboost", True)
    kinds = "SELECT kind FROM kwdbml.worker_artefacts(%s, %s) ORDER BY 1"
    assert rows(worker.connection, kinds, held.key) == [("active-model",), ("active-transformer",)]


def test_who_does_not_ask_gets_nothing(shop: Connection, model: str, worker: Worker) -> None:
    held = worker.claim(one(shop, TRAIN, [True, "{}"]))
    assert worker.call("worker_compared", held) is None
    assert rows(worker.connection, "SELECT FROM kwdbml.worker_artefacts(%s, %s)", held.key) == []
    finish(worker, held, measured(0.1, 0.9))
    assert decision(shop, held) is None
    assert active(shop) == 2


def test_a_new_model_has_nothing_to_compare_with(shop: Connection, pipeline: str, worker: Worker) -> None:
    held = worker.claim(ask(shop))
    assert worker.call("worker_compared", held) == {}


def test_the_attempt_keeps_to_what_it_began_with(shop: Connection, two_versions: str, worker: Worker) -> None:
    """Also when another worker takes it over; and the version stays while the attempt is open."""
    held = worker.claim(ask(shop))
    assert worker.call("worker_compared", held)["version"] == 1
    one(shop, "SELECT kwdbml.set_active_version('m', 2)")
    assert worker.call("worker_compared", held)["version"] == 1
    with refused("55006", "version 1"):
        one(shop, "SELECT kwdbml.remove_model('m', 1)")
    one(shop, "SELECT kwdbml.cancel_job(%s)", [str(held.job)])
    assert one(shop, "SELECT kwdbml.remove_model('m', 1)") == "public.m"


def test_another_environment(shop: Connection, db: Connection, model: str, worker: Worker) -> None:
    run(
        db,
        "INSERT INTO kwdbml.runtime (framework, runtime, runs_as, image)"
        " VALUES ('sklearn_9', 'python_9', 'sklearn', 'i')",
    )
    run(db, "UPDATE kwdbml.model_version SET framework = 'sklearn_9', runtime = 'python_9'")
    held = worker.claim(ask(shop))
    assert "python_9 with sklearn_9" in worker.call("worker_compared", held)["problem"]
    more = '{"kubeflow": {"cpu": "2", "mem": "4Gi", "pull_policy": "Always"}}'
    run(db, f"UPDATE kwdbml.runtime SET image = NULL, engines = '{more}' WHERE framework = 'sklearn_9'")
    same = "SELECT kwdbml._environment('sklearn_9', 'python_9', 'kubeflow') = kwdbml._environment('', '', 'kubeflow')"
    assert one(db, same), "how much of a machine a run gets makes no other environment"
    assert worker.call("worker_compared", held)["problem"] is None


# -- the decision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "promoted", "reason"),
    [
        (0.91, 0.89, True, "better than version 1"),
        (0.89, 0.91, False, "worse than version 1"),
        (0.9, 0.9, False, "as good as version 1, and no better"),
        (None, 0.9, False, "the new version has no auc"),
        (0.9, None, False, "version 1 has no auc"),
        (None, None, False, "the new version has no auc"),
    ],
)
@pytest.mark.parametrize("deploy", [False, True])
def test_higher_is_better(
    shop: Connection, model: str, worker: Worker, ours: float, theirs: float, promoted: bool, reason: str, deploy: bool
) -> None:
    """Whatever immediately_deploy says: the comparison decides."""
    assert promote(shop, worker, measured(ours, theirs), deploy=deploy) == {
        "promoted": promoted, "objective": "auc", "better": "higher", "candidate": ours, "active": theirs, "version": 2,
        "active_version": 1, "holdout_hash": SAME, "holdout_rows": 6, "reason": reason,
    }  # fmt: skip
    assert active(shop) == (2 if promoted else 1)


@pytest.mark.parametrize(("ours", "theirs", "promoted"), [(1.0, 2.0, True), (2.0, 1.0, False), (1.0, 1.0, False)])
def test_lower_is_better(
    shop: Connection, model: str, worker: Worker, ours: float, theirs: float, promoted: bool
) -> None:
    outcome = measured(ours, theirs, objective="log_loss") | {"better": "lower"}
    assert promote(shop, worker, outcome, objective="log_loss")["promoted"] is promoted


def test_the_first_version_is_promoted(shop: Connection, pipeline: str, worker: Worker) -> None:
    found = promote(shop, worker, measured(None))
    assert (found["promoted"], found["active_version"], found["reason"]) == (
        True,
        None,
        "the first version of the model",
    )
    assert active(shop) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": None, "problem": "ValueError: x"}, "the new version could not be measured: ValueError: x"),
        ({"active": {"metrics": None, "problem": "OSError: y"}}, "version 1 could not be measured: OSError: y"),
        ({"active": {}}, "version 1 has no auc"),
    ],
)
def test_what_could_not_be_measured(
    shop: Connection, model: str, worker: Worker, changes: dict[str, Any], reason: str
) -> None:
    found = promote(shop, worker, measured(0.9, 0.1, **changes))
    assert (found["promoted"], found["reason"]) == (False, reason)
    assert active(shop) == 1


def test_a_result_that_says_nothing_of_it(shop: Connection, model: str, worker: Worker) -> None:
    """A step of another version, or one whose user code wrote the result."""
    found = promote(shop, worker, {"better": "higher"})
    assert (found["promoted"], found["reason"]) == (False, "the new version has no auc")


@pytest.mark.parametrize(
    ("rows_hash", "recorded", "ours", "promoted", "reason"),
    [
        (SAME, 0.8, 0.9, True, "better than version 2"),
        (SAME, 0.95, 0.9, False, "worse than version 2"),
        (
            SAME,
            None,
            0.9,
            False,
            "version 2 became active meanwhile, and had no auc when it was trained: train again",
        ),
        (
            OTHER,
            0.8,
            0.9,
            False,
            "version 2 became active meanwhile, and was not measured on the same rows: train again",
        ),
        (
            None,
            0.8,
            0.9,
            False,
            "version 2 became active meanwhile, and was not measured on the same rows: train again",
        ),
    ],
)
def test_another_became_active_meanwhile(
    shop: Connection, model: str, worker: Worker, rows_hash: str | None, recorded: float, ours: float, promoted: bool,
    reason: str,
) -> None:  # fmt: skip
    """It counts with what was measured at its training, not with what an evaluation has made of it since."""
    worker.finish_training(one(shop, TRAIN, [False, "{}"]), **measured(recorded, rows_hash=rows_hash))
    held = worker.claim(ask(shop))
    assert worker.call("worker_compared", held)["version"] == 1
    one(shop, "SELECT kwdbml.set_active_version('m', 2)")
    evaluation = worker.claim(one(shop, "SELECT kwdbml.evaluate_model('', 'm', 2, 'shop', 'auc')"))
    worker.land(evaluation, metrics=metric(0.0001))
    finish(worker, held, measured(ours, 0.1))
    found = decision(shop, held)
    assert (found["promoted"], found["active_version"], found["reason"]) == (promoted, 2, reason)
    assert found["active"] == (recorded if rows_hash == SAME else None)
    assert active(shop) == (3 if promoted else 2)


def test_another_that_was_never_measured_became_active(shop: Connection, model: str, worker: Worker) -> None:
    """On the same rows it could not be; it is not that the rows were others."""
    worker.finish_training(one(shop, TRAIN, [False, "{}"]), **measured(0.8, metrics=None, problem="ValueError: x"))
    held = worker.claim(ask(shop))
    worker.call("worker_compared", held)
    one(shop, "SELECT kwdbml.set_active_version('m', 2)")
    finish(worker, held, measured(0.9, 0.1))
    said = "version 2 became active meanwhile, and could not be measured when it was trained: train again"
    assert decision(shop, held)["reason"] == said
    assert active(shop) == 2


@pytest.mark.parametrize(("label", "promoted"), [("yes", True), ("no", False), (None, False)])
def test_scores_of_another_positive_label(
    shop: Connection, model: str, worker: Worker, label: str | None, promoted: bool
) -> None:
    """Precision of yes and precision of no are two things."""

    def labelled(score: float, label: str | None) -> dict[str, Any]:
        found = metric(score) if label is None else [{**m, "positive_label": label} for m in metric(score)]
        return measured(score, 0.1, metrics=found)

    worker.finish_training(one(shop, TRAIN, [False, "{}"]), **labelled(0.5, label))
    held = worker.claim(ask(shop))
    worker.call("worker_compared", held)
    one(shop, "SELECT kwdbml.set_active_version('m', 2)")
    finish(worker, held, labelled(0.9, "yes"))
    found = decision(shop, held)
    assert (found["promoted"], "another positive label" in found["reason"]) == (promoted, not promoted)


def test_activated_and_back_again_counts_as_measured(shop: Connection, two_versions: str, worker: Worker) -> None:
    held = worker.claim(ask(shop))
    worker.call("worker_compared", held)
    for version in (2, 1):
        one(shop, "SELECT kwdbml.set_active_version('m', %s)", [version])
    finish(worker, held, measured(0.9, 0.1))
    assert decision(shop, held)["reason"] == "better than version 1"


def test_a_retry_compares_with_what_is_active_then(shop: Connection, two_versions: str, worker: Worker) -> None:
    settings = {"promote": "if_better", "objective": "auc", "retries": 1}
    job = one(shop, TRAIN, [False, json.dumps(settings)])
    held = worker.claim(job)
    assert worker.call("worker_compared", held)["version"] == 1
    one(shop, "SELECT kwdbml.set_active_version('m', 2)")
    assert worker.call("worker_fail", held, '{"type": "Lost"}', True) == "RUNNING"
    again = worker.claim(job)
    assert worker.call("worker_compared", again)["version"] == 2


def test_it_is_the_creators_to_see(shop: Connection, model: str, worker: Worker, bob: Person) -> None:
    assert promote(shop, worker, measured(0.9, 0.1))["promoted"]
    assert rows(bob.connection, "SELECT decision FROM kwdbml.jobs") == []
    assert (
        one(shop, "SELECT settings ->> 'promote' FROM kwdbml.show_jobs('m', '{TRAIN}', '{*}') LIMIT 1") == "if_better"
    )
    lineage = "SELECT lineage -> 'holdout_metrics', lineage ->> 'holdout_hash' FROM kwdbml.show_model('m', 2)"
    assert rows(shop, lineage) == [(metric(0.9), SAME)]


def test_after_a_cancel_nothing_is_decided(shop: Connection, model: str, worker: Worker) -> None:
    held = worker.claim(ask(shop))
    worker.call("worker_compared", held)
    one(shop, "SELECT kwdbml.cancel_job(%s)", [str(held.job)])
    with refused("55000"):
        finish(worker, held, measured(0.9, 0.1))
    assert active(shop) == 1
    assert decision(shop, held) is None
