"""What a job's row asks for, checked again: anybody may INSERT a row by hand, with any JSON in it.

A row's request columns never change, so once, before anything is launched, is enough.
"""

from __future__ import annotations

from typing import Any

from kwdbml.errors import InvalidParameter
from kwdbml.model import ACTIONS, are_columns
from kwdbml.plpy.settings import Settings, check_promotion, parse

_MOST_DEPTH = 100  # Python's own functions for JSON and text stop at some 900
_HINT = "Use kwdbml.train_model, evaluate_model or batch_predict."
#: The arguments of each call that its row keeps beside the settings.
_ARGUMENTS: dict[str, dict[str, type]] = {
    "TRAIN": {"train_data": str, "new_version_if_exists": bool, "immediately_deploy": bool},
    "EVALUATE": {"evaluate_data": str, "objectives": str},
    "BATCH_PREDICT": {"batch_data": str, "result_table": str, "action_if_exists": str},
}


def settings_of(spec: dict[str, Any]) -> Settings:
    """The settings of a job as ``worker_spec`` answers it. InvalidParameter for what no call of ours has written."""
    given, arguments = spec["settings"], _ARGUMENTS[spec["type"]]
    if not isinstance(given, dict):
        raise InvalidParameter("the settings of the job are not an object", hint=_HINT)
    if not _shallow(spec, _MOST_DEPTH):
        raise InvalidParameter("the settings of the job are nested too deeply", hint=_HINT)
    for name, kind in arguments.items():
        if name in given and not isinstance(given[name], kind):
            raise InvalidParameter(f"the job's {name} is of another type: {str(given[name])[:200]}", hint=_HINT)
    if spec["type"] == "BATCH_PREDICT" and given.get("action_if_exists") not in ACTIONS:
        raise InvalidParameter(
            f'unknown action_if_exists "{given.get("action_if_exists")}"', hint="replace, append or error."
        )
    for name in ("features", "target"):
        if not are_columns(spec[name]):
            raise InvalidParameter(
                f"{name} of the job is not a list of columns",
                hint="Use kwdbml.import_training_pipeline or import_model.",
            )
    # of env, the row has only the names
    settings = parse({k: v for k, v in given.items() if k not in arguments} | {"env": spec["env"]}, spec["type"])
    if (given.get("promote"), given.get("objective")) != (settings.promote, settings.objective):
        raise InvalidParameter("promote and objective of the job are not in lower case", hint=_HINT)
    check_promotion(settings, spec["problem_type"], [column["name"] for column in spec["target"]])
    return settings


def _shallow(value: Any, left: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left > 0 and all(_shallow(each, left - 1) for each in inside)
