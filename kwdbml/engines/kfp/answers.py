"""What the KFP API answers, as far as we read it.

Plain JSON, not the client's models: a state of a future KFP then is what it is, not an exception from inside of a
parser. A reader raises whatever Python does where something is not there that KFP always says: ``backoff.heard`` makes
"another has answered" of it. KFP leaves out what is empty, so an empty object is its word for "none" and for "done".
"""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from kwdbml.engines.base import RunState

Json = dict[str, Any]

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
_STATES = {
    "PENDING": RunState.RUNNING,
    "RUNNING": RunState.RUNNING,
    "PAUSED": RunState.RUNNING,
    "CANCELING": RunState.RUNNING,
    "SUCCEEDED": RunState.SUCCEEDED,
    "SKIPPED": RunState.FAILED,  # a run of a single step that was skipped has no result
    "FAILED": RunState.FAILED,
    "CANCELED": RunState.CANCELED,
}


@dataclass(frozen=True, slots=True)
class KfpRun:
    """A run as KFP tells it."""

    run_id: str
    name: str
    state: str  # KFP's own word; "" when it has none yet
    history: tuple[str, ...] = ()
    archived: bool = False
    created: float = 0.0  # seconds since the epoch, by KFP's clock
    age: float = 0.0  # seconds since then
    ttl: float | None = None
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        return self.state == "SUCCEEDED"

    @property
    def canceling(self) -> bool:
        return self.state == "CANCELING" or "CANCELING" in self.history

    @property
    def canceled(self) -> bool:
        """Ended because somebody terminated it: KFP calls that FAILED, and only the history tells."""
        return self.state == "CANCELED" or (self.state == "FAILED" and "CANCELING" in self.history)

    @property
    def run_state(self) -> RunState:
        """In our words; what a future KFP may say beside its words of today is UNKNOWN: ask again."""
        return RunState.CANCELED if self.canceled else _STATES.get(self.state, RunState.UNKNOWN)


class Health(NamedTuple):
    multi_user: bool
    now: float  # seconds since the epoch by its own clock; 0 when it does not tell


class Page(NamedTuple):
    runs: list[KfpRun]
    more: str  # the token of the next one


class Experiment(NamedTuple):
    experiment_id: str
    name: str
    archived: bool


def run(found: Json, now: float) -> KfpRun:
    """``now``: seconds since the epoch, when the server gave it; 0 when it does not tell."""
    created = seconds(found.get("created_at"))
    parameters = (found.get("runtime_config") or {}).get("parameters") or {}
    ttl = parameters.get("ttl")
    return KfpRun(
        run_id=_identity(found["run_id"]),
        name=str(found.get("display_name") or ""),
        state=str(found.get("state") or ""),
        history=tuple(str(one.get("state") or "") for one in found.get("state_history") or []),
        archived=found.get("storage_state") == "ARCHIVED",
        created=created,
        age=max(0.0, (now or time.time()) - created) if created else 0.0,
        ttl=float(ttl) if isinstance(ttl, int | float) and ttl > 0 else None,
        error=str((found.get("error") or {}).get("message") or ""),
    )


def the_run(run_id: str, found: Json, now: float) -> KfpRun:
    if found["run_id"] != run_id:
        raise ValueError(found["run_id"])
    return run(found, now)


def page(found: Json, now: float) -> Page:
    _has(found, "runs", "total_size")
    return Page([run(one, now) for one in found.get("runs") or []], str(found.get("next_page_token") or ""))


def experiment(found: Json, _: float) -> Experiment:
    archived = found.get("storage_state") == "ARCHIVED"
    return Experiment(_identity(found["experiment_id"]), str(found.get("display_name") or ""), archived)


def experiments(found: Json, now: float) -> list[Experiment]:
    _has(found, "experiments", "total_size")
    return [experiment(one, now) for one in found.get("experiments") or []]


def done(found: Json, _: float) -> None:
    """Of a call that has nothing to answer."""
    _has(found)


def health(found: Json, now: float) -> Health:
    _has(found, "multi_user", "pipeline_store")
    return Health(bool(found.get("multi_user")), now)


def version(found: Json, _: float) -> str:
    return str(found.get("tag_name") or "")


def _has(found: Json, *names: str) -> None:
    """One of these at least, where it says anything at all."""
    if found and found.keys().isdisjoint(names):
        raise LookupError(f"none of {names}")


def _identity(found: object) -> str:
    if not isinstance(found, str) or not found:
        raise ValueError(found)
    return found


def seconds(text: object) -> float:
    """Of a time as JSON has it, or a Date header; 0 when it is none. KFP's "not yet" is 1970."""
    if not isinstance(text, str):
        return 0.0
    try:
        return (email.utils.parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text)).timestamp()
    except ValueError:
        return 0.0
