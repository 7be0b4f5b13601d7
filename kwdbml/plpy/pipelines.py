"""Making training pipelines: from an uploaded bundle, or from a built-in algorithm."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kwdbml.errors import DuplicateObject, InvalidParameter, NullNotAllowed
from kwdbml.model import MOST_NAME
from kwdbml.plpy import as_shown, bundles, data, names, parse_json, query
from kwdbml.plpy.settings import check_positive_label

PROBLEM_TYPES = {
    "r": "r", "regression": "r", "b": "b", "binary_classification": "b",
    "m": "m", "multi_classification": "m", "multi_classfication": "m",
}  # fmt: skip
_COLUMN_TYPES = ("STRING", "INT", "FLOAT")
#: an INT target with at most so many different values is taken for classes
_FEW = 20


def import_training_pipeline(
    plpy: Any, name: str, description: str | None, problem_type: str, framework: str, runtime: str,
    input_schema: str, output_schema: str, pipeline_entity: bytes | None, transformer_entity: bytes | None,
) -> str:  # fmt: skip
    """Store a checked bundle under a new name; the name."""
    schema, obj = names.resolve(plpy, "training pipeline", name, to_make=True)
    declared = declaration(plpy, problem_type, framework, runtime, input_schema, output_schema)
    limit = int(query(plpy, "bundle_limit")[0]["bytes"])
    pipeline = bundles.required(pipeline_entity, "pipeline_entity")
    transformer = transformer_entity and bundles.unhexed(transformer_entity)
    scripts = bundles.pipeline_scripts(bundles.names(pipeline, "pipeline_entity", limit))
    if transformer is not None:
        bundles.check_transformer(bundles.names(transformer, "transformer_entity", limit))
    parts = {"pipeline": pipeline, "transformer": transformer}
    given = {k: v for k, v in parts.items() if v is not None}
    declared["content_hash"] = _content_hash(declared, given)
    row = _insert(plpy, schema, obj, {**declared, "description": description or "", "scripts": scripts})
    for kind, content in given.items():
        query(plpy, "attach_bundle", row, kind, content)
    return f"{schema}.{obj}"


def declaration(
    plpy: Any, problem_type: str, framework: str, runtime: str, input_schema: Any, output_schema: Any
) -> dict[str, Any]:
    """What an upload declares of itself, checked."""
    declared: dict[str, Any] = {
        "problem_type": _problem_type(problem_type),
        "features": _columns(input_schema, "input_schema"),
        "target": _columns(output_schema, "output_schema"),
        **_runtime(plpy, framework, runtime),
    }
    _check_distinct(declared["features"] + declared["target"])
    return declared


def create_training_pipeline(
    plpy: Any, name: str, algorithm: str, target: str, train_data: str, problem_type: str | None,
    features: list[str] | None, hyperparameters: Any, description: str | None,
) -> str:  # fmt: skip
    """Store a pipeline of built-in code, its columns read off the data as the caller; the name."""
    from kwdbml.frameworks.algorithms import ALGORITHMS, validate_hyperparameters

    schema, obj = names.resolve(plpy, "training pipeline", name, to_make=True)
    if algorithm is None:
        raise NullNotAllowed("algorithm is NULL", hint="Algorithms: " + ", ".join(ALGORITHMS) + ".")
    if algorithm.lower() not in ALGORITHMS:
        raise InvalidParameter(
            f'unknown algorithm "{as_shown(algorithm)}"', hint="Algorithms: " + ", ".join(ALGORITHMS) + "."
        )
    spec = ALGORITHMS[algorithm.lower()]
    if target is None:
        raise NullNotAllowed("target is NULL", hint="Name the column to predict.")
    found = data.describe(plpy, train_data, "train_data")
    columns = _typed(plpy, found)
    if target not in columns:
        raise InvalidParameter(
            f'target "{target}" is no column of train_data', hint="Columns: " + ", ".join(columns) + "."
        )
    wanted = [{"name": f, "type": _type_of(columns, f, "feature")} for f in _wanted_features(features, target, columns)]
    given = None if problem_type is None else _problem_type(problem_type)
    kind = _judged(plpy, found, target, columns[target], given)
    if kind not in spec.problem_types:
        raise InvalidParameter(
            f"{algorithm} does not fit problem type {kind}",
            hint="It fits "
            + ", ".join(spec.problem_types)
            + "; kwdbml.algorithms() lists all. Give problem_type if the target was misjudged.",
        )
    asked = _object(hyperparameters, "hyperparameters")
    check_positive_label(kind, asked)
    declared = {
        "problem_type": kind,
        "features": wanted,
        "target": [{"name": target, "type": _target_type(columns, target, kind)}],
        "framework": spec.framework,
        "runtime": "builtin",
        "algorithm": algorithm.lower(),
        "hyperparameters": validate_hyperparameters(algorithm.lower(), kind, asked),
    }
    declared["content_hash"] = _content_hash(declared, {})
    _insert(plpy, schema, obj, {**declared, "description": description or "", "scripts": []})
    return f"{schema}.{obj}"


def algorithms(_plpy: Any) -> list[dict[str, Any]]:
    """Rows of kwdbml.algorithms()."""
    from kwdbml.frameworks.algorithms import ALGORITHMS

    return [
        {
            "name": name,
            "description": spec.description,
            "problem_types": [str(t) for t in spec.problem_types],
            "framework": spec.framework,
            "hyperparameters": {n: h.as_json() for n, h in spec.hyperparameters.items()},
        }
        for name, spec in ALGORITHMS.items()
    ]


def _object(value: Any, argument: str) -> dict[str, Any]:
    hint = 'For example {"max_depth": 3}.'
    parsed = {} if value is None else parse_json(value, argument, hint)
    if not isinstance(parsed, dict):
        raise InvalidParameter(f"{argument} is not an object: {as_shown(parsed)}", hint=hint)
    return parsed


def _problem_type(value: str | None) -> str:
    hint = "R or Regression, B or Binary_Classification, M or Multi_Classification."
    if value is None:
        raise NullNotAllowed("problem_type is NULL", hint=hint)
    found = PROBLEM_TYPES.get(value.strip().lower())
    if found is None:
        raise InvalidParameter(f'unknown problem type "{as_shown(value)}"', hint=hint)
    return found


def _runtime(plpy: Any, framework: str | None, runtime: str | None) -> dict[str, str]:
    """The declared pair, normalised; 22023 with the list of the deployment's pairs when it has no such one."""
    for argument, value in (("framework", framework), ("runtime", runtime)):
        if value is None:
            raise NullNotAllowed(f"{argument} is NULL", hint="For example sklearn_1.3 and python_3.8.")
    name = str(framework).strip().lower().replace("scikit-learn", "sklearn")
    python = str(runtime).strip().lower()
    if not query(plpy, "runtime", name, python):
        pairs = query(plpy, "runtimes")
        listed = "; ".join(f"{p['framework']}: {p['runtimes']}" for p in pairs)
        raise InvalidParameter(
            f'no runtime for framework "{framework}" on "{runtime}"',
            hint="An admin can add rows to kwdbml.runtime; see DETAIL for those there are.", detail=listed,
        )  # fmt: skip
    return {"framework": name, "runtime": python}


def _columns(value: str | None, argument: str) -> list[dict[str, str]]:
    """A schema of columns: a JSON array of {name, type}, or one such object."""
    hint = '[{"name": "x", "type": "FLOAT"}, …]; types: ' + ", ".join(_COLUMN_TYPES) + "."
    if value is None:
        raise NullNotAllowed(f"{argument} is NULL", hint=hint)
    given = parse_json(value, argument, hint)
    given = [given] if isinstance(given, dict) else given
    if not isinstance(given, list) or not given:
        raise InvalidParameter(f"{argument} is not an array of columns", hint=hint)
    answer = []
    for item in given:
        fields = {k.strip(): v for k, v in item.items()} if isinstance(item, dict) else {}
        name, kind = fields.get("name"), str(fields.get("type")).strip().upper()
        if not isinstance(name, str) or not name.strip() or kind not in _COLUMN_TYPES:
            raise InvalidParameter(f"{argument} has an invalid column: {as_shown(item)}", hint=hint)
        if len(name.strip().encode()) > MOST_NAME:
            raise InvalidParameter(
                f"{argument} has a column whose name has more than {MOST_NAME} bytes: {as_shown(name)}",
                hint="PostgreSQL's names have 63 bytes at most: no table or query has such a column.",
            )
        answer.append({"name": name.strip(), "type": kind})
    return answer


def _check_distinct(columns: list[dict[str, str]]) -> None:
    seen: set[str] = set()
    for c in columns:
        if c["name"] in seen:
            raise InvalidParameter(
                f'column "{c["name"]}" is declared twice', hint="Features and target have different names."
            )
        seen.add(c["name"])


def _typed(plpy: Any, found: data.DataSet) -> dict[str, dict[str, Any]]:
    """Columns by name, with what each can be to a model."""
    kinds = query(plpy, "feature_types", [c["oid"] for c in found.columns])
    return {c["name"]: {**c, **k} for c, k in zip(found.columns, kinds, strict=True)}


def _wanted_features(features: list[str] | None, target: str, columns: dict[str, Any]) -> list[str]:
    if features is None:
        wanted = [c for c in columns if c != target]
    else:
        wanted = features
        if None in features:
            raise NullNotAllowed("features holds a NULL", hint="Name columns of train_data.")
        if not all(isinstance(f, str) for f in features):
            raise InvalidParameter("features has more than one dimension", hint="Give a plain list: ARRAY['a', 'b'].")
        for f in features:
            if f not in columns or f == target:
                what = "the target" if f == target else "no column of train_data"
                raise InvalidParameter(f'feature "{f}" is {what}', hint="Columns: " + ", ".join(columns) + ".")
        if len(set(features)) < len(features):
            raise InvalidParameter("a feature is named twice", hint="Name each feature once.")
    if not wanted:
        raise InvalidParameter("there is no feature", hint="train_data needs a column besides the target.")
    return wanted


def _type_of(columns: dict[str, dict[str, Any]], name: str, role: str) -> str:
    kind = columns[name]["kind"]
    if kind is None:
        raise InvalidParameter(
            f'column "{name}" of type {columns[name]["type"]} cannot be a {role}',
            hint="Leave it out (features => ARRAY[…], or a query), or cast it in the query.",
        )
    return str(kind)


def _target_type(columns: dict[str, dict[str, Any]], name: str, problem_type: str) -> str:
    kind = _type_of(columns, name, "target")
    if problem_type == "r":
        if kind == "STRING":
            raise InvalidParameter(
                f'target "{name}" is text, a regression needs numbers',
                hint="Cast it in the query, or choose a classification.",
            )
        return "FLOAT"
    return "BOOL" if columns[name]["bool"] else kind


def _judged(plpy: Any, found: data.DataSet, target: str, column: dict[str, Any], given: str | None) -> str:
    """The problem type as given, or from the target's type and values, of which there must be enough to learn it."""
    kind = _type_of({target: column}, target, "target")
    obvious = given or ("b" if column["bool"] else "r" if kind == "FLOAT" else None)
    values = _few_values(plpy, found, target, distinct=obvious != "r")
    if not values:
        raise InvalidParameter(
            "train_data has no rows with a target", hint=f'There are none at all, or "{target}" is NULL in each.'
        )
    if len(values) == 1:
        what = "one row with a target" if obvious == "r" else f'one value in its target "{target}": {values[0]}'
        raise InvalidParameter(f"train_data has only {what}", hint="Nothing can be learnt from that: give more data.")
    inferred = "b" if len(values) == 2 else "r" if kind == "INT" and len(values) > _FEW else "m"
    if obvious == "b" and len(values) > 2:
        raise InvalidParameter(
            f'target "{target}" has more than two values: {", ".join(values[:3])} …',
            hint=f"Binary classification is for two. The problem type could be '{inferred}'.",
        )
    return obvious or inferred


def _few_values(plpy: Any, found: data.DataSet, target: str, *, distinct: bool) -> list[str]:
    """Values of the target, seen as the caller: enough to know whether they are few, no NULL; no NaN if distinct."""
    name = plpy.quote_ident(target)
    which = "DISTINCT " if distinct else ""
    # quoted, and one SELECT of the caller's own
    few = f"SELECT {which}{name} AS v FROM (\n{found.query}\n) AS d WHERE {name} IS NOT NULL LIMIT {_FEW + 1}"  # noqa: S608
    try:
        rows = plpy.execute(f"SELECT pg_catalog.left(v::pg_catalog.text, 40) AS v FROM ({few}) AS f")  # noqa: S608
    except plpy.SPIError as error:
        raise data.explained(error, "train_data") from None
    number = found.names[target]["type"] in ("real", "double precision") or "numeric" in found.names[target]["type"]
    return sorted(r["v"] for r in rows if not (distinct and r["v"] == "NaN" and number))


def _content_hash(declared: dict[str, Any], parts: dict[str, bytes]) -> str:
    digest = hashlib.sha256(json.dumps(declared, sort_keys=True).encode())
    for kind in sorted(parts):
        digest.update(kind.encode() + hashlib.sha256(parts[kind]).digest())
    return digest.hexdigest()


def _insert(plpy: Any, schema: str, name: str, row: dict[str, Any]) -> str:
    """Insert as the caller; 42710 when the name is taken. The new id."""
    try:
        values = [row["description"], row["problem_type"], row["framework"], row["runtime"]]
        values += [json.dumps(row["features"]), json.dumps(row["target"]), row.get("algorithm")]
        values += [json.dumps(row.get("hyperparameters", {})), row["scripts"], row["content_hash"]]
        return str(query(plpy, "insert_pipeline", schema, name, *values)[0]["id"])
    except plpy.SPIError as error:
        if getattr(error, "sqlstate", "") == "23505":
            raise DuplicateObject(
                f"training pipeline {schema}.{name} already exists", hint="Remove it first, or choose another name."
            ) from None
        raise
