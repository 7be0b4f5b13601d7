"""Findings as people read them, a line each and the cure below it; or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from kwdbml.doctor.checks import Finding, Outcome

_STYLES = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red", Outcome.SKIPPED: "dim"}
_NAME = 26  # characters; most names are shorter


def tell(findings: Iterable[Finding], console: Console | None = None) -> bool:
    """Each as it comes; whether nothing failed."""
    out = console or Console(highlight=False, soft_wrap=True)
    seen: list[Finding] = []
    for finding in findings:
        seen.append(finding)
        line = Text.assemble((f"{finding.outcome:<8}", _STYLES[finding.outcome]), f"{finding.check:<{_NAME}} ")
        out.print(line.append(finding.message))
        for what, text in (("detail", finding.detail), ("cure", finding.cure)):
            if text and finding.outcome is not Outcome.OK:
                out.print(Text(f"{'':8}{what}: {text}", style="" if what == "cure" else "dim"))
    count = {outcome: sum(one.outcome is outcome for one in seen) for outcome in Outcome}
    out.print(f"{_verdict(count)}: " + ", ".join(f"{number} {outcome}" for outcome, number in count.items() if number))
    return not count[Outcome.FAIL]


def _verdict(count: dict[Outcome, int]) -> str:
    if count[Outcome.FAIL]:
        return "it does not work"
    return "it works; heed the warnings" if count[Outcome.WARN] else "all is well"


def tell_json(findings: Iterable[Finding]) -> bool:
    """One document at the end; whether nothing failed."""
    seen = list(findings)
    healthy = all(one.outcome is not Outcome.FAIL for one in seen)
    document = {"ok": healthy, "checks": [asdict(one) for one in seen]}
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    return healthy
