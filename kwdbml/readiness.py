"""How a detached worker tells whoever started it that it is ready.

``kwdbml up`` passes the writing end of a pipe in ``KWDBML_READY_FD``. The worker calls ``announce`` once it listens for
jobs; if it dies before, the pipe closes and the caller knows at once. Without the variable ``announce`` does nothing.
"""

from __future__ import annotations

import os

VARIABLE = "KWDBML_READY_FD"
READY = b"ready\n"


def keep() -> None:
    """Keep the pipe to ourselves: what the worker starts before it is ready must not hold the caller's end open."""
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
