"""The training by hand: ``python -m bench.peers.train URL MODEL``.

pandas with SQLAlchemy and psycopg, scikit-learn with pandas' categories, which its gradient boosting takes as they are.
"""

from __future__ import annotations

import sys

import joblib
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sqlalchemy import create_engine

from bench.flights import FEATURES, RELATION, TARGET, TEXTS


def main(url: str, target: str) -> None:
    engine = create_engine(url)
    data = pd.read_sql(f"SELECT {', '.join(FEATURES)}, {TARGET} FROM {RELATION}", engine)
    data = data.dropna(subset=[TARGET])
    labels = data.pop(TARGET).astype(bool)
    for name in TEXTS:
        data[name] = data[name].astype("category")
    x_train, x_test, y_train, y_test = train_test_split(data, labels, test_size=0.2, stratify=labels, random_state=0)
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0).fit(x_train, y_train)
    scores = model.predict_proba(x_test)[:, 1]
    answers = scores > 0.5
    found = {
        "auc": roc_auc_score(y_test, scores), "log_loss": log_loss(y_test, scores),
        "accuracy": accuracy_score(y_test, answers), "f1": f1_score(y_test, answers),
        "precision": precision_score(y_test, answers, zero_division=0), "recall": recall_score(y_test, answers),
    }  # fmt: skip
    joblib.dump(model, target)
    print(", ".join(f"{name} {value:.3f}" for name, value in found.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
