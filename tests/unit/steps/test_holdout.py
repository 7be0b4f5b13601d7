"""The hold-out depends on the rows' values, and on nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kwdbml.steps.holdout import by_hash, last_fifth, row_hashes


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    texts = pd.Series(rng.choice(["a", "b", None], 1000), dtype=object)  # type: ignore[arg-type]
    numbers = rng.normal(size=1000)
    numbers[::7] = np.nan
    return pd.DataFrame({"n": numbers, "t": texts, "i": rng.integers(0, 9, 1000), "y": rng.random(1000) < 0.1})


def same(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    return first.equals(second[list(first.columns)])


def test_neither_row_nor_column_order_changes_anything(frame: pd.DataFrame) -> None:
    shuffled = frame.sample(frac=1, random_state=3).reset_index(drop=True)[["y", "i", "t", "n"]]
    one, other = by_hash(frame, frame["y"].to_numpy(), 0), by_hash(shuffled, shuffled["y"].to_numpy(), 0)
    assert same(one.train, other.train)
    assert same(one.test, other.test)


def test_every_class_gives_a_fifth(frame: pd.DataFrame) -> None:
    split = by_hash(frame, frame["y"].to_numpy(), 0)
    for label in (True, False):
        total = int((frame["y"] == label).sum())
        assert int((split.test["y"] == label).sum()) == round(total / 5)
    assert len(split.train) + len(split.test) == len(frame)
    assert split.as_json() == {"method": "hash", "rows_train": len(split.train), "rows_test": len(split.test)}


def test_the_seed_changes_the_split(frame: pd.DataFrame) -> None:
    assert not by_hash(frame, None, 0).test.equals(by_hash(frame, None, 1).test)


def test_a_class_of_one_row_is_trained_on() -> None:
    frame = pd.DataFrame({"x": range(11), "y": ["rare"] + ["often"] * 10})
    split = by_hash(frame, frame["y"].to_numpy(), 0)
    assert "rare" in set(split.train["y"])
    assert len(by_hash(frame.iloc[:1], None, 0).train) == 1


def test_equal_values_have_equal_hashes() -> None:
    first = pd.DataFrame({"a": [0.0, np.nan, 1.0], "b": [1, 2, 3]})
    second = pd.DataFrame({"b": [1.0, 2.0, 3.0], "a": [-0.0, -np.nan, 1.0]})
    assert (row_hashes(first, 0) == row_hashes(second, 0)).all()


def test_swapped_columns_are_other_rows() -> None:
    hashes = row_hashes(pd.DataFrame({"a": [1, 2], "b": [2, 1]}), 0)
    assert hashes[0] != hashes[1]


def test_hashes_stay_the_same_in_the_next_release() -> None:
    """A model is trained again to the same model; a change here is a change of every built-in model."""
    frame = pd.DataFrame({"a": [1.0, 2.5], "t": pd.Series(["x", None], dtype=object)})
    assert row_hashes(frame, 0).tolist() == PINNED


PINNED = [928654771559896235, 1107691428813090298]


def test_the_last_fifth_is_the_querys_last() -> None:
    split = last_fifth(pd.DataFrame({"x": range(12)}))
    assert list(split.test["x"]) == [10, 11]
    assert split.as_json() == {"method": "last", "rows_train": 10, "rows_test": 2}
