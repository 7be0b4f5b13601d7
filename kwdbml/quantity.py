"""Amounts of CPU and memory as Kubernetes and PaddleFlow write them: "2", "500m", "4Gi", "512MB"."""

from __future__ import annotations

import re

from kwdbml.errors import InvalidParameter

_UNITS = {
    "": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip
_NUMBER = r"(\d+(?:\.\d+)?)"


def cores(value: object) -> float:
    """Cores of a CPU quantity; 22023 when it is none, not positive, or more than any machine has."""
    text = str(value).strip()
    match = re.fullmatch(rf"{_NUMBER}(m?)", text)
    amount = float(match.group(1)) / (1000 if match.group(2) else 1) if match else 0.0
    if not 0 < amount < 1e6:
        raise InvalidParameter(f'invalid cpu "{text}"', hint='Cores, such as "2", "0.5" or "500m".')
    return amount


def memory(value: object) -> int:
    """Bytes of a memory quantity; 22023 when it is none or not positive."""
    text = str(value).strip()
    match = re.fullmatch(rf"{_NUMBER}\s*([KkMmGgTt]i?)?[Bb]?", text)
    amount = float(match.group(1)) * _UNITS[(match.group(2) or "").lower()] if match else 0.0
    if not 1 <= amount < 2**63:
        raise InvalidParameter(f'invalid mem "{text}"', hint='Bytes with a unit, such as "512Mi" or "4G".')
    return int(amount)
