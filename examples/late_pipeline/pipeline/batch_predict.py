"""``batch_predict`` with this pipeline: is the flight late? One row per row of ``x_test``, in its order."""

from __future__ import annotations

from pathlib import Path

import joblib
import pandas as pd


def model_predict(model_path: str, x_test: pd.DataFrame) -> pd.DataFrame:
    model = joblib.load(Path(model_path) / "model.joblib")
    return pd.DataFrame({"late": model.predict(x_test)})
