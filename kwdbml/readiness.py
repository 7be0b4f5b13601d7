"""How a detached worker tells whoever started it that it is ready.

``kwdbml up`` passes the writing end of a pipe in ``KWDBML_READY_FD``. The worker calls ``announce`` once it listens for
jobs; if it dies before, the pipe closes and the caller knows at once. Without the variable ``announce`` does nothing.

For probes of Kubernetes, which are other processes, there is a file, named by ``KWDBML_ALIVE_FILE``: ``show_life``
touches it from then on as long as the worker's loop turns.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

VARIABLE = "KWDBML_READY_FD"
ALIVE_FILE = "KWDBML_ALIVE_FILE"
READY = b"ready\n"
_BEAT = 10.0  # seconds


def keep() -> None:
    """Keep the pipe to ourselves: what the worker starts before it is ready must not hold the caller's end open. The
    file of a predecessor is no sign of our life."""
    if path := os.environ.get(ALIVE_FILE):
        Path(path).unlink(missing_ok=True)
    number = os.environ.get(VARIABLE)
    if number is not None:
        os.set_inheritable(int(number), False)


def announce() -> None:
    """Say that the worker is ready, at most once; the variable does not reach what the worker starts."""
    number = os.environ.pop(VARIABLE, None)
    if number is None:
        return
    with os.fdopen(int(number), "wb") as pipe:
        pipe.write(READY)


async def show_life() -> None:
    """Touch the file again and again; ends at once when there is none to touch."""
    while path := os.environ.get(ALIVE_FILE):
        await asyncio.to_thread(Path(path).touch)
        await asyncio.sleep(_BEAT)
