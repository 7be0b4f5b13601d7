"""XGBoost: estimators as pickles, Boosters in XGBoost's own JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kwdbml.frameworks.base import Array, Estimators, Framework, Inputs, as_array, require


class XGBoost(Estimators):
    name = "xgboost"
    native = ("model.json",)

    def _is_booster(self, model: Any) -> bool:
        return isinstance(model, require("xgboost", "xgboost").Booster)

    def save(self, model: Any, directory: Path) -> None:
        if self._is_booster(model):
            model.save_model(directory / self.native[0])
        else:
            super().save(model, directory)

    def load(self, directory: Path) -> Any:
        require("xgboost", "xgboost")  # before unpickling, for the clearer error
        return super().load(directory)

    def load_native(self, path: Path) -> Any:
        return require("xgboost", "xgboost").Booster(model_file=path)

    def set_threads(self, model: Any, threads: int) -> None:
        if self._is_booster(model):
            model.set_param({"nthread": threads})
        else:
            super().set_threads(model, threads)

    def predict(self, model: Any, inputs: Inputs) -> Array:
        """A Booster answers with what its objective gives: a value, a probability, or one per class."""
        if not self._is_booster(model):
            return super().predict(model, inputs)
        return as_array(model.predict(self._matrix(model, inputs)))

    def _matrix(self, booster: Any, inputs: Inputs) -> Any:
        xgboost = require("xgboost", "xgboost")
        names = booster.feature_names
        if not isinstance(inputs, pd.DataFrame):
            array = np.asarray(inputs)
            return xgboost.DMatrix(array, feature_names=names, feature_types=booster.feature_types)
        if names and set(names) <= set(map(str, inputs.columns)):
            inputs = inputs.rename(columns=str)[names]
        elif names is None:
            return xgboost.DMatrix(inputs.to_numpy())
        texts = {name: "category" for name, dtype in inputs.dtypes.items() if dtype.kind == "O"}
        return xgboost.DMatrix(inputs.astype(texts), enable_categorical=True)


FRAMEWORK: Framework = XGBoost()
