"""What user functions give back, made into what we store; BadReturn, in words, when it is something else."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kwdbml.steps.failure import BadReturn, clean

#: ``np.float64(0.5)`` and bare ``nan`` stand in the text of a Python list, and are no literals.
_NUMPY = re.compile(r"\b(?:np|numpy)\.\w+\(([^()]*)\)")
_NOT_FINITE = re.compile(r"(?<![\w'\"])-?(?:nan|NaN|inf|Infinity)(?![\w'\"])")


def metrics(value: Any, source: str) -> list[dict[str, Any]]:
    """``[{"objective", "score"}, …]`` from a list, a single object, or the JSON or Python text of one."""
    if isinstance(value, (str, bytes)):
        value = _literal(value.decode() if isinstance(value, bytes) else value, source)
    if isinstance(value, Mapping):
        if {"objective", "score"} <= {str(key).strip() for key in value}:
            value = [value]
        else:
            value = [{"objective": name, "score": score} for name, score in value.items()]
    if not isinstance(value, (list, tuple)):
        raise BadReturn(f"{source} gave a {type(value).__name__} as metrics", hint=_EXPECTED)
    return [_metric(item, source) for item in value]


_EXPECTED = 'metrics are [{"objective": "f1", "score": 0.91}, …], as a list or as the text of one'


def _literal(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(_NOT_FINITE.sub("None", _NUMPY.sub(r"\1", text.strip())))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadReturn(f"{source} gave a text that is no list of metrics: {text[:200]!r}", hint=_EXPECTED) from error


def _metric(item: Any, source: str) -> dict[str, Any]:
    if isinstance(item, Mapping):
        fields = {str(key).strip(): value for key, value in item.items()}
        if "objective" in fields and "score" in fields:
            return {
                "objective": clean(str(fields["objective"]).strip()),
                "score": _score(fields["score"], fields["objective"], source),
            }
    raise BadReturn(f"{source} gave {repr(item)[:200]} among the metrics", hint=_EXPECTED)


def _score(value: Any, objective: Any, source: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        message = f"{source} gave the score {repr(value)[:100]} for {objective}, which is no number"
        raise BadReturn(message, hint=_EXPECTED) from error
    return number if math.isfinite(number) else None


def frame(value: Any, source: str, needed: list[str]) -> pd.DataFrame:
    """A DataFrame that has the needed columns."""
    if not isinstance(value, pd.DataFrame):
        raise BadReturn(f"{source} gave a {type(value).__name__}, not a DataFrame")
    lacking = [name for name in needed if name not in value.columns]
    if lacking:
        raise BadReturn(f"{source} gave a DataFrame without the target {', '.join(lacking)}")
    return value


def answers(value: Any, targets: list[str], rows: int, source: str) -> npt.NDArray[Any]:
    """(rows,) or (rows, k): the targets' columns by name, else all columns by position."""
    if isinstance(value, pd.DataFrame) and all(name in value.columns for name in targets):
        value = value[targets]
    if isinstance(value, (pd.DataFrame, pd.Series)):
        array = value.to_numpy(dtype=object) if _texts(value) else value.to_numpy()
    elif isinstance(value, (list, tuple, np.ndarray)):
        array = _plain_array(value, source)
    else:
        raise BadReturn(f"{source} gave a {type(value).__name__}, not a DataFrame with one row per row of the data")
    if array.ndim not in (1, 2):
        raise BadReturn(f"{source} gave values of {array.ndim} dimensions")
    if len(array) != rows:
        raise BadReturn(f"{source} gave {len(array)} rows for {rows}")
    if array.ndim == 2:
        width = array.shape[-1]
        if width == 0:
            raise BadReturn(f"{source} gave a DataFrame without columns")
        array = array[:, 0] if width == 1 else array
    return array.astype(object) if array.dtype.kind in "US" else array


def _texts(value: pd.DataFrame | pd.Series[Any]) -> bool:
    dtypes = [value.dtype] if isinstance(value, pd.Series) else list(value.dtypes)
    return any(not isinstance(dtype, np.dtype) or dtype.kind == "O" for dtype in dtypes)


def _plain_array(value: Any, source: str) -> npt.NDArray[Any]:
    """Without numpy's habit of turning [1, "a"] into texts."""
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise BadReturn(f"{source} gave rows of different shapes") from error
    return np.asarray(value, dtype=object) if array.dtype.kind == "U" else array
