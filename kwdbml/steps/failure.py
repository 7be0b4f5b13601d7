"""The failures that a step knows, and how any exception becomes the job's ``error``.

``error.json`` is ``{"type", "message", "step", "traceback"}``; the traceback holds the user's frames only, as
``pipeline/train.py:12 in model_train: return 1 / 0``.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from kwdbml.errors import KwdbmlError

_MAX_FRAMES = 50
_MAX_MESSAGE = 8_000
#: XGBoost appends addresses in its library.
_NATIVE_STACK = re.compile(r"\nStack trace:\n(?:  \[bt\][^\n]*(?:\n|$))+\n*")


class StepError(KwdbmlError):
    """A failure that is the data's or the user's, told in words that say the cure."""

    sqlstate = "22023"


class NoRows(StepError):
    """Nothing is left to work on."""


class OneClass(StepError):
    """A classifier cannot be trained on one class."""


class BadBundle(StepError):
    """A bundle lacks a file, or holds what it must not."""


class BadReturn(StepError):
    """User code gave back something that is not what ``bundles.md`` says."""


class MissingRequirement(StepError):
    """requirements.txt asks for what is not installed."""


class CalledExit(StepError):
    """User code called ``sys.exit``."""


def message_of(error: BaseException) -> str:
    """What went wrong, in a sentence, with our hint where there is one."""
    if isinstance(error, KwdbmlError):
        return _short(f"{error.message}; {error.hint}" if error.hint else error.message)
    if isinstance(error, MemoryError):
        told = f"out of memory: {error}" if str(error) else "out of memory"
        return _short(f"{told}; use less, or ask for more with settings.flavour.mem")
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, KeyError) and len(error.args) == 1:
        return _short(f"key {error.args[0]!r} not found")
    try:
        return _short(str(error) or type(error).__name__)
    except Exception as unprintable:  # noqa: BLE001 -- a user's __str__ may raise as well
        return f"(its message cannot be printed: {type(unprintable).__name__})"


def type_of(error: BaseException) -> str:
    return error.type_name if isinstance(error, KwdbmlError) else type(error).__name__


def user_frames(error: BaseException, roots: list[Path]) -> list[str]:
    """The frames below ``roots`` (where bundles were unpacked), outermost first, causes after their effect."""
    lines = list(_frames(error.__traceback__, roots))
    if isinstance(error, SyntaxError) and error.filename:
        place = _relative(error.filename, roots)
        if place:
            lines.append(f"{place}:{error.lineno}: {(error.text or '').strip()}")
    cause = error.__cause__
    if cause is not None and cause is not error:
        inner = list(_frames(cause.__traceback__, roots))
        if inner:
            lines += [f"caused by {type_of(cause)}: {message_of(cause)}", *inner]
    if len(lines) > _MAX_FRAMES:
        half = _MAX_FRAMES // 2
        lines = [*lines[:half], f"… {len(lines) - 2 * half} frames left out …", *lines[-half:]]
    return [clean(line) for line in lines]


def script_of(error: BaseException, roots: list[Path]) -> str | None:
    """The innermost user file that the error passed through."""
    places = (_relative(frame.f_code.co_filename, roots) for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((place for place in reversed(list(places)) if place), None)


def error_report(error: BaseException, step: str, roots: list[Path]) -> dict[str, Any]:
    return {
        "type": clean(type_of(error)),
        "message": clean(message_of(error)),
        "step": step,
        "traceback": user_frames(error, roots),
    }


def clean(text: str) -> str:
    """Text that JSON and PostgreSQL take: no NUL, no lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _short(text: str) -> str:
    text = _NATIVE_STACK.sub("", text)
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + " …"


def _frames(trace: TracebackType | None, roots: list[Path]) -> Iterator[str]:
    for frame, number in traceback.walk_tb(trace):
        place = _relative(frame.f_code.co_filename, roots)
        if place:
            source = linecache.getline(frame.f_code.co_filename, number).strip()
            yield f"{place}:{number} in {frame.f_code.co_name}" + (f": {source}" if source else "")


def _relative(filename: str, roots: list[Path]) -> str | None:
    for root in roots:
        if Path(filename).is_relative_to(root):
            return str(Path(filename).relative_to(root))
    return None
