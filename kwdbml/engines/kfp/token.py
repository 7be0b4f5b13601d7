"""The bearer token for KFP: as it was given, or from a file that somebody renews."""

from __future__ import annotations

import threading
import time

from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.settings import KubeflowSettings, is_word

_FRESH = 180.0  # seconds after which the file is read again; projected tokens live for ten minutes at least


class Token:
    """Safe to use from several threads."""

    def __init__(self, settings: KubeflowSettings) -> None:
        self._given = settings.token.get_secret_value() if settings.token else ""
        self._file = settings.token_file
        self._lock = threading.Lock()
        self._text, self._read_at = "", 0.0

    def value(self) -> str:
        """The token; empty when there is none to send."""
        if self._file is None:
            return self._given
        with self._lock:
            if not self._text or time.monotonic() - self._read_at > _FRESH:
                self._read()
            return self._text

    def renew(self) -> bool:
        """Read the file again; whether that can have helped."""
        if self._file is None:
            return False
        with self._lock:
            self._read()
        return True

    def _read(self) -> None:
        try:
            self._text = self._file.read_text(encoding="utf-8").strip() if self._file else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ApiError(
                f"the token file {self._file} cannot be read: {error}",
                hint="Let the worker read it, or name another one as KWDBML_KFP_TOKEN_FILE.",
                retryable=True,  # who renews it may be just about to
            ) from error
        if not self._text:
            raise ApiError(f"the token file {self._file} is empty", hint="Write the token into it.", retryable=True)
        if not is_word(self._text):
            told = f"the token file {self._file} holds something else than a token"
            raise ApiError(told, hint="Write the token into it, and nothing else.", retryable=True)
        self._read_at = time.monotonic()
