"""``evaluate_model`` with this pipeline: any objective of one's own, here how many late flights are caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from sklearn.metrics import f1_score, roc_auc_score


def model_evaluate(
    model_path: str, metrics: list[str], x_test: pd.DataFrame, y_test: pd.DataFrame
) -> list[dict[str, Any]]:
    model = joblib.load(Path(model_path) / "model.joblib")
    chance = model.predict_proba(x_test)[:, 1]
    truth = y_test.iloc[:, 0] == model.classes_[1]
    known = {
        "auc": lambda: roc_auc_score(truth, chance) if truth.nunique() == 2 else float("nan"),
        "f1": lambda: f1_score(truth, chance >= 0.5),
        # Of the late flights, the share among the tenth of all flights with the highest risk.
        "caught_in_top_tenth": lambda: truth[chance >= pd.Series(chance).quantile(0.9)].sum() / max(truth.sum(), 1),
    }
    return [{"objective": name, "score": known[name]()} for name in metrics if name in known]
