"""A small HTTP server over real sockets, which can be told to fail in all the ways a network and a server do."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.engines.kubeflow.stub.faults import Fault, Faults


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]  # names in lower case
    body: bytes
    route: str = ""  # the template that it matched, for the counter

    @property
    def parameters(self) -> dict[str, str]:
        return dict(self.query)

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(slots=True)
class Answer:
    body: Any = None  # JSON, or bytes, or an iterator of bytes (sent in chunks)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.reason = status, message, reason


class Server:
    """Listens on a free port of this machine; ``down`` and ``up`` are a server's death and return at one address."""

    def __init__(self, name: str, answer: Callable[[Request], Answer], refuse: Callable[[Refusal], Answer]) -> None:
        self.name, self.answer, self.refuse = name, answer, refuse
        self.faults = Faults()
        self.calls: Counter[str] = Counter()  # "GET /apis/v2beta1/runs/{run_id}" → how often it was asked
        self.sent: Counter[str] = Counter()  # the same → bytes of its answers (not of those that are streamed)
        self.log: list[tuple[float, str, str, int]] = []  # when, method, path with query, status
        self.tokens: set[str] | None = None  # who may speak to it; None: everybody
        self.broken: list[str] = []  # errors of the stub itself
        self._port = 0
        self._tls: ssl.SSLContext | None = None
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.up()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def secure(self, certificate: Path, key: Path) -> None:
        """Speak TLS from now on."""
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)

    def up(self) -> None:
        """Listen (again)."""
        if self._listener is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=256)
        self._port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), name=self.name, daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Refuse connections, and break those that are open."""
        if self._listener is None or self._thread is None:
            return
        listener, self._listener = self._listener, None
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._thread.join()
        listener.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """As it was at the start; its address stays."""
        self.faults.clear()
        self.up()
        self.tokens = self._tls = None
        self.calls.clear()
        self.sent.clear()
        self.log.clear()
        broken, self.broken = self.broken, []
        assert not broken, "\n".join(broken)

    def close(self) -> None:
        self.faults.clear()
        self.down()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, address), name=self.name, daemon=True).start()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        with suppress(OSError):  # the other side went away
            connection = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with self._lock:
                self._connections.add(connection)
            _Connection(connection, address, self)  # type: ignore[arg-type]
        with self._lock:
            self._connections.discard(connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server  # type: ignore[assignment]

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - http.server's name
        pass

    def _handle(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qsl(url.query, keep_blank_values=True)
        request = Request(self.command, unquote(url.path), query, headers, body)
        fault = self.server.faults.take(request.method, request.path)
        carried_out = fault is None or fault.after or fault.kind == "cut"
        answer = self._answer(request) if carried_out else Answer()
        if fault is not None:
            answer = self._fail(fault, answer)
        route = f"{request.method} {request.route or request.path}"
        self.server.calls[route] += 1
        self.server.sent[route] += len(answer.body) if isinstance(answer.body, bytes) else 0
        self.server.log.append((time.time(), request.method, self.path, answer.status))
        self._send(answer, cut=fault is not None and fault.kind == "cut")

    def _answer(self, request: Request) -> Answer:
        try:
            if self.server.tokens is not None and request.token not in self.server.tokens:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            return self.server.answer(request)
        except Refusal as refusal:
            return self.server.refuse(refusal)
        except Exception as error:  # noqa: BLE001 - a bug of the stub must not look like an answer of the real server
            self.server.broken.append(f"{request.method} {request.path}: {error!r}")
            return Answer({"stub": repr(error)}, 599)

    def _fail(self, fault: Fault, answer: Answer) -> Answer:
        if fault.kind == "hang":
            fault.released.wait(60)
        if fault.kind in ("hang", "drop"):
            raise ConnectionAbortedError
        if fault.kind == "status":
            answer = self.server.refuse(Refusal(fault.status, fault.message))
            answer.body = answer.body if fault.body is None else fault.body
            answer.headers |= fault.headers
        return answer

    def _send(self, answer: Answer, *, cut: bool) -> None:
        if isinstance(answer.body, Iterator):
            self._stream(answer, cut=cut)
            return
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        kind = "text/plain" if isinstance(answer.body, bytes) else "application/json"
        self._head(answer, {"Content-Type": kind, "Content-Length": str(len(data))})
        self.wfile.write(b"".join(self._headers_buffer) + b"\r\n" + (data[: len(data) // 2] if cut else data))
        self._headers_buffer.clear()
        if cut:
            raise ConnectionAbortedError

    def _stream(self, answer: Answer, *, cut: bool) -> None:
        self._head(answer, {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"})
        self.end_headers()
        for data in answer.body:
            if data:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data[: len(data) // 2] if cut else data))
            if cut:
                raise ConnectionAbortedError
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, answer: Answer, headers: dict[str, str]) -> None:
        self._headers_buffer: list[bytes] = []
        self.send_response(answer.status)
        for name, value in (headers | answer.headers).items():
            self.send_header(name, value)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815
