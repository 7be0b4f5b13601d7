"""Embedded servers that a test may break."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kwdbml import embedded
from tests.fixtures.local import PREFIX, memory


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory, not made yet, where the server's user gets; whatever runs in it ends with the test."""
    parent = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=memory()))
    parent.chmod(0o755)
    yield parent / "data"
    if (parent / "data").is_dir():
        embedded.down(parent / "data", drain=5.0)
    shutil.rmtree(parent)
