"""Reads a worker's settings: flags over environment over a file over defaults, as one validated object.

The file is TOML: the worker's own settings at the top, those of the Kubeflow engine below [kubeflow] and [s3], which
are ``KWDBML_KFP_…`` and ``KWDBML_S3_…`` in the environment. What is wrong becomes one error that names the setting,
its value unless it is a secret, and the cure.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from kwdbml.engines.kfp import settings as kfp
from kwdbml.engines.kfp.settings import KubeflowSettings, S3Settings
from kwdbml.errors import InvalidParameter
from kwdbml.settings import WorkerSettings

_SECTIONS: dict[str, type[BaseModel]] = {"kubeflow": KubeflowSettings, "s3": S3Settings}
_PREFIXES = {"kubeflow": kfp.KFP_PREFIX, "s3": kfp.S3_PREFIX}
_FLAGS = {"concurrency": "--concurrency", "scratch": "--scratch", "queues": "--queue", "engines": "--engine"}
_PASSWORD = re.compile(r"//.*@")  # of an address
_WHERE_CONFIG = "Name a file that the worker may read with --config or KWDBML_CONFIG."


def is_of_kubeflow(error: InvalidParameter) -> bool:
    """Whether what is wrong are settings of the Kubeflow engine or of its store."""
    return re.match(r"(setting )?(kubeflow|s3)\b", error.message) is not None


def unknown_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that are most likely slips of a worker's setting, with its name; others may be somebody else's."""
    known = {"KWDBML_" + name.upper() for name in WorkerSettings.model_fields} | {"KWDBML_CONFIG", "KWDBML_ALIVE_FILE"}
    ours = (
        name for name in environ if name.startswith("KWDBML_") and not name.startswith((kfp.KFP_PREFIX, kfp.S3_PREFIX))
    )
    close = {name: difflib.get_close_matches(name, known, 1, cutoff=0.85) for name in ours if name not in known}
    return {name: found[0] for name, found in close.items() if found}


def load(given: Mapping[str, Any], config: Path | None = None) -> WorkerSettings:
    """``given`` (flags; ``kubeflow`` and ``s3`` as dictionaries) over the environment over the file over defaults."""
    try:
        return _load(dict(given), config or _config_of_environment())
    except ValidationError as error:
        raise _explained(error) from None
    except SettingsError as error:
        raise InvalidParameter(
            f"environment: {error}", hint='Lists are written as JSON, for instance ["a", "b"].'
        ) from None
    except kfp.UnknownVariable as error:
        cure = f"Did you mean {error.close}?" if error.close else "Its names are those of docs/kubeflow.md."
        raise InvalidParameter(f"environment variable {error.name} is no setting", hint=cure) from None


def _config_of_environment() -> Path | None:
    return Path(text) if (text := os.environ.get("KWDBML_CONFIG")) else None


def _load(given: dict[str, Any], config: Path | None) -> WorkerSettings:
    file = _read(config) if config else {}
    kubeflow: dict[str, Any] = {}
    for source in (_nested(file), kfp.from_environment(), _nested(given)):
        kubeflow = {**kubeflow, **source, "s3": {**kubeflow.get("s3", {}), **source.get("s3", {})}}
    own = {**file, **EnvSettingsSource(WorkerSettings)(), **given}
    engines = own.get("engines")
    wanted = kubeflow.get("host") if engines is None else "kubeflow" in engines
    return WorkerSettings(**{**own, "kubeflow": kubeflow if wanted else None})


def _nested(source: dict[str, Any]) -> dict[str, Any]:
    """Takes what is the Kubeflow engine's out of ``source``, with the store's settings inside."""
    return {**source.pop("kubeflow", {}), "s3": source.pop("s3", {})}


def _read(config: Path) -> dict[str, Any]:
    """The file's settings, by known names only: a slip there would otherwise be a default, silently."""
    try:
        found = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidParameter(f"configuration {config}: {error.strerror}", hint=_WHERE_CONFIG) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"configuration {config} is no TOML: {error}", hint="See docs/kubeflow.md.") from None
    _known(config, "", found, [*WorkerSettings.model_fields, "s3"])
    for section, model in _SECTIONS.items():
        inner = found.get(section, {})
        if not isinstance(inner, dict):
            raise InvalidParameter(f"configuration {config}: {section} is no section", hint=f"Write [{section}].")
        _known(config, f"{section}.", inner, [name for name in model.model_fields if name != "s3"])
    return found


def _known(config: Path, section: str, found: Mapping[str, Any], names: list[str]) -> None:
    for name in found.keys() - names:
        close = difflib.get_close_matches(name, names, 1)
        cure = f"Did you mean {section}{close[0]}?" if close else f"Known are {', '.join(sorted(names))}."
        raise InvalidParameter(f"configuration {config}: there is no setting {section}{name}", hint=cure)


def parse_override(text: str) -> tuple[str, str, str]:
    """SECTION.NAME=VALUE of ``--set``; secrets are refused, for arguments are for everybody on the machine to see."""
    path, given, value = text.partition("=")
    section, _, name = path.partition(".")
    model = _SECTIONS.get(section)
    known = sorted(model.model_fields.keys() - {"s3"}) if model else ["kubeflow.…", "s3.…"]
    if model is not None and name in known and given and not value:
        raise InvalidParameter(
            f'"{text}" gives no value', hint="Leave it out for what is set elsewhere, or the default."
        )
    if not value or model is None or name not in known:
        raise InvalidParameter(
            f'"{text}" is not SECTION.NAME=VALUE of a known setting', hint=f"Known are {', '.join(known)}."
        )
    if _is_secret((section, name)):
        raise InvalidParameter(
            f"setting {path} is a secret, and arguments are for everybody on the machine to see",
            hint=f"Set {_variable((section, name))} or give it in a file (--config).",
        )
    return section, name, value


def overrides(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """All ``--set`` as what ``load`` is given."""
    found: dict[str, dict[str, str]] = {}
    for section, name, value in map(parse_override, texts):
        found.setdefault(section, {})[name] = value
    return found


def _place(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Where a setting stands for a user: (name,), ("kubeflow", name) or ("s3", name)."""
    names = tuple(str(part) for part in loc if isinstance(part, str))
    return names[1:] if names[:2] == ("kubeflow", "s3") and len(names) > 2 else names


def _field(place: tuple[str, ...]) -> Any:
    model = _SECTIONS.get(place[0], WorkerSettings) if len(place) > 1 else WorkerSettings
    return model.model_fields.get(place[-1])


def _is_secret(place: tuple[str, ...]) -> bool:
    field = _field(place)
    if field is None:
        return False
    parts = (field.annotation, *get_args(field.annotation))  # SecretStr, or one of it and None, perhaps annotated
    return any(SecretStr in (part, *get_args(part)) for part in parts)


def _variable(place: tuple[str, ...]) -> str:
    return (_PREFIXES.get(place[0], "KWDBML_") if len(place) > 1 else "KWDBML_") + place[-1].upper()


def _explained(error: ValidationError) -> InvalidParameter:
    """The first fault: the setting, its value unless it is a secret, what is wrong, and where to set it."""
    first = error.errors(include_url=False)[0]
    place = _place(first["loc"])
    if not place or place in {("kubeflow",), ("kubeflow", "s3")}:
        what = ".".join(place) or "settings"
        return InvalidParameter(f"{what}: {_reason(first['msg'])}", hint="See docs/kubeflow.md.")
    value = first["input"]
    told = isinstance(value, str | int | float | bool | Path) and not _is_secret(place) and first["type"] != "missing"
    reason = "is missing" if first["type"] == "missing" else _reason(first["msg"])
    shown = f' "{_PASSWORD.sub("//…@", str(value))}"' if told else ""
    return InvalidParameter(f"setting {'.'.join(place)}{shown}: {reason}", hint=_cure(place))


def _reason(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f'{text}, in a variable as JSON: ["a", "b"]' if text == "Input should be a valid list" else text


def _cure(place: tuple[str, ...]) -> str:
    field = _field(place)
    about = f"{_capital(field.description)}. " if field is not None and field.description else ""
    ways = [f"set {_variable(place)}"]
    if len(place) > 1:
        ways.append(f"write it below [{place[0]}] of the file of --config")
    if len(place) > 1 and not _is_secret(place):
        ways.append(f"pass --set {'.'.join(place)}=…")
    if len(place) == 1 and place[0] in _FLAGS:
        ways.append(f"pass {_FLAGS[place[0]]}")
    return f"{about}{_capital(', or '.join(ways))}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
