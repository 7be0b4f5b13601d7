"""What a job found out, on its way to ``result.json`` or ``error.json``."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kwdbml.steps.data import Rows
from kwdbml.steps.failure import clean

#: Module → distribution, of the libraries whose version explains a model.
_LIBRARIES = {
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "sklearn": "scikit-learn",
    "joblib": "joblib",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "tensorflow": "tensorflow",
}


@dataclass(slots=True)
class Outcome:
    metrics: list[dict[str, Any]] = field(default_factory=list)
    rows_read: int = 0
    rows_dropped: int = 0
    rows_infinite: int = 0
    positive_label: Any = None
    hold_out: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """A remark for the job's log and its result."""
        self.notes.append(text)
        with contextlib.suppress(OSError, ValueError):  # user code may have closed it
            sys.stdout.write(f"kwdbml: {text}\n")

    def count(self, rows: Rows) -> None:
        """Add a piece of the data set."""
        self.rows_read += rows.read
        self.rows_dropped += rows.dropped
        self.rows_infinite += rows.infinite

    def as_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "metrics": self.metrics,
            "rows_read": self.rows_read,
            "rows_dropped": self.rows_dropped,
            "rows_infinite": self.rows_infinite,
            "libraries": _libraries(),
            "notes": self.notes,
        }
        if self.positive_label is not None:
            result["positive_label"] = self.positive_label
        if self.hold_out is not None:
            result["hold_out"] = self.hold_out
        return result


def _libraries() -> dict[str, str]:
    """The versions of what this process has loaded."""
    found = {"python": platform.python_version()}
    for module, name in _LIBRARIES.items():
        version = getattr(sys.modules.get(module), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """In one instant, and clean: no NaN, no NUL, no lone surrogate."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(_cleaned(content), allow_nan=False), encoding="utf-8")
    partial.replace(path)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return value if isinstance(value, (bool, int, type(None))) else clean(str(value))
