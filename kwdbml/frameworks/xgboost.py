"""XGBoost: estimators as pickles, Boosters in XGBoost's own JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kwdbml.errors import InvalidParameter
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
        """An estimator's own file says which one it was: as such it knows its classes, and where early stopping was."""
        xgboost = require("xgboost", "xgboost")
        booster = xgboost.Booster(model_file=path)
        saved = json.loads(booster.attr("scikit_learn") or "{}")
        estimators = {"classifier": xgboost.XGBClassifier, "regressor": xgboost.XGBRegressor}
        if saved.get("_estimator_type") not in estimators:
            return booster
        estimator = estimators[saved["_estimator_type"]]()
        estimator.load_model(path)
        return estimator

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
        return xgboost.DMatrix(_categorised(booster, inputs), enable_categorical=True)

    def inputs(self, model: Any, inputs: Inputs) -> Inputs:
        found = super().inputs(model, inputs)
        if isinstance(found, pd.DataFrame) and isinstance(model, require("xgboost", "xgboost").XGBModel):
            return _categorised(model.get_booster(), found)
        return found


def _categorised(booster: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Texts as the categories that the model was trained on; a text that it does not know is missing."""
    dtypes = frame.dtypes.items()
    texts = [name for name, dtype in dtypes if dtype.kind == "O" and not isinstance(dtype, pd.CategoricalDtype)]
    if not texts:
        return frame
    known = _categories(booster)
    for name in texts:
        if str(name) not in known:
            raise InvalidParameter(
                f"{name} is text, and the model holds no categories for it",
                hint="turn it into numbers in a data-preparation bundle; XGBoost stores categories since 3.1",
            )
    found = frame.copy(deep=False)
    for name in texts:
        categories = known[str(name)]
        found[name] = pd.Categorical(frame[name].where(frame[name].isin(categories)), categories=categories)
    return found


def _categories(booster: Any) -> dict[str, list[Any]]:
    """Column → its categories; older XGBoosts stored none, and their codes mean nothing without."""
    if not hasattr(booster, "get_categories"):
        return {}
    stored = booster.get_categories(export_to_arrow=True).to_arrow()
    return {name: values.to_pylist() for name, values in stored if values is not None}


FRAMEWORK: Framework = XGBoost()
