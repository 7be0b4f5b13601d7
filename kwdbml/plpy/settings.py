"""The ``settings`` argument of the submission functions: what is allowed, and what it becomes in the job's row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kwdbml import quantity
from kwdbml.errors import InvalidParameter
from kwdbml.model import JobType, ProblemType, reported_objectives
from kwdbml.plpy import as_shown, filesystems, parse_json

ENGINES = ("local", "kubeflow")
#: Keys whose names, or other words, only the database can look up: ``kwdbml._placement`` does.
LOOKED_UP = ("flavour", "image", "fs", "extraFS")
PRIORITIES = {"HIGH": 1, "NORMAL": 0, "LOW": -1}
_HINT = 'For example {"queue": "night"}.'


@dataclass
class Settings:
    """Checked settings; ``shown`` is what stands in the job's row (of ``env`` only the names)."""

    shown: dict[str, Any] = field(default_factory=dict)
    engine: str | None = None
    queue: str = "default"
    priority: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    retries: int = 0
    env: dict[str, str] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    promote: str | None = None
    objective: str | None = None
    image: str | None = None
    flavour: dict[str, Any] = field(default_factory=dict)  # the amounts of the request's own, {} where a name counts
    fs: filesystems.FileSystem | None = None
    extra_fs: list[filesystems.FileSystem] = field(default_factory=list)

    @property
    def file_systems(self) -> list[filesystems.FileSystem]:
        return [*([self.fs] if self.fs else []), *self.extra_fs]


def _json(value: Any) -> str:
    return as_shown(json.dumps(value, ensure_ascii=False))


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 1000:
        raise InvalidParameter(
            f"settings.{key} is not a name: {_json(value)}", hint="Give a text of 1 to 1000 characters."
        )
    return value


def _engine(key: str, value: Any) -> str:
    name = _text(key, value).lower()
    if name not in ENGINES:
        raise InvalidParameter(f"unknown engine {_json(value)}", hint=f"Engines: {', '.join(ENGINES)}.")
    return name


def _priority(_key: str, value: Any) -> int:
    name = str(value).upper()
    if name not in PRIORITIES:
        raise InvalidParameter(f"unknown priority {_json(value)}", hint="Priorities: HIGH, NORMAL, LOW.")
    return PRIORITIES[name]


def texts(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise InvalidParameter(
            f"settings.{key} is not an object of strings: {_json(value)}",
            hint=f'For example {{"{key}": {{"a": "b"}}}}.',
        )
    return value


def _env(key: str, value: Any) -> dict[str, str]:
    env = texts(key, value)
    for name in env:
        if not name or "=" in name or "\0" in name or "\0" in env[name]:
            raise InvalidParameter(
                f'invalid environment variable name "{name}"', hint="A name holds no = and is not empty."
            )
    return env


def _object(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidParameter(f"settings.{key} is not an object: {_json(value)}", hint="Give an object, such as {}.")
    return value


def _flavour(key: str, value: Any) -> dict[str, Any]:
    flavour = _object(key, value)
    unknown = set(flavour) - {"name", "cpu", "mem", "scalarResources"}
    if unknown:
        raise InvalidParameter(
            f'unknown key "{min(unknown)}" in settings.flavour', hint="Keys: name, cpu, mem, scalarResources."
        )
    name = flavour.get("name", "")
    if name != "":
        _text("flavour.name", name)
    if "cpu" in flavour:
        quantity.cores(flavour["cpu"])
    if "mem" in flavour:
        quantity.memory(flavour["mem"])
    for resource, amount in _object("flavour.scalarResources", flavour.get("scalarResources", {})).items():
        if not re.fullmatch(r"\d{1,18}([kMGTPE]i?|Ki)?", str(amount), re.ASCII):
            raise InvalidParameter(
                f'settings.flavour.scalarResources: "{as_shown(resource)}" has no amount: {as_shown(amount)}',
                hint='For example {"nvidia.com/gpu": 1}.',
            )
    return flavour if name in ("", "customFlavour") else {}


def _ttl(_key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise InvalidParameter(
            f"settings.ttl is not a number of seconds: {_json(value)}", hint="0 or less means no limit."
        )
    return value


def _retries(_key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100:
        raise InvalidParameter(
            f"settings.retries is not a whole number from 0 to 100: {_json(value)}", hint="0 means: no second try."
        )
    return value


def _promote(_key: str, value: Any) -> str:
    if not isinstance(value, str) or value.lower() != "if_better":
        raise InvalidParameter(
            f"unknown settings.promote {_json(value)}",
            hint='It is "if_better"; leave it out to decide by immediately_deploy alone.',
        )
    return value.lower()


def _objective(key: str, value: Any) -> str:
    """A metric's name is one in any case; the target before it is a column's, with a case of its own."""
    target, dot, metric = _text(key, value).rpartition(".")
    return target + dot + metric.lower()


def _file_system(key: str, value: Any) -> filesystems.FileSystem:
    return filesystems.one(f"settings.{key}", value)


def _file_systems(key: str, value: Any) -> list[filesystems.FileSystem]:
    return filesystems.several(f"settings.{key}", value)


_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "engine": _engine, "queue": _text, "priority": _priority, "labels": texts, "annotations": texts,
    "flavour": _flavour, "env": _env, "image": _text, "ttl": _ttl, "retries": _retries, "hyperparameters": _object,
    "promote": _promote, "objective": _objective, "fs": _file_system, "extraFS": _file_systems,
}  # fmt: skip


#: What a job's row has in one spelling, because SQL and the step compare it.
_FOLDED = ("promote", "objective")


def parse(value: Any, kind: str) -> Settings:
    """Checked settings of a call that makes this kind of job. 22023 names the key and the cure."""
    given = parse_json("{}" if value is None else value, "settings", _HINT)
    if not isinstance(given, dict):
        raise InvalidParameter("settings is not an object", hint=_HINT)
    answer = Settings()
    for key, setting in given.items():
        if key not in _KEYS:
            raise InvalidParameter(f'unknown key "{key}" in settings', hint="Keys: " + ", ".join(_KEYS) + ".")
        checked = _KEYS[key](key, setting)
        field_name = "extra_fs" if key == "extraFS" else key
        if hasattr(answer, field_name):
            setattr(answer, field_name, checked)
        answer.shown[key] = sorted(checked) if key == "env" else checked if key in _FOLDED else setting
    _check_complete(answer, kind)
    return answer


def _check_complete(settings: Settings, kind: str) -> None:
    """``promote`` and ``objective`` belong together, and to trainings; file systems have places of their own."""
    filesystems.check_apart(settings.file_systems)
    for key in ("promote", "objective"):
        if getattr(settings, key) is not None and kind != JobType.TRAIN:
            raise InvalidParameter(f"settings.{key} is for train_model", hint="Leave it out.")
    if settings.promote and not settings.objective:
        raise InvalidParameter(
            "settings.promote needs an objective",
            hint='Name the metric that decides, for example {"promote": "if_better", "objective": "f1"}.',
        )
    if settings.objective and not settings.promote:
        raise InvalidParameter(
            "settings.objective does nothing without promote",
            hint='Add "promote": "if_better", or leave it out: a training reports its metrics anyway.',
        )


def check_promotion(settings: Settings, problem_type: str, targets: list[str]) -> None:
    """22023 for an objective that the built-in evaluator, which measures both versions, does not report."""
    if settings.objective is None:
        return
    known = reported_objectives(ProblemType(problem_type), targets)
    if settings.objective not in known:
        raise InvalidParameter(
            f'unknown objective "{as_shown(settings.objective)}" for problem type {problem_type}',
            hint=as_shown(f"Objectives: {', '.join(known)}") + ".",
        )


def check_positive_label(problem_type: str, hyperparameters: dict[str, Any]) -> None:
    """22023 where nothing would ever look at it."""
    if "positive_label" in hyperparameters and problem_type != "b":
        raise InvalidParameter(
            f'positive_label is for binary classification, the problem type is "{problem_type}"',
            hint="Leave it out of the hyperparameters.",
        )
