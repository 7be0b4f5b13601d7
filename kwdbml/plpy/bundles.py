"""What is looked at of an uploaded bundle inside the server: its central directory, and no more.

Nothing is decompressed, unpickled or executed here; the step that runs the bundle checks again while it extracts.
"""

from __future__ import annotations

import binascii
import contextlib
import io
import re
import stat
import struct
import zipfile

from kwdbml.errors import InvalidParameter, LimitExceeded, NullNotAllowed

MAX_FILES = 10_000
#: What a bundle may become: so many bytes always, and beyond it so many times its own size. The step allows as much.
MIN_EXPANSION, RATIO = 1 << 30, 20
#: Bytes of the central directory. It is a stranger's and becomes objects of ten times its size in the server.
MAX_DIRECTORY = 4 << 20
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_OTHER_METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstandard", 95: "xz"}
_END = b"PK\5\6"
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
    entries = _entries(value, argument)
    if len(entries) > MAX_FILES:
        raise LimitExceeded(f"{argument} has {len(entries)} files, the limit is {MAX_FILES}", hint="Pack fewer files.")
    for entry in entries:
        _check_entry(entry, argument)
    _check_layout(entries, len(value), argument)
    total, most = sum(e.file_size for e in entries), max(MIN_EXPANSION, RATIO * len(value))
    if total > most:
        raise LimitExceeded(
            f"{argument} expands to {total} bytes, the limit is {most}",
            hint="Large files that compress so well have no place in a bundle.",
        )
    return {e.filename for e in entries}


def _entries(value: bytes, argument: str) -> list[zipfile.ZipInfo]:
    """The central directory, once it is known to be of a bearable size."""
    _check_end(value, argument)
    try:
        with zipfile.ZipFile(io.BytesIO(value)) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise InvalidParameter(
            f"{argument} is not a ZIP file: {error}", hint="See docs/bundles.md for what a bundle holds."
        ) from None


def _check_end(value: bytes, argument: str) -> None:
    """The end record, found as ``zipfile`` finds it: at the very end, else the last one within reach of a comment."""
    plain = value[-22:-18] == _END and value.endswith(b"\0\0")
    at = len(value) - 22 if plain else value.rfind(_END, max(0, len(value) - 22 - (1 << 16)))
    if at < 0:
        return  # no ZIP: ``zipfile`` says so
    if value[max(0, at - 20) : at].startswith(b"PK\6\7"):
        raise InvalidParameter(
            f"{argument} is a ZIP64 file", hint="Pack it as an ordinary ZIP: a bundle is far from needing more."
        )
    size = int.from_bytes(value[at + 12 : at + 16], "little")
    if size > MAX_DIRECTORY:
        raise LimitExceeded(
            f"{argument} has a central directory of {size} bytes, the limit is {MAX_DIRECTORY}",
            hint="Pack fewer files.",
        )


def _check_layout(entries: list[zipfile.ZipInfo], size: int, argument: str) -> None:
    """No path twice, and no two entries that share bytes: a few kilobytes could stand for gigabytes."""
    seen: set[str] = set()
    for entry in entries:
        if not entry.is_dir() and entry.filename in seen:
            raise InvalidParameter(f'{argument} holds "{entry.filename}" twice', hint="Pack each file once.")
        seen.add(entry.filename)
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise InvalidParameter(
                f'{argument} holds entries that overlap: "{entry.filename}"', hint="Pack the files anew."
            )
        end = entry.header_offset + 30 + entry.compress_size  # the local header's fixed part, and the content
    if end > size:
        raise InvalidParameter(f"{argument} is cut off or damaged: an entry ends behind its end", hint="Send it whole.")


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
    if entry.flag_bits & 0x41:  # the old way and the strong one
        raise InvalidParameter(f'{argument} is encrypted: "{path}"', hint="Pack it without a password.")
    if entry.compress_type not in _METHODS:
        name = _OTHER_METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        raise InvalidParameter(
            f'{argument} has a file that is compressed in another way ({name}) than deflate: "{path}"',
            hint="Pack it with deflate or without compression.",
        )


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


#: What a model's one file in model/ may be called, by framework; TensorFlow's is a directory of digits.
_MODEL_FILES = {
    "sklearn": (".joblib", ".pkl", ".pickle"),
    "xgboost": (".joblib", ".pkl", ".pickle", ".json"),
    "lightgbm": (".joblib", ".pkl", ".pickle", ".txt"),
}


def check_model(paths: set[str], framework: str) -> None:
    """A model bundle holds one model of its framework: ``model/model.<ending>``, or a SavedModel for TensorFlow."""
    if framework == "tensorflow":
        found = sorted(p for p in paths if re.fullmatch(r"model/\d+/saved_model\.pb", p))
        wanted = "model/001/ with a SavedModel (saved_model.pb, variables/ …)"
    else:
        endings = _MODEL_FILES.get(framework, ())
        if not endings:
            known = ", ".join([*_MODEL_FILES, "tensorflow"])
            raise InvalidParameter(
                f'nothing here runs "{framework}"', hint=f"An admin sets runs_as in kwdbml.runtime to one of {known}."
            )
        found = sorted(p for p in paths if p.startswith("model/model.") and p.endswith(endings) and p.count(".") == 1)
        wanted = "one file " + ", ".join(f"model/model{ending}" for ending in endings)
    if len(found) != 1:
        many = f"several models: {', '.join(found)}" if found else "no model"
        raise InvalidParameter(
            f"model_entity has {many}", hint=f"For {framework} it holds {wanted}. See docs/bundles.md."
        )
