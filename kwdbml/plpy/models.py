"""Making versions of models from uploaded bundles."""

from __future__ import annotations

import json
import math
from typing import Any

from kwdbml.errors import InvalidParameter
from kwdbml.plpy import bundles, names, parse_json, pipelines, query

_METRICS_HINT = 'For example [{"objective": "f1", "score": 0.91}].'


def import_model(
    plpy: Any, name: str, description: str | None, problem_type: str, framework: str, runtime: str,
    input_schema: Any, output_schema: Any, metrics: Any,
    model_entity: bytes | None, transformer_entity: bytes | None,
) -> str:  # fmt: skip
    """Store a checked bundle as a version of a model; ``schema.name,version``."""
    schema, obj = names.resolve(plpy, "model", name, to_make=True)
    declared = pipelines.declaration(plpy, problem_type, framework, runtime, input_schema, output_schema)
    limit = int(query(plpy, "bundle_limit")[0]["bytes"])
    model = bundles.required(model_entity, "model_entity")
    runs_as = query(plpy, "runtime", declared["framework"], declared["runtime"])[0]["runs_as"]
    bundles.check_model(bundles.names(model, "model_entity", limit), runs_as)
    transformer = transformer_entity and bundles.unhexed(transformer_entity)
    if transformer is not None:
        bundles.check_transformer(bundles.names(transformer, "transformer_entity", limit))
    asked = {
        **declared, "schema": schema, "name": obj, "description": description or "", "metrics": _metrics(metrics),
    }  # fmt: skip
    return str(json.loads(query(plpy, "import_model", json.dumps(asked), [model, transformer])[0]["answer"]))


def _metrics(value: Any) -> list[dict[str, Any]] | None:
    """Metrics as they are given, blanks around keys trimmed; scores that are no finite number become null."""
    found = parse_json(value, "metrics", _METRICS_HINT)
    if found is None:
        return None
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise InvalidParameter("metrics is not an array of objects", hint=_METRICS_HINT)
    return [_metric(m) for m in found]


def _metric(value: Any) -> dict[str, Any]:
    metric = {k.strip(): v for k, v in value.items()} if isinstance(value, dict) else {}
    if not isinstance(metric.get("objective"), str) or "score" not in metric:
        raise InvalidParameter(f"metrics holds {json.dumps(value)[:100]}, which is no metric", hint=_METRICS_HINT)
    score = metric["score"]
    try:
        number = None if score is None else float(score)
    except (TypeError, ValueError):
        raise InvalidParameter(
            f'metric "{metric["objective"]}" has score {json.dumps(score)[:100]}, which is no number',
            hint=_METRICS_HINT,
        ) from None
    if number is not None and not math.isfinite(number):
        metric["score"] = None
    return metric
