"""Reading what a step left in ``out/``: written by user code, so nothing about it is believed.

The worker, often root, must open nothing there by its plain path: a result that is a link to /etc/shadow would be read
with the worker's rights, and a FIFO would hang it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from kwdbml.engines.trees import open_beneath
from kwdbml.errors import EngineError, LimitExceeded


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


def check_size(relative: str, size: int, limit: int | None) -> None:
    """LimitExceeded when an output has more bytes than an admin lets it have."""
    if limit is not None and size > limit:
        raise LimitExceeded(
            f"the {relative.removesuffix('.zip')} has {size} bytes, the limit is {limit}",
            hint="Make it smaller (fewer or shallower trees), or an admin raises model_limit.",
        )


def check_all(bytes_: int, limit: int | None) -> None:
    """LimitExceeded when a run's outputs together have more bytes than the worker's disk has for one run."""
    if limit is not None and bytes_ > limit:
        raise LimitExceeded(
            f"the job's outputs have {bytes_:,} bytes, more than the {limit:,} that a run may write",
            hint="Write less, or let the worker's operator raise KWDBML_SCRATCH_LIMIT.",
        )
