"""Where packages come from: the machine's configuration of uv and pip, as far as it is about that.

uv reads its own configuration; of pip's, which it does not read, the settings about indexes are translated, unless uv
has settings of its own. Nothing else of the worker's environment goes along.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_PLACES = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_CONFIG_FILE")
_UV = re.compile(
    r"UV_(INDEX_STRATEGY|INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|OFFLINE"
    r"|HTTP_TIMEOUT|HTTP_CONNECT_TIMEOUT|HTTP_RETRIES|EXCLUDE_NEWER|CONCURRENT_DOWNLOADS|TORCH_BACKEND)"
)
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT")
#: pip's option: uv's variable, and what stands between several values there.
_PIP = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", ""),
    "proxy": ("ALL_PROXY", ""),
    "timeout": ("UV_HTTP_TIMEOUT", ""),
    "default-timeout": ("UV_HTTP_TIMEOUT", ""),
}
#: What a client needs of /etc: names of hosts, and whom to trust.
_NEEDED = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf",
    "/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/ca-certificates",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Client:
    """``env`` and ``arguments`` for uv, ``paths`` of this machine that it must see, and its own ``uv_toml``, if any."""

    env: Mapping[str, str]
    arguments: tuple[str, ...]
    paths: tuple[str, ...]
    uv_toml: str | None = None


def client(environ: Mapping[str, str], *, closed: Path) -> Client:
    """The machine's configuration. ``closed``: a directory that no configuration may open (the scratch root)."""
    env = {name: value for name, value in environ.items() if name in _PLACES[:-1] or _UV.fullmatch(name)}
    env |= {name: value for name, value in environ.items() if name.upper() in _NETWORK}
    files = [path for path in _uv_files(environ) if path.is_file()]
    settings = [tomllib.loads(path.read_text(encoding="utf-8")) for path in files]
    arguments: tuple[str, ...] = ()
    if not files and not any(name in environ for name in _PLACES):
        pip = _pip_options(environ)
        for option, (variable, between) in _PIP.items():
            if option in pip:
                env.setdefault(variable, between.join(pip[option].split()) if between else pip[option])
        arguments = ("--no-index",) if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else ()
    named = [part for name in (*_PLACES, *_NETWORK[-3:]) for part in re.split(r"[\s,]+", env.get(name, ""))]
    places = [_opened(path, closed) for path in _local([*named, *_strings(settings)])]
    paths = dict.fromkeys(path for path in (*_NEEDED, *places) if Path(path).exists())
    return Client(env, arguments, tuple(paths), files[-1].read_text(encoding="utf-8") if files else None)


def _uv_files(environ: Mapping[str, str]) -> list[Path]:
    """uv's files of this machine, the one that counts last."""
    if "UV_CONFIG_FILE" in environ:
        return [Path(environ["UV_CONFIG_FILE"])]
    return [Path("/etc/uv/uv.toml"), _config_home(environ) / "uv" / "uv.toml"]


def _config_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/nonexistent") / ".config")


def _pip_options(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's options, from its files in pip's own order and then from its variables."""
    home = Path(environ.get("HOME") or "/nonexistent")
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip" / "pip.conf"]
    files += [_config_home(environ) / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen is not None:
        files = [] if chosen == os.devnull else [*files, Path(chosen)]
    found: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        parser.read(file, encoding="utf-8")
        for section in ("global", "install"):
            found |= dict(parser[section]) if parser.has_section(section) else {}
    for name, value in environ.items():
        if name.startswith("PIP_"):
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


def _strings(values: Any) -> Iterator[str]:
    """Every text in what a TOML file holds: some of them are places."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _strings(value)


def _local(values: Iterable[str]) -> Iterator[str]:
    """The paths among them; uv writes an index with a name as ``name=URL``."""
    for value in values:
        place = re.sub(r"^[A-Za-z0-9._-]+=", "", value)
        if place.startswith("file://"):
            yield os.path.normpath(unquote(urlsplit(place).path))
        elif place.startswith("/"):
            yield os.path.normpath(place)


def _opened(path: str, closed: Path) -> str:
    """What must be seen for a place: an index in a directory ``simple`` points to the files beside it."""
    around = Path(path).parent
    protected = (closed.resolve(), Path.home(), Path("/etc"))
    if Path(path).name != "simple" or any(one.is_relative_to(around.resolve()) for one in protected):
        return path
    return str(around)
