"""Submitting jobs: what can be known at the call is checked at the call, as the caller.

The row-level security of ``kwdbml.job`` checks the privileges once more, and the worker checks all of it again when
the job runs: what is done here is for a clear answer now, not for safety.
"""

from __future__ import annotations

import json
from typing import Any

from kwdbml.errors import (
    DuplicateObject,
    InsufficientPrivilege,
    InvalidParameter,
    LimitExceeded,
    NullNotAllowed,
    UndefinedObject,
)
from kwdbml.model import ACTIONS, METRICS, ProblemType, are_columns, objective_groups
from kwdbml.plpy import about_types, as_shown, data, names, query
from kwdbml.plpy.settings import LOOKED_UP, Settings, check_positive_label, check_promotion, parse

MAX_COLUMNS = 1600  # PostgreSQL's MaxHeapAttributeNumber


def train_model(
    plpy: Any,
    pipeline_name: str,
    model_name: str,
    train_data: str,
    new_version: bool | None,
    deploy: bool | None,
    settings: str,
) -> str:
    """Submit a TRAIN job; its id."""
    for argument, value in (("new_version_if_exists", new_version), ("immediately_deploy", deploy)):
        if value is None:
            raise NullNotAllowed(f"{argument} is NULL", hint="Give true or false.")
    checked = parse(settings, "TRAIN")
    pipeline = _pipeline(plpy, pipeline_name, "TRAIN")
    schema, obj = names.resolve(plpy, "model", model_name, to_make=True)
    # what goes live needs UPDATE, whatever decides it; being compared is being evaluated
    needed = ["CREATE", *(["UPDATE"] if deploy or checked.promote else []), *(["EVALUATE"] if checked.promote else [])]
    _check_model_for_training(plpy, schema, obj, pipeline, bool(new_version), needed)
    _check_hyperparameters(pipeline, checked)
    check_promotion(checked, pipeline["problem_type"], [t["name"] for t in json.loads(pipeline["target"])])
    found = data.describe(plpy, train_data, "train_data")
    _check_columns(plpy, found, json.loads(pipeline["features"]) + json.loads(pipeline["target"]), "train_data")
    shown = {"train_data": train_data, "new_version_if_exists": new_version, "immediately_deploy": deploy}
    return _insert(plpy, "TRAIN", found, checked, shown, pipeline, f"{schema}.{obj}", None)


def evaluate_model(
    plpy: Any,
    pipeline_name: str | None,
    model_name: str,
    version: int | None,
    evaluate_data: str,
    objectives: str,
    settings: str,
) -> str:
    """Submit an EVALUATE job; its id."""
    checked = parse(settings, "EVALUATE")
    pipeline = _pipeline(plpy, pipeline_name, "SELECT") if pipeline_name else None
    model = _model_version(plpy, model_name, version, "EVALUATE")
    target = json.loads(model["target"])
    _check_fits(pipeline, model)
    own_evaluator = pipeline is not None and "evaluate" in pipeline["scripts"]
    _check_objectives(objectives, model["problem_type"], len(target), own_evaluator)
    check_positive_label(model["problem_type"], checked.hyperparameters)
    found = data.describe(plpy, evaluate_data, "evaluate_data")
    _check_columns(plpy, found, json.loads(model["features"]) + target, "evaluate_data")
    shown = {"evaluate_data": evaluate_data, "objectives": objectives}
    return _insert(plpy, "EVALUATE", found, checked, shown, pipeline, model["name"], model)


def batch_predict(
    plpy: Any, pipeline_name: str | None, model_name: str, version: int | None, batch_data: str,
    result_table: str, action_if_exists: str, settings: str,
) -> str:  # fmt: skip
    """Submit a BATCH_PREDICT job; its id."""
    checked = parse(settings, "BATCH_PREDICT")
    pipeline = _pipeline(plpy, pipeline_name, "SELECT") if pipeline_name else None
    model = _model_version(plpy, model_name, version, "PREDICT")
    _check_fits(pipeline, model)
    check_positive_label(model["problem_type"], checked.hyperparameters)
    action = _action(action_if_exists)
    found = data.describe(plpy, batch_data, "batch_data")
    _check_columns(plpy, found, json.loads(model["features"]), "batch_data")
    schema, table = _result_table(plpy, result_table)
    _check_result(plpy, found, json.loads(model["target"]), schema, table, action)
    shown = {
        "batch_data": batch_data, "result_table": f"{plpy.quote_ident(schema)}.{plpy.quote_ident(table)}",
        "action_if_exists": action,
    }  # fmt: skip
    return _insert(plpy, "BATCH_PREDICT", found, checked, shown, pipeline, model["name"], model)


def _pipeline(plpy: Any, name: str, privilege: str) -> dict[str, Any]:
    """The pipeline under a name, with the privilege checked: 42704 when invisible, else 42501."""
    schema, obj = names.resolve(plpy, "training pipeline", name)
    rows = query(plpy, "pipeline", schema, obj, privilege)
    if not rows:
        raise UndefinedObject(
            f"no such training pipeline: {schema}.{obj}",
            hint="SELECT * FROM kwdbml.show_training_pipelines() lists those you may see.",
        )
    if not rows[0]["allowed"]:
        raise InsufficientPrivilege(
            f"permission denied for training pipeline {schema}.{obj}",
            hint=f"You need {privilege} on it; its creator can grant that.",
        )
    _check_declared(rows[0], "training pipeline")
    return rows[0]


def _model_version(plpy: Any, name: str, version: int | None, privilege: str) -> dict[str, Any]:
    """The wanted version (None: the active, 0: the newest) of a model, with the privilege checked."""
    schema, obj = names.resolve(plpy, "model", name)
    if version is not None and version < 0:
        raise InvalidParameter(
            f"invalid model version {version}", hint="1, 2, 3 …; 0 is the newest, NULL the active one."
        )
    rows = query(plpy, "model_version", schema, obj, privilege, version)
    if not rows:
        raise UndefinedObject(
            f"no such model: {schema}.{obj}", hint="SELECT * FROM kwdbml.show_models() lists those you may see."
        )
    if not rows[0]["allowed"]:
        raise InsufficientPrivilege(
            f"permission denied for model {schema}.{obj}",
            hint=f"You need {privilege} on it; its creator can grant that.",
        )
    if rows[0]["version_id"] is None:
        raise UndefinedObject(
            f"model {schema}.{obj} has no version {version}",
            hint="SELECT * FROM kwdbml.show_model(name) lists its versions.",
        )
    _check_declared(rows[0], "model")
    return rows[0]


def _check_declared(row: dict[str, Any], kind: str) -> None:
    """22023 for what its creator has written by hand, past import_model and import_training_pipeline."""
    for key in ("features", "target"):
        if not are_columns(json.loads(row[key])):
            raise InvalidParameter(
                f"{key} of {kind} {row['name']} is not a list of columns",
                hint="Its creator has to make it again, with a function of kwdbml.",
            )


def _check_fits(pipeline: dict[str, Any] | None, model: dict[str, Any]) -> None:
    differs = _differences(pipeline, model) if pipeline else ""
    if pipeline and differs:
        raise InvalidParameter(
            f"training pipeline {pipeline['name']} does not fit model {model['name']}: {differs}",
            hint="Features and target of both must have the same names, types and order; the pipeline may also be ''.",
        )


def _differences(pipeline: dict[str, Any], model: dict[str, Any]) -> str:
    """In which columns a pipeline differs from a model, in words; empty: in none."""
    differs = [k for k in ("features", "target") if json.loads(pipeline[k]) != json.loads(model[k])]
    return f"its {' and '.join(differs)} {'differs' if differs == ['target'] else 'differ'}" if differs else ""


def _check_model_for_training(
    plpy: Any, schema: str, obj: str, pipeline: dict[str, Any], new_version: bool, needed: list[str]
) -> None:
    """What the landing will check too."""
    model, shown = query(plpy, "model_to_extend", schema, obj)[0], f"{schema}.{obj}"
    if not model["visible"] and not model["taken"]:
        return
    if not new_version:
        cure = "Pass new_version_if_exists => true, or" if model["visible"] else "It is not yours to extend:"
        raise DuplicateObject(f"model {shown} already exists", hint=f"{cure} choose another name.")
    lacking = [privilege for privilege in needed if privilege not in (model["rights"] or ())]
    if lacking:
        raise InsufficientPrivilege(
            f"permission denied for model {shown}",
            hint=f"You need {' and '.join(lacking)} on it; its creator can grant that. Or choose another name.",
        )
    differs = _differences(pipeline, model)
    if model["problem_type"] != pipeline["problem_type"]:
        differs = f'its problem type is "{pipeline["problem_type"]}", not "{model["problem_type"]}"'
    if differs:
        raise InvalidParameter(
            f"training pipeline {pipeline['name']} does not fit model {shown}: {differs}",
            hint="A new version needs the model's problem type, features and target: names, types, order.",
        )


def _check_hyperparameters(pipeline: dict[str, Any], settings: Settings) -> None:
    if not settings.hyperparameters:
        return
    check_positive_label(pipeline["problem_type"], settings.hyperparameters)
    if pipeline["algorithm"]:
        from kwdbml.frameworks.algorithms import validate_hyperparameters

        validate_hyperparameters(pipeline["algorithm"], pipeline["problem_type"], settings.hyperparameters)


def _check_columns(plpy: Any, found: data.DataSet, wanted: list[dict[str, str]], argument: str) -> None:
    """Every wanted column is there, by name, and its type can become the declared one."""
    missing = [c["name"] for c in wanted if c["name"] not in found.names]
    if missing:
        raise InvalidParameter(
            f"{argument} lacks column" + ("s " if len(missing) > 1 else " ") + ", ".join(f'"{m}"' for m in missing),
            hint="It has: " + ", ".join(found.names) + ". Columns are found by name.",
        )
    oids, types = [found.names[c["name"]]["oid"] for c in wanted], [c["type"] for c in wanted]
    casts = about_types(plpy, "feature_casts", oids, types)
    for column, cast in zip(wanted, casts, strict=True):
        if cast["staged"] is None:
            kind = found.names[column["name"]]["type"]
            raise InvalidParameter(
                f'column "{column["name"]}" of type {kind} in {argument} cannot be read as {column["type"]}',
                hint="Cast it in the query.",
            )


def _check_objectives(text: str | None, problem_type: str, targets: int, anything: bool) -> None:
    """22023 for a name that the built-in evaluator does not know; a pipeline's own one may take ``anything``."""
    known = METRICS[ProblemType(problem_type)]
    hint = "Metric names separated by commas" + (f": {', '.join(known)}." if not anything else ".")
    if text is None:
        raise NullNotAllowed("objectives is NULL", hint=hint)
    if not text.strip():
        raise InvalidParameter("objectives is empty", hint=hint)
    groups = objective_groups(text)
    for metric in (m for g in groups for m in g):
        if not metric:
            raise InvalidParameter(f'an empty name in objectives "{as_shown(text)}"', hint=hint)
        if metric.lower() not in known and not anything:
            raise InvalidParameter(f'unknown objective "{as_shown(metric)}" for problem type {problem_type}', hint=hint)
    if len(groups) not in (1, targets):
        raise InvalidParameter(
            f"{len(groups)} groups of objectives for {targets} target column{'s' if targets > 1 else ''}",
            hint="One group per target, separated by |.",
        )


def _action(value: str | None) -> str:
    if value is None:
        raise NullNotAllowed("action_if_exists is NULL", hint="replace, append or error.")
    if value.strip().lower() not in ACTIONS:
        raise InvalidParameter(f'unknown action_if_exists "{as_shown(value)}"', hint="replace, append or error.")
    return value.strip().lower()


def _result_table(plpy: Any, name: str | None) -> tuple[str, str]:
    if name is None:
        raise NullNotAllowed("result_table is NULL", hint="Name a table: t or schema.t.")
    parts = data.relation_parts(name)
    here = query(plpy, "place", None)[0]
    if parts and len(parts) == 3 and parts[0] == here["db"]:
        parts = parts[1:]
    if not parts or len(parts) > 2 or any(len(p.encode()) > 63 for p in parts):
        raise InvalidParameter(
            f'invalid result table name "{as_shown(name)}"',
            hint="Name a table: t or schema.t, parts in double quotes where needed.",
        )
    if len(parts) == 2:
        return parts[0], parts[1]
    if here["current"] is None:
        raise InvalidParameter(f'no schema is selected for result table "{name}"', hint="Name its schema: schema.t.")
    return here["current"], parts[0]


def _check_result(
    plpy: Any, found: data.DataSet, target: list[dict[str, str]], schema: str, table: str, action: str
) -> None:
    """The result table can be made or written, and can hold every column as it is."""
    if len(found.columns) + len(target) > MAX_COLUMNS:
        raise LimitExceeded(
            f"the result would have {len(found.columns) + len(target)} columns, a table holds {MAX_COLUMNS}",
            hint="Select fewer columns in batch_data.",
        )
    carried = about_types(plpy, "carried", [c["oid"] for c in found.columns])
    for column, how in zip(found.columns, carried, strict=True):
        if how["staged"] is None:
            raise InvalidParameter(
                f'column "{column["name"]}" of type {column["type"]} cannot be carried to the result table',
                hint="Leave it out, or cast it to text or jsonb in the query.",
            )
    query(plpy, "check_result_table", schema, table, json.dumps(found.columns), json.dumps(target), action)  # fmt: skip


def _insert(
    plpy: Any, kind: str, found: data.DataSet, settings: Settings, shown: dict[str, Any],
    pipeline: dict[str, Any] | None, model_name: str, model: dict[str, Any] | None,
) -> str:  # fmt: skip
    """Insert the job as the caller and wake the workers when the transaction commits; its id."""
    what = [kind, pipeline and pipeline["name"], pipeline and pipeline["id"], model_name]
    what += [model and model["version"], model and model["version_id"], json.dumps({**shown, **settings.shown})]
    what += [found.query, found.relation, json.dumps(found.columns)]
    if not settings.shown.keys().isdisjoint(LOOKED_UP):
        query(plpy, "placement", json.dumps(settings.shown), settings.engine)
    how = [settings.engine, settings.queue, settings.priority, json.dumps(settings.labels)]
    how += [json.dumps(settings.annotations), settings.retries]
    try:
        job_id = str(query(plpy, "insert_job", *what, *how)[0]["id"])
    except plpy.SPIError as error:
        # the row-level security of kwdbml.job finds no right on what is gone: a foreign key would come later
        if getattr(error, "sqlstate", "") not in ("23503", "42501"):
            raise
        gone = [f"version {model['version']} of model {model_name}"] if model else []
        gone += [f"training pipeline {pipeline['name']}"] if pipeline else []
        raise UndefinedObject(
            f"{' or '.join(gone)} was removed, or your right on it revoked, meanwhile",
            hint="Try again with what kwdbml.show_models() or show_training_pipelines() lists.",
        ) from None
    if settings.env:
        query(plpy, "insert_env", job_id, json.dumps(settings.env))
    return job_id
