"""Which rows a model is trained on, and which are held out to measure it.

Built-in pipelines hold out a fifth by a hash of each row's own values. Neither the order of rows nor that of columns
changes the hash, so a parallel scan changes neither the split nor, since the training rows are put in the hash's
order, the model. Rows that are equal in everything have equal hashes, and are interchangeable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[Any]
Hashes = npt.NDArray[np.uint64]

_FRACTION = 5  # one row in so many is held out


@dataclass(frozen=True, slots=True)
class Split:
    train: pd.DataFrame
    test: pd.DataFrame
    method: str

    def as_json(self) -> dict[str, Any]:
        return {"method": self.method, "rows_train": len(self.train), "rows_test": len(self.test)}


def by_hash(frame: pd.DataFrame, stratify: Array | None, seed: int) -> Split:
    """A fifth of every class (of all rows without ``stratify``), at least one row of each stays for training."""
    hashes = row_hashes(frame, seed)
    order = np.argsort(hashes, kind="stable")
    codes = np.zeros(len(order), dtype=np.int64) if stratify is None else pd.factorize(stratify)[0][order]
    counts = np.bincount(codes)
    quota = np.minimum(np.floor(counts / _FRACTION + 0.5).astype(np.int64), counts - 1)
    rank = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    held_out = rank < quota[codes]
    return Split(_take(frame, order[~held_out]), _take(frame, order[held_out]), "hash")


def last_fifth(frame: pd.DataFrame) -> Split:
    """The last fifth of the rows as the query ordered them, unshuffled: the vendor's way for uploaded pipelines."""
    cut = len(frame) - len(frame) // _FRACTION
    return Split(frame.iloc[:cut].reset_index(drop=True), frame.iloc[cut:].reset_index(drop=True), "last")


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 over the hashes of the rows, sorted: the same rows have the same, in whatever order they came."""
    return hashlib.sha256(np.sort(row_hashes(frame, 0)).tobytes()).hexdigest()


def row_hashes(frame: pd.DataFrame, seed: int) -> Hashes:
    """One hash per row, the same whatever the order of rows and columns."""
    total = np.full(len(frame), _salt(f"seed {seed}"), dtype=np.uint64)
    for position, name in enumerate(frame.columns):
        total += _mixed(_value_hashes(frame.iloc[:, position].to_numpy()) + _salt(f"column {name}"))
    return _mixed(total)


def _value_hashes(values: Array) -> Hashes:
    """Equal values have equal hashes: every NaN is one, and so are 0.0 and -0.0, 1 and 1.0."""
    if values.dtype == object:
        codes, distinct = pd.factorize(values)
        table = pd.util.hash_array(np.asarray(distinct, dtype=object), categorize=False)
        return np.append(table.astype(np.uint64), np.uint64(0))[codes]  # a missing value has code -1: the last
    numbers = values.astype(np.float64) + 0.0
    numbers[np.isnan(numbers)] = np.nan
    return numbers.view(np.uint64)


def _mixed(hashes: Hashes) -> Hashes:
    """The finalizer of SplitMix64: every bit of the input changes half of the output's; in place."""
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


def _salt(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def _take(frame: pd.DataFrame, positions: Array) -> pd.DataFrame:
    return frame.take(positions).reset_index(drop=True)
