"""How a worker shows that it lives: a file for probes, not there before it is ready, and touched from then on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kwdbml import readiness


async def test_the_file_is_touched_as_long_as_the_loop_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = tmp_path / "alive"
    monkeypatch.setenv(readiness.ALIVE_FILE, str(alive))
    monkeypatch.setattr(readiness, "_BEAT", 0.001)
    alive.touch()
    readiness.keep()
    assert not alive.exists()  # a predecessor's
    showing = asyncio.create_task(readiness.show_life())
    for _ in range(2):
        while not alive.exists() or alive.stat().st_mtime < 1:  # noqa: ASYNC110 - a file wakes nobody
            await asyncio.sleep(0.001)
        os.utime(alive, (0, 0))
    showing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await showing


async def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(readiness.ALIVE_FILE, raising=False)
    readiness.keep()
    await asyncio.wait_for(readiness.show_life(), 5)
