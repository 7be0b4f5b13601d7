"""Is a flight more than 15 minutes late? The user's own training code, in plain scikit-learn.

kwdbml calls ``model_train`` with DataFrames: the features as declared when the pipeline was imported, and the target.
The last fifth of the rows is held out. What is printed here is the job's log.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from columns import used, with_time_of_day
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

DEFAULTS: dict[str, Any] = {"max_iter": 100, "learning_rate": 0.1}


def model_train(
    x_train: pd.DataFrame,
    y_train: pd.DataFrame,
    x_test: pd.DataFrame,
    y_test: pd.DataFrame,
    hyperparameters: dict[str, Any],
) -> tuple[Pipeline, list[dict[str, Any]]]:
    settings = {name: hyperparameters.get(name, default) for name, default in DEFAULTS.items()}
    print(f"training on {len(x_train)} flights, testing on {len(x_test)}, with {settings}")
    numbers, texts = used(x_train)
    numbers = [*numbers, "minutes_since_5"] if "hour" in numbers else numbers
    encode = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=float("nan"), encoded_missing_value=float("nan")
    )
    model = make_pipeline(
        FunctionTransformer(with_time_of_day),
        make_column_transformer((encode, texts), ("passthrough", numbers)),
        HistGradientBoostingClassifier(categorical_features=list(range(len(texts))), random_state=0, **settings),
    )
    model.fit(x_train, y_train.iloc[:, 0])

    late = model.classes_[1]
    chance = model.predict_proba(x_test)[:, 1]
    truth = y_test.iloc[:, 0] == late
    metrics = [
        {"objective": "auc", "score": roc_auc_score(truth, chance)},
        {"objective": "f1", "score": f1_score(truth, chance >= 0.5)},
    ]
    print(f"held-out auc {metrics[0]['score']:.3f}")
    return model, metrics
