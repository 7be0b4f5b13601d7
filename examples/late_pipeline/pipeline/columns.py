"""Which columns the model uses, and how: shared by the scripts of this pipeline (they can import each other)."""

from __future__ import annotations

import pandas as pd

#: Known before departure; anything else in the data set is ignored.
NUMBERS = ["month", "day", "hour", "minute", "distance", "temp", "wind_speed", "precip", "visib"]
TEXTS = ["carrier", "origin", "dest"]


def used(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The columns of the two lists that the data set has."""
    numbers = [name for name in NUMBERS if name in frame.columns]
    texts = [name for name in TEXTS if name in frame.columns]
    if not numbers and not texts:
        raise ValueError(f"none of the columns {NUMBERS + TEXTS} is among the features {list(frame.columns)}")
    return numbers, texts


def with_time_of_day(frame: pd.DataFrame) -> pd.DataFrame:
    """One more feature: delays pile up over the day."""
    frame = frame.copy()
    if "hour" in frame.columns:
        minute = frame["minute"] if "minute" in frame.columns else 0
        frame["minutes_since_5"] = (frame["hour"] - 5) * 60 + minute
    return frame
