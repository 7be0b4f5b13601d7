"""Reading what a step left in ``out/``: written by user code, so nothing about it is believed.

The worker, often root, must open nothing there by its plain path: a result that is a link to /etc/shadow would be read
with the worker's rights, and a FIFO would hang it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from kwdbml.engines.trees import open_beneath
from kwdbml.errors import EngineError


def open_output(outputs: Path, relative: str, *, limit: int) -> BinaryIO:
    """The plain file ``outputs/relative``, open for reading. Close it.

    Links on the way, devices and more than ``limit`` bytes are refused. FileNotFoundError when it is not there;
    EngineError, not retryable, when it is something that a step has no reason to make.
    """
    try:
        fd = open_beneath(os.fspath(outputs), relative, limit)
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise EngineError(f"the job's output {error}", hint="write ordinary files within the limit") from None
    except OSError as error:
        raise EngineError(
            f"the job's output “{relative}” cannot be opened: {error.strerror}",
            hint="write results as ordinary files, without links",
        ) from None
    return os.fdopen(fd, "rb")


def read_output(outputs: Path, relative: str, *, limit: int) -> bytes:
    """The whole content of a small output; errors as ``open_output``."""
    with open_output(outputs, relative, limit=limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise EngineError(f"the job's output “{relative}” grew beyond {limit:,} bytes while it was read")
    return content


def has_output(outputs: Path, relative: str) -> bool:
    """Whether there is such a plain file, whatever its size."""
    try:
        os.close(open_beneath(os.fspath(outputs), relative, 1 << 62))
    except (OSError, ValueError):
        return False
    return True
