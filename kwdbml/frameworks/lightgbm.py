"""LightGBM: estimators as pickles, Boosters in LightGBM's own text format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from kwdbml.frameworks.base import Array, Estimators, Framework, Inputs, as_array, require


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
        if isinstance(inputs, pd.DataFrame):
            names = model.feature_name()
            # LightGBM writes blanks in names as underscores.
            own = {str(column).replace(" ", "_"): column for column in inputs.columns}
            if set(names) <= set(own):
                inputs = inputs[[own[name] for name in names]]
            texts = {name: "category" for name, dtype in inputs.dtypes.items() if dtype.kind == "O"}
            inputs = inputs.astype(texts)
        return as_array(model.predict(inputs))


FRAMEWORK: Framework = LightGBM()
