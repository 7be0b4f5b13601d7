"""What a request or an answer may look like, read off the official generated clients.

Both clients (``kfp_server_api``, ``kubernetes``) are generated from the servers' OpenAPI documents: their models say
each field's type (``openapi_types``), its JSON name (``attribute_map``) and, for enums, the values; their methods say
each call's path, parameters and body. Nothing is written down twice here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from types import ModuleType
from typing import Any

_SCALARS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


class SchemaError(Exception):
    """A document that is not what the schema says; the message names the place."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of an API."""

    name: str
    method: str
    template: str  # /apis/v2beta1/runs/{run_id}
    pattern: re.Pattern[str]
    query: dict[str, str]  # name → type
    required: frozenset[str]  # query parameters that must be there
    body: str | None  # type of the body
    answer: str | None  # type of the answer


class Schema:
    """The models of one generated client."""

    def __init__(self, models: ModuleType, client: Any, *, lenient_case: bool) -> None:
        self._models = models
        self._client = client
        self._lenient_case = lenient_case  # protobuf's JSON: camelCase and numbers of enums are accepted as well

    def check(self, value: Any, kind: str, where: str = "") -> None:
        """SchemaError when ``value`` (JSON) is no ``kind`` (as the generated models write types)."""
        if value is None or kind in ("object", "file"):
            return
        if kind.startswith("list["):
            _demand(isinstance(value, list), where, "is no list")
            for number, item in enumerate(value):
                self.check(item, kind[5:-1], f"{where}[{number}]")
        elif kind.startswith("dict("):
            _demand(isinstance(value, dict), where, "is no object")
            for key, item in value.items():
                self.check(item, kind[5:-1].partition(",")[2].strip(), f"{where}.{key}")
        elif kind == "datetime":
            _check_time(value, where)
        elif kind in _SCALARS:
            right = isinstance(value, _SCALARS[kind]) and (kind == "bool" or not isinstance(value, bool))
            _demand(right, where, f"is no {kind}: {value!r}")
        else:
            self._check_model(value, kind, where)

    def _check_model(self, value: Any, kind: str, where: str) -> None:
        model = getattr(self._models, kind)
        values = getattr(model, "allowable_values", None)
        if values is not None:
            numbered = self._lenient_case and isinstance(value, int) and 0 <= value <= len(values) + 1
            _demand(numbered or value in values, where, f"is none of {values}: {value!r}")
            return
        _demand(isinstance(value, dict), where, f"is no {kind}")
        fields = {model.attribute_map[name]: type_ for name, type_ in model.openapi_types.items()}
        for key, item in value.items():
            name = _snake(key) if self._lenient_case and key not in fields else key
            _demand(name in fields, where, f"has no field {key!r} ({kind})")
            self.check(item, fields[name], f"{where}.{key}")

    def check_answer(self, value: Any, kind: str) -> None:
        """As above, and the official client reads it and writes back the same."""
        self.check(value, kind)
        read = getattr(self._client, f"_{type(self._client).__name__}__deserialize")(value, kind)
        written = self._client.sanitize_for_serialization(read)
        _demand(_plain(written) == _plain(value), kind, f"changes when the client reads it: {value!r} is {written!r}")


def _demand(right: bool, where: str, problem: str) -> None:
    if not right:
        raise SchemaError(f"{where.lstrip('.') or 'body'} {problem}")


def _check_time(value: Any, where: str) -> None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    _demand(moment is not None and moment.tzinfo is not None, where, f"is no RFC 3339 time: {value!r}")


def _snake(key: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower()


def _plain(value: Any) -> Any:
    """A document without what JSON may leave out or write in two ways: nulls, and times."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return value
    return value


# -- the calls ------------------------------------------------------------------------------------------------------

_CALL = re.compile(r"call_api\(\s*'([^']+)', '([A-Z]+)'.*?response_type=(None|'[^']+')", re.DOTALL)
_QUERY = re.compile(r"query_params\.append\(\('([^']+)', local_var_params\['([^']+)'\]\)\)")
_REQUIRED = re.compile(r"Missing the required parameter `([^`]+)`")


@cache
def operation(api: type, method: str) -> Operation:
    """The call that ``api.method`` makes."""
    source = inspect.getsource(getattr(api, f"{method}_with_http_info"))
    call = _CALL.search(source)
    assert call is not None, f"{api.__name__}.{method} is not generated as it used to be"
    body = re.search(r"body_params = local_var_params\['([^']+)'\]", source)
    names = {python: wire for wire, python in _QUERY.findall(source)}
    return Operation(
        name=method,
        method=call[2],
        template=call[1],
        pattern=re.compile(
            re.sub(r"\{[^}]+\}", lambda found: f"(?P<{found[0][1:-1].replace('.', '__')}>[^/:]+)", call[1])
        ),
        query={wire: _type_of(source, python) for python, wire in names.items()},
        required=frozenset(names[one] for one in _REQUIRED.findall(source) if one in names),
        body=_type_of(source, body[1]) if body else None,
        answer=None if call[3] == "None" else call[3].strip("'"),
    )


def operations(api: type) -> Iterator[Operation]:
    """All calls of an API class (its source is read: seconds for Kubernetes' big ones)."""
    for name in dir(api):
        if name.endswith("_with_http_info"):
            yield operation(api, name.removesuffix("_with_http_info"))


def _type_of(source: str, parameter: str) -> str:
    """Both generators' docstrings: ``:type page_size: int`` and ``:param int limit:``."""
    found = re.search(rf":type {parameter}: (.+)", source) or re.search(rf":param (\S+) {parameter}:", source)
    return found[1].strip() if found else "object"
