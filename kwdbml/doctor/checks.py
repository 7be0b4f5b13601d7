"""A check looks at one thing; what it finds is told in one line, with the cure when something is wrong.

Standard library only: engines bring checks of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kwdbml.errors import KwdbmlError

_SHORTEST_SECRET = 4  # what is shorter would blot out half of every sentence


class Outcome(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    outcome: Outcome
    message: str
    cure: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """It works, but somebody should know this."""

    message: str
    cure: str


#: What was found; a KwdbmlError, whose hint is the cure, when it does not work.
Look = Callable[[], str | Remark]


@dataclass(frozen=True, slots=True)
class Check:
    """``needs``: the checks without which there is nothing to look at."""

    name: str
    look: Look
    needs: tuple[str, ...] = ()


@dataclass
class Examination:
    """Checks, one after the other. No text of ``hidden``, the secrets, is in what they find."""

    hidden: Collection[str] = ()
    _bad: set[str] = field(default_factory=set)

    def run(self, checks: Iterable[Check]) -> Iterator[Finding]:
        for check in checks:
            missing = [name for name in check.needs if name in self._bad]
            if missing:
                finding = Finding(check.name, Outcome.SKIPPED, f"not looked at, because of {missing[0]}")
            else:
                finding = _look(check)
            if finding.outcome in (Outcome.FAIL, Outcome.SKIPPED):
                self._bad.add(check.name)
            yield self.discreet(finding)

    def discreet(self, finding: Finding) -> Finding:
        for secret in sorted(self.hidden, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                finding = replace(
                    finding,
                    message=finding.message.replace(secret, "…"),
                    cure=finding.cure.replace(secret, "…"),
                    detail=finding.detail.replace(secret, "…"),
                )
        return finding


def failed(name: str, error: KwdbmlError) -> Finding:
    return Finding(name, Outcome.FAIL, error.message, error.hint, error.detail)


def _look(check: Check) -> Finding:
    try:
        found = check.look()
    except KwdbmlError as error:
        return failed(check.name, error)
    except Exception as error:  # noqa: BLE001 the other checks are still worth something
        text = f"could not be looked at ({type(error).__name__}: {error})"
        return Finding(check.name, Outcome.FAIL, text, "This is an error of kwdbml itself: please report it.")
    if isinstance(found, Remark):
        return Finding(check.name, Outcome.WARN, found.message, found.cure)
    return Finding(check.name, Outcome.OK, found)
