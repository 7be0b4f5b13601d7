"""What is looked at of an uploaded bundle inside the server: its central directory, and no more.

Nothing is decompressed, unpickled or executed here; the step that runs the bundle checks again while it extracts.
"""

from __future__ import annotations

import binascii
import contextlib
import io
import re
import stat
import zipfile

from kwdbml.errors import InvalidParameter, LimitExceeded, NullNotAllowed

MAX_FILES = 10_000
#: What a bundle may become: so many bytes always, and beyond it so many times its own size. The step allows as much.
MIN_EXPANSION, RATIO = 1 << 30, 20
_HEX_ZIP = re.compile(rb"504[bB]0[0-9][0-9a-fA-F]{2}")


def required(value: bytes | None, argument: str) -> bytes:
    """The bytes of a ZIP argument that must be there."""
    if value is None:
        raise NullNotAllowed(
            f"{argument} is NULL", hint="Give the bytes of a ZIP file: pg_read_binary_file, or a driver's setBytes."
        )
    return unhexed(value)


def unhexed(value: bytes) -> bytes:
    """The bytes themselves when they are a ZIP's hexadecimal text without ``\\x``, as in the vendor's JDBC example."""
    if _HEX_ZIP.match(value):
        with contextlib.suppress(binascii.Error):
            return binascii.unhexlify(value)
    return value


def names(value: bytes, argument: str, limit: int) -> set[str]:
    """The paths in a ZIP that is safe to extract. 22023 or 54000 says what is wrong with it."""
    if len(value) > limit:
        raise LimitExceeded(
            f"{argument} has {len(value)} bytes, the limit is {limit}",
            hint="An admin can raise bundle_limit in kwdbml.settings.",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(value)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InvalidParameter(
            f"{argument} is not a ZIP file: {error}", hint="See docs/bundles.md for what a bundle holds."
        ) from None
    if len(entries) > MAX_FILES:
        raise LimitExceeded(f"{argument} has {len(entries)} files, the limit is {MAX_FILES}", hint="Pack fewer files.")
    for entry in entries:
        _check_entry(entry, argument)
    total, most = sum(e.file_size for e in entries), max(MIN_EXPANSION, RATIO * len(value))
    if total > most:
        raise LimitExceeded(
            f"{argument} expands to {total} bytes, the limit is {most}",
            hint="Large files that compress so well have no place in a bundle.",
        )
    return {e.filename for e in entries}


def _check_entry(entry: zipfile.ZipInfo, argument: str) -> None:
    path = entry.filename
    if (
        path.startswith("/")
        or "\\" in path
        or ":" in path.split("/")[0]
        or ".." in path.split("/")
        or "\0" in entry.orig_filename
    ):
        raise InvalidParameter(
            f'{argument} has a path that leads outside: "{path}"',
            hint="Paths are relative to the ZIP's root and hold no ..",
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InvalidParameter(f'{argument} has a link or special file: "{path}"', hint="Pack the file itself.")
    if entry.flag_bits & 0x1:
        raise InvalidParameter(f'{argument} is encrypted: "{path}"', hint="Pack it without a password.")


def pipeline_scripts(paths: set[str]) -> list[str]:
    """Which of the three scripts a training-pipeline bundle brings; ``train`` is required."""
    if "pipeline/train.py" not in paths:
        hint = "The bundle holds pipeline/train.py with a function model_train(x_train, y_train, x_test, y_test)."
        if "train.py" in paths:
            hint = "train.py lies in the ZIP's root: put the scripts into a folder pipeline/."
        raise InvalidParameter("pipeline_entity lacks pipeline/train.py", hint=hint)
    return [s for s in ("train", "evaluate", "batch_predict") if f"pipeline/{s}.py" in paths]


def check_transformer(paths: set[str]) -> None:
    """A data-preparation bundle brings at least one of its two scripts."""
    scripts = ("prediction/data_preparation_prediction.py", "training/data_preparation_training.py")
    if not any(s in paths for s in scripts):
        raise InvalidParameter(
            f"transformer_entity has neither {scripts[0]} nor {scripts[1]}",
            hint="See docs/bundles.md for what a bundle holds.",
        )
