"""The data-preparation bundle: what the user does to the data before training, and around prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from kwdbml.steps import returned
from kwdbml.steps.bundle import Bundle, positional
from kwdbml.steps.failure import BadBundle, BadReturn
from kwdbml.steps.holdout import Split

TRAINING = "training/data_preparation_training.py"
PREDICTION = "prediction/data_preparation_prediction.py"

Array = npt.NDArray[Any]


class TrainingTransformer:
    """``training/data_preparation_training.py``; all of its functions are optional, but one must be there."""

    def __init__(self, bundle: Bundle, targets: list[str]) -> None:
        self._bundle = bundle.view("training")
        self._targets = targets
        self._split = self._bundle.function(TRAINING, "split")
        self._train = self._bundle.function(TRAINING, "transform_training_data")
        self._test = self._bundle.function(TRAINING, "transform_test_data") or self._train
        if self._split is None and self._test is None:
            raise BadBundle(f"{TRAINING} has none of split, transform_training_data, transform_test_data")

    def split(self, frame: pd.DataFrame) -> Split | None:
        """The user's own split; None when the script has no such function."""
        if self._split is None:
            return None
        # The vendor writes split(self, df) for a plain function.
        arguments = (None, frame) if positional(self._split) == 2 else (frame,)
        parts = self._bundle.call(self._split, *arguments)
        if not isinstance(parts, (tuple, list)) or len(parts) != 2:
            raise BadReturn(f"split gave a {type(parts).__name__}, not (train, test)")
        train, test = (returned.frame(part, "split", self._targets) for part in parts)
        return Split(train, test, "split")

    def training(self, frame: pd.DataFrame) -> pd.DataFrame:
        return self._transformed(self._train, "transform_training_data", frame)

    def test(self, frame: pd.DataFrame) -> pd.DataFrame:
        return self._transformed(self._test, "transform_test_data", frame)

    def _transformed(self, function: Callable[..., Any] | None, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        if function is None:
            return frame
        result = self._bundle.call(function, frame, self._bundle.data_path)
        return returned.frame(result, name, self._targets)


class PredictionTransformer:
    """``prediction/data_preparation_prediction.py``: the batch functions where there are some, else the online ones."""

    def __init__(self, bundle: Bundle, targets: list[str]) -> None:
        self._bundle = bundle.view("prediction")
        self._targets = targets
        names = ("preprocess", "postprocess", "batch_preprocess", "batch_postprocess")
        self._functions = {name: self._bundle.function(PREDICTION, name) for name in names}

    def before(self, frame: pd.DataFrame) -> Any:
        """Features → what the model gets: a frame, an array, or TensorFlow's named tensors."""
        batch, single = self._functions["batch_preprocess"], self._functions["preprocess"]
        if batch is not None:
            result = self._call(batch, frame)
            return returned.frame(result, "batch_preprocess", [])
        if single is None:
            return frame
        result = self._call(single, frame)
        if isinstance(result, Mapping) and "instances" in result:
            return _instances(result["instances"])
        if isinstance(result, Mapping) and "inputs" in result:
            inputs = result["inputs"]
            return inputs if isinstance(inputs, Mapping) else np.asarray(inputs)
        raise BadReturn(f'preprocess gave {_described(result)}, not {{"instances": […]}}')

    def frame_before(self, frame: pd.DataFrame) -> pd.DataFrame:
        """For user functions, which get DataFrames: a matrix as wide as the features has their names."""
        inputs = self.before(frame)
        if isinstance(inputs, pd.DataFrame):
            return inputs
        if isinstance(inputs, Mapping):
            return pd.DataFrame({name: list(values) for name, values in inputs.items()})
        table = inputs if inputs.ndim == 2 else np.array([*inputs, None], dtype=object)[:-1, None]
        names = list(frame.columns) if table.shape[1] == frame.shape[1] else range(table.shape[1])
        return pd.DataFrame(table, columns=pd.Index(names))

    def after(self, values: Array) -> Array:
        """The model's answers → the user's, as many rows."""
        batch, single = self._functions["batch_postprocess"], self._functions["postprocess"]
        if batch is not None:
            result = self._call(batch, _answer_frame(values, self._targets))
            if not isinstance(result, pd.DataFrame):
                raise BadReturn(f"batch_postprocess gave a {type(result).__name__}, not a DataFrame")
            return returned.answers(result, self._targets, len(values), "batch_postprocess")
        if single is None:
            return values
        result = self._call(single, {"predictions": values.tolist()})
        if not isinstance(result, Mapping) or "predictions" not in result:
            raise BadReturn(f'postprocess gave {_described(result)}, not {{"predictions": […]}}')
        return returned.answers(result["predictions"], self._targets, len(values), "postprocess")

    @property
    def postprocesses(self) -> bool:
        return self._functions["batch_postprocess"] is not None or self._functions["postprocess"] is not None

    def _call(self, function: Callable[..., Any], values: Any) -> Any:
        return self._bundle.call(function, values, self._bundle.data_path)


def _instances(values: Any) -> Any:
    """One item per row: objects become named columns, lists a matrix, bare numbers one column."""
    if isinstance(values, pd.DataFrame):
        return values
    if isinstance(values, list) and values and all(isinstance(item, Mapping) for item in values):
        frame = pd.DataFrame(values)
        texts = [name for name, dtype in frame.dtypes.items() if not isinstance(dtype, np.dtype)]
        frame = frame.astype(dict.fromkeys(texts, object))
        return frame.where(frame.notna(), None) if texts else frame
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise BadReturn('preprocess gave "instances" of different shapes') from error
    if array.ndim == 0:
        raise BadReturn(f'preprocess gave "instances" that are a {type(values).__name__}, not one item per row')
    if array.dtype.kind == "U":
        array = np.asarray(values, dtype=object)
    return array[:, None] if array.ndim == 1 and array.dtype.kind in "iufb" else array


def _answer_frame(values: Array, targets: list[str]) -> pd.DataFrame:
    """The answers under the targets' names; class probabilities under their numbers."""
    width = 1 if values.ndim == 1 else values.shape[1]
    names: list[Any] = list(targets) if width == len(targets) else list(range(width))
    table = values[:, None] if values.ndim == 1 else values
    return pd.DataFrame({name: pd.Series(table[:, i], dtype=values.dtype) for i, name in enumerate(names)})


def _described(value: Any) -> str:
    return f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
