"""TensorFlow: a SavedModel in ``model/<digits>/``; needs the extra ``kwdbml[tensorflow]``.

The signature ``serving_default`` answers. With one input tensor it gets the features as a matrix, with several each
gets the column of its name. An answer of one column is a value or a probability, of several one per class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kwdbml.errors import InvalidParameter
from kwdbml.frameworks.base import Array, Framework, Inputs, as_array, require

_FIRST = "001"


class TensorFlow:
    name = "tensorflow"
    files = "model/<digits>/saved_model.pb"

    def is_model(self, value: Any) -> bool:
        """A Keras model (which has ``export``), a tf.Module, or what saved_model.load gave."""
        tensorflow = require("tensorflow", "tensorflow")
        keras = callable(getattr(value, "export", None)) and callable(value)
        return keras or isinstance(value, tensorflow.Module) or "serving_default" in _signatures(value)

    def save(self, model: Any, directory: Path) -> None:
        path = str(directory / _FIRST)
        if hasattr(model, "export"):  # Keras 3: export() writes the SavedModel with serving_default
            model.export(path, verbose=False)
        else:
            require("tensorflow", "tensorflow").saved_model.save(model, path)

    def find(self, directory: Path) -> Path | None:
        """The directory with the highest number; user code may also have written straight into model/."""
        digits = [path for path in directory.iterdir() if path.name.isdecimal()]
        numbered = sorted(digits, key=lambda path: int(path.name), reverse=True)
        return next((p for p in (*numbered, directory) if (p / "saved_model.pb").is_file()), None)

    def load(self, directory: Path) -> Any:
        tensorflow = require("tensorflow", "tensorflow")
        path = self.find(directory)
        if path is None:
            raise InvalidParameter(f"the model bundle has no {self.files}", hint=".h5 and .keras files are not read")
        model = tensorflow.saved_model.load(str(path))
        if "serving_default" not in _signatures(model):
            raise InvalidParameter(f"model/{path.name} has no signature serving_default")
        return model

    def set_threads(self, model: Any, threads: int) -> None:
        """TensorFlow takes its threads from the environment, once per process."""

    def predict(self, model: Any, inputs: Inputs) -> Array:
        if not _signatures(model):
            return as_array(np.asarray(model(_matrix(inputs, np.float32))))
        tensorflow = require("tensorflow", "tensorflow")
        serve = model.signatures["serving_default"]
        specs = serve.structured_input_signature[1]
        feed = {
            name: tensorflow.convert_to_tensor(_shaped(values, spec), dtype=spec.dtype)
            for name, (values, spec) in _tensors(specs, inputs).items()
        }
        answers = serve(**feed)
        if len(answers) == 1:
            return as_array(np.asarray(next(iter(answers.values()))))
        return np.column_stack([as_array(np.asarray(answers[name])) for name in sorted(answers)])

    def scores(self, model: Any, inputs: Inputs) -> Array | None:  # noqa: ARG002
        return None  # what predict gives are the scores already

    def classes(self, model: Any) -> list[Any] | None:  # noqa: ARG002
        return None


def _signatures(value: Any) -> Mapping[str, Any]:
    signatures = getattr(value, "signatures", None)
    return signatures if isinstance(signatures, Mapping) else {}


def _matrix(inputs: Inputs, dtype: Any) -> Array:
    return np.asarray(inputs.to_numpy() if isinstance(inputs, pd.DataFrame) else inputs, dtype=dtype)


def _tensors(specs: Mapping[str, Any], inputs: Inputs) -> dict[str, tuple[Any, Any]]:
    """Input tensor name → (its values, its spec)."""
    if isinstance(inputs, Mapping) and set(specs) <= set(inputs):
        return {name: (inputs[name], spec) for name, spec in specs.items()}
    if len(specs) == 1:
        name, spec = next(iter(specs.items()))
        return {name: (inputs, spec)}
    if isinstance(inputs, pd.DataFrame) and set(specs) <= set(inputs.columns):
        return {name: (inputs[name], spec) for name, spec in specs.items()}
    raise InvalidParameter(f"the model's inputs are {', '.join(sorted(specs))}; the data has no columns of these names")


def _shaped(values: Any, spec: Any) -> Array:
    """In the tensor's type; a column for a tensor of shape (rows, 1)."""
    dtype = spec.dtype.as_numpy_dtype
    if isinstance(values, (pd.DataFrame, pd.Series)):
        values = values.to_numpy()
    array = np.asarray(values) if dtype is object else np.asarray(values, dtype=dtype)
    rank = spec.shape.rank
    return array[:, None] if rank == 2 and array.ndim == 1 else array


FRAMEWORK: Framework = TensorFlow()
