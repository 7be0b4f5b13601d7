"""Prediction by hand: ``python -m bench.peers.predict train|predict URL MODEL``; predict prints its seconds.

pandas with SQLAlchemy and psycopg; ``to_sql`` with a callable that COPYs, as pandas' guide to SQL insertion proposes.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable
from typing import Any

import joblib
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sqlalchemy import create_engine

NUMBERS = ["a", "b", "c", "d", "e"]
TEXTS = ["k", "g"]


def copied(table: Any, connection: Any, keys: list[str], rows: Iterable[Any]) -> None:
    """The ``method`` of to_sql: rows as CSV into COPY, on SQLAlchemy's own psycopg connection."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    names = ", ".join(f'"{key}"' for key in keys)
    with connection.connection.cursor().copy(f'COPY "{table.schema}"."{table.name}" ({names}) FROM STDIN CSV') as copy:
        copy.write(buffer.getvalue())


def features(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[NUMBERS + TEXTS].astype(dict.fromkeys(TEXTS, "category"))


def train(url: str, target: str) -> None:
    frame = pd.read_sql("SELECT * FROM bench.events WHERE id <= 100000", create_engine(url))
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)
    joblib.dump(model.fit(features(frame), frame["y"]), target)


def predict(url: str, source: str) -> float:
    began = time.perf_counter()
    engine = create_engine(url)
    frame = pd.read_sql("SELECT id, a, b, c, d, e, k, g FROM bench.events", engine)
    model = joblib.load(source)
    frame["prediction"] = model.predict(features(frame))
    frame.to_sql("peer_predictions", engine, schema="bench", index=False, method=copied)
    return time.perf_counter() - began


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(*sys.argv[2:])
    else:
        print(predict(*sys.argv[2:]))
