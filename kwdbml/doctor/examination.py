"""All checks in order: the settings first, then whatever they name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from psycopg import Error as PsycopgError
from psycopg.conninfo import conninfo_to_dict

from kwdbml import configuration
from kwdbml.doctor.checks import Check, Examination, Finding, Outcome, failed
from kwdbml.doctor.database import Database
from kwdbml.doctor.machine import Machine
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.errors import EngineError, InvalidParameter
from kwdbml.settings import WorkerSettings

#: What is left out to look at the rest when settings are wrong, the least first.
_WITHOUT: tuple[dict[str, Any], ...] = ({"engines": ["local"]}, {"dsn": ""}, {"dsn": "", "engines": ["local"]})


def examine(given: Mapping[str, Any], config: Path | None = None) -> Iterator[Finding]:
    """Look at everything; ``given`` and ``config`` as for ``configuration.load``. Findings come as they are found."""
    settings, findings, left_out = _read(given, config)
    examination = Examination(_secrets(settings))
    yield from map(examination.discreet, findings)
    if settings is None:
        return
    with contextlib.ExitStack() as stack:
        if "dsn" not in left_out:
            database = Database(settings.dsn.get_secret_value(), allow_superuser=settings.allow_superuser)
            stack.callback(database.close)
            yield from examination.run(database.checks())
        yield from examination.run(Machine(settings).checks())
        if settings.kubeflow is not None:
            yield from examination.run(_of_kubeflow(settings.kubeflow, stack))


def _of_kubeflow(settings: KubeflowSettings, stack: contextlib.ExitStack) -> list[Check]:
    """Its clients are an extra of the package."""
    try:
        from kwdbml.engines.kfp.checks import KubeflowChecks
    except ImportError as error:
        missing = EngineError(f"{error.name} is not installed", hint="pip install 'kwdbml[kubeflow]'")
        return [Check("kubeflow.packages", partial(_raise, missing))]
    checks = KubeflowChecks(settings)
    stack.callback(checks.close)
    return checks.checks()


def _raise(error: EngineError) -> str:
    raise error


def _read(given: Mapping[str, Any], config: Path | None) -> tuple[WorkerSettings | None, list[Finding], set[str]]:
    """The settings, or as much of them as can be used; what is wrong with the rest; and what was left out for that."""
    findings: list[Finding] = []
    for without in ({}, *_WITHOUT):
        try:
            settings = configuration.load({**given, **without}, config)
        except InvalidParameter as error:
            finding = failed("kubeflow.settings" if configuration.is_of_kubeflow(error) else "settings", error)
            findings += [finding] if finding not in findings else []
        else:
            return settings, findings or [_told(settings)], set(without)
    return None, findings, set()


def _told(settings: WorkerSettings) -> Finding:
    engines = f"engines: {', '.join(settings.engine_names)}"
    if slips := configuration.unknown_variables():
        cure = f"Did you mean {' and '.join(slips.values())}?"
        return Finding("settings", Outcome.WARN, f"{engines}; no setting: {', '.join(slips)}", cure)
    return Finding("settings", Outcome.OK, engines)


def _secrets(settings: WorkerSettings | None) -> list[str]:
    """What must not be told, in any words."""
    if settings is None:
        return []
    found: list[str | None] = []
    with contextlib.suppress(PsycopgError):
        found.append(conninfo_to_dict(settings.dsn.get_secret_value()).get("password"))  # type: ignore[arg-type]
    if (kubeflow := settings.kubeflow) is not None:
        found.append(kubeflow.s3.secret_key.get_secret_value())
        found.append(kubeflow.token.get_secret_value() if kubeflow.token else None)
        if kubeflow.token_file is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found.append(kubeflow.token_file.read_text(encoding="utf-8").strip())
    return [str(text) for text in found if text]
