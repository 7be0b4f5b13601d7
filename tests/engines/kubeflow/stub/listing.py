"""KFP's lists: filters, sorting, pages. As SQL does it there: equality ignores case, a substring is a LIKE pattern."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from tests.engines.kubeflow.stub.http import Refusal
from tests.engines.kubeflow.stub.schema import Schema, SchemaError

Json = dict[str, Any]
#: API name of a field → how to read it from a shown document.
Fields = Mapping[str, str]

_NUMBERS = {
    1: "EQUALS", 2: "NOT_EQUALS", 3: "GREATER_THAN", 5: "GREATER_THAN_EQUALS", 6: "LESS_THAN", 7: "LESS_THAN_EQUALS",
    8: "IN", 9: "IS_SUBSTRING",
}  # fmt: skip
_TIMES = {"created_at", "finished_at", "scheduled_at"}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "EQUALS": lambda left, right: bool(left == right),
    "NOT_EQUALS": lambda left, right: bool(left != right),
    "GREATER_THAN": lambda left, right: bool(left > right),
    "GREATER_THAN_EQUALS": lambda left, right: bool(left >= right),
    "LESS_THAN": lambda left, right: bool(left < right),
    "LESS_THAN_EQUALS": lambda left, right: bool(left <= right),
}


def page(
    items: list[Json], query: Mapping[str, str], key: str, fields: Fields, schema: Schema
) -> tuple[list[Json], str, int]:
    """The page of ``items`` that the request asks for, the next page's token, and how many there are in all."""
    size = _size(query.get("page_size", ""))
    token = _token(query.get("page_token", ""))
    if token is None:
        sort, descending = _order(query.get("sort_by", ""), fields)
        predicates = _predicates(query.get("filter", ""), fields, schema)
    else:
        sort, descending, predicates = token["sort"], token["desc"], token["filter"]
        same = not query.get("sort_by") or (sort, descending) == _order(query["sort_by"], fields)
        if not same or (query.get("filter") and _predicates(query["filter"], fields, schema) != predicates):
            raise Refusal(400, "page token does not match the supplied sort by and/or filtering criteria")
    found = [item for item in items if all(_holds(item, one, fields) for one in predicates)]
    found.sort(key=lambda item: (_read(item, fields[sort]), item[key]), reverse=descending)
    total = len(found)
    if token is not None:
        first = (token["value"], token["id"])
        places = [number for number, item in enumerate(found) if _reached(item, first, sort, key, fields, descending)]
        found = found[places[0] :] if places else []
    if len(found) <= size:
        return found, "", total
    following = found[size]
    parts = {"sort": sort, "desc": descending, "filter": predicates, "id": following[key]}
    parts["value"] = _read(following, fields[sort])
    return found[:size], base64.b64encode(json.dumps(parts).encode()).decode(), total


def _reached(item: Json, first: tuple[Any, str], sort: str, key: str, fields: Fields, descending: bool) -> bool:
    here = (_read(item, fields[sort]), item[key])
    return here <= first if descending else here >= first


def _size(text: str) -> int:
    size = int(text or 0)
    if size < 0:
        raise Refusal(400, f"The page size should be greater than 0. Got {size}")
    return min(size, 200) or 20


def _token(text: str) -> Json | None:
    if not text:
        return None
    try:
        token: Json = json.loads(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise Refusal(400, f"Invalid package token: {error}") from error
    return token


def _order(text: str, fields: Fields) -> tuple[str, bool]:
    words = text.lower().split()
    if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
        raise Refusal(400, f"Received invalid sort by format {text!r}")
    name = words[0] if words else "created_at"
    if name not in fields:
        raise Refusal(400, f"Invalid sorting field: {name!r} on listable type Run")
    return name, words[1:] == ["desc"]


def _predicates(text: str, fields: Fields, schema: Schema) -> list[Json]:
    if not text:
        return []
    try:
        document = json.loads(unquote_plus(text))
        schema.check(document, "V2beta1Filter", "filter")
    except (ValueError, SchemaError) as error:
        raise Refusal(400, f"Failed to parse filter: {error}") from error
    return [_predicate(one, fields) for one in document.get("predicates", [])]


def _predicate(given: Json, fields: Fields) -> Json:
    snake = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): value for name, value in given.items()}
    operation = _NUMBERS.get(snake.get("operation", ""), snake.get("operation", ""))
    name = snake.get("key", "")
    values = [(kind, value) for kind, value in snake.items() if kind not in ("operation", "key")]
    if operation not in _NUMBERS.values():
        raise Refusal(400, f"invalid predicate operation: {operation}")
    if name not in fields:
        raise Refusal(400, f"no support for filtering on unrecognized field {name!r}")
    if len(values) != 1:
        raise Refusal(400, f"a predicate has one value; {name!r} has {len(values)}")
    kind, value = values[0]
    if (operation == "IN") != kind.endswith("_values"):
        raise Refusal(400, f"cannot use operator {operation} with {kind}")
    if operation == "IS_SUBSTRING" and kind != "string_value":
        raise Refusal(400, f"cannot use non string value type {kind} with operator IS_SUBSTRING")
    if kind == "timestamp_value":
        value = int(datetime.fromisoformat(value).timestamp())
    elif kind.endswith("_values"):
        value = value["values"]
    elif kind == "long_value":
        value = int(value)
    return {"operation": operation, "key": name, "value": value}


def _holds(item: Json, predicate: Json, fields: Fields) -> bool:
    left, right = _read(item, fields[predicate["key"]]), predicate["value"]
    if isinstance(left, str):
        left = left.lower()
        right = [str(one).lower() for one in right] if isinstance(right, list) else str(right).lower()
    if predicate["operation"] == "IN":
        return left in right
    if predicate["operation"] == "IS_SUBSTRING":
        pattern = "".join({"%": ".*", "_": "."}.get(letter, re.escape(letter)) for letter in right)
        return re.search(pattern, str(left), re.DOTALL) is not None
    if type(left) is not type(right):
        return False
    return _COMPARE[predicate["operation"]](left, right)


def _read(item: Json, field: str) -> Any:
    value = item.get(field)
    if field in _TIMES and isinstance(value, str):
        return int(datetime.fromisoformat(value).timestamp())
    return "" if value is None else value
