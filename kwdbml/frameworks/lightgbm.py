"""LightGBM: estimators as pickles, Boosters in LightGBM's own text format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from kwdbml.errors import InvalidParameter
from kwdbml.frameworks.base import Array, Estimators, Framework, Inputs, as_array, columns_of, require


class LightGBM(Estimators):
    name = "lightgbm"
    native = ("model.txt",)

    def _is_booster(self, model: Any) -> bool:
        return isinstance(model, require("lightgbm", "lightgbm").Booster)

    def save(self, model: Any, directory: Path) -> None:
        if self._is_booster(model):
            model.save_model(directory / self.native[0])
        else:
            super().save(model, directory)

    def load(self, directory: Path) -> Any:
        require("lightgbm", "lightgbm")  # before unpickling, for the clearer error
        return super().load(directory)

    def load_native(self, path: Path) -> Any:
        return require("lightgbm", "lightgbm").Booster(model_file=path)

    def predict(self, model: Any, inputs: Inputs) -> Array:
        """A Booster answers with what its objective gives: a value, a probability, or one per class."""
        if not self._is_booster(model):
            return super().predict(model, inputs)
        return as_array(model.predict(self.inputs(model, inputs)))

    def inputs(self, model: Any, inputs: Inputs) -> Inputs:
        """By name and in the model's order; LightGBM itself goes by position and checks nothing."""
        if not isinstance(inputs, pd.DataFrame):
            return super().inputs(model, inputs)
        if self._is_booster(model):
            names = model.feature_name()
        elif isinstance(model, require("lightgbm", "lightgbm").LGBMModel):
            names = model.feature_name_
        else:
            return super().inputs(model, inputs)
        found = columns_of(inputs, names)
        if found is None:
            _check_nameless(names, inputs)
        frame = inputs if found is None else inputs[found]
        # LightGBM knows the categories that it was trained on, and takes others as missing.
        return frame.astype({name: "category" for name, dtype in frame.dtypes.items() if dtype.kind == "O"})


def _check_nameless(names: list[str], inputs: pd.DataFrame) -> None:
    """Where no name is known (the model was trained on an array), the declared order counts."""
    columns = [str(column).replace(" ", "_") for column in inputs.columns]
    if len(names) == len(columns) and not set(names) & set(columns):
        return
    lacking = [name for name in names if name not in columns]
    raise InvalidParameter(
        f"the model was trained on {len(names)} columns, and the data lacks {', '.join(lacking[:20])}",
        hint="declare the features under the names that the model knows",
    )


FRAMEWORK: Framework = LightGBM()
