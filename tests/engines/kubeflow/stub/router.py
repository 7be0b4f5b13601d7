"""From a request to the method that answers it, by the calls of the official client; checks both ways."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from tests.engines.kubeflow.stub.http import Answer, Refusal, Request
from tests.engines.kubeflow.stub.schema import Operation, Schema, SchemaError, operations
from tests.engines.kubeflow.stub.world import World

Json = dict[str, Any]


class Router:
    """A base: its methods are named as the client's, without one of the ``prefixes``."""

    prefixes: tuple[str, ...] = ()
    #: Query parameters that the server knows and its OpenAPI document does not.
    unwritten: ClassVar[dict[str, dict[str, str]]] = {}

    def __init__(self, world: World, schema: Schema, apis: Iterable[type]) -> None:
        self.world, self.schema = world, schema
        self.calls: list[Operation] = [call for api in apis for call in self._calls(api)]

    def _calls(self, api: type) -> Iterator[Operation]:
        yield from operations(api)

    def handle(self, request: Request) -> Answer:
        call, names = self._find(request)
        request.route = call.template
        arguments = dict(names)
        self._check_query(call, request)
        handler = getattr(self, self._short(call.name), None)
        if handler is None:
            raise Refusal(501, f"{call.name} is beyond this stub")
        body = self._body(call, request)
        with self.world.lock:
            made = handler(request, **arguments) if body is None else handler(request, body=body, **arguments)
            if isinstance(made, Answer):
                return made
            answer = Answer(json.dumps(made), 200)  # written while nobody changes it
        self._check_answer(call, answer.body)
        answer.body = answer.body.encode()
        answer.headers["Content-Type"] = "application/json"
        return answer

    def _find(self, request: Request) -> tuple[Operation, dict[str, str]]:
        there = False
        for call in self.calls:
            found = call.pattern.fullmatch(request.path)
            if found is not None and call.method == request.method:
                return call, found.groupdict()
            there = there or found is not None
        raise Refusal(405 if there else 404, f"{request.method} {request.path}: no such call")

    def _short(self, name: str) -> str:
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        return name

    def _check_query(self, call: Operation, request: Request) -> None:
        known = call.query | self.unwritten.get(self._short(call.name), {})
        for name, value in request.query:
            if name not in known:
                raise Refusal(400, f"{call.name} has no parameter {name!r}")
            wrong = known[name] == "int" and not value.removeprefix("-").isdigit()
            if wrong or (known[name] == "bool" and value.lower() not in ("true", "false")):
                raise Refusal(400, f"parameter {name!r} is no {known[name]}: {value!r}")
        if missing := call.required - set(request.parameters):
            raise Refusal(400, f"{call.name} needs {sorted(missing)}")

    def _body(self, call: Operation, request: Request) -> Any:
        if call.body is None:
            if request.body not in (b"", b"{}") and "multipart" not in request.headers.get("content-type", ""):
                raise Refusal(400, f"{call.name} has no body")
            return None
        try:
            body = json.loads(request.body or b"null")
            self.check_body(call, request, body)
        except (ValueError, SchemaError) as error:
            raise Refusal(400, f"{call.name}: {error}") from error
        return body

    def check_body(self, call: Operation, request: Request, body: Any) -> None:
        assert call.body is not None
        if not isinstance(body, dict):
            raise SchemaError("the body is no object")
        self.schema.check(body, call.body)

    def _check_answer(self, call: Operation, written: str) -> None:
        """SchemaError is a bug of this stub; only a forced state may be unknown to the client."""
        if self.world.check_answers and call.answer is not None and not self.world.has_forced():
            self.schema.check_answer(json.loads(written), call.answer)
