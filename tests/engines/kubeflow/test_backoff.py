"""What a failure means, and when it is worth asking again."""

from __future__ import annotations

import itertools
import time
from email.utils import formatdate

import pytest
from urllib3 import exceptions as http
from urllib3.connection import HTTPConnection

from kwdbml.engines.kfp import backoff
from kwdbml.engines.kfp.backoff import ApiError, NotItself, Server

SERVER = Server(
    "KFP",
    "http://kfp:8888",
    "KWDBML_KFP_HOST",
    "Give a token.",
    "Bind a role.",
    "Give a CA.",
    own=lambda said: "code" in said,
)


def refused(status: int, body: bytes = b"", **headers: str) -> ApiError:
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return backoff.refused(SERVER, "listing runs", status, found, body)


@pytest.mark.parametrize(
    ("status", "retryable", "sent", "hint"),
    [
        (302, True, False, "login page"),
        (400, False, False, "version"),
        (401, False, False, "Give a token."),
        (403, False, False, "Bind a role."),
        (404, False, False, ""),
        (408, True, True, "busy"),
        (409, False, False, ""),
        (418, False, False, "version"),
        (429, True, False, "busy"),
        (500, True, True, "busy"),
        (503, True, True, "busy"),
        (504, True, True, "busy"),
    ],
)
def test_statuses(status: int, retryable: bool, sent: bool, hint: str) -> None:
    error = refused(status, b'{"code": 5, "message": "the words of the server", "details": []}')
    assert (error.retryable, error.sent) == (retryable, sent)
    assert (error.curable, error.stranger) == (status in (302, 401, 403), status in (302, 401))
    assert hint in error.hint
    assert "listing runs" in error.message
    assert status == 302 or "the words of the server" in error.message + error.detail
    assert error.type_name == "EngineError"


@pytest.mark.parametrize("status", [400, 404, 405, 407, 409, 410, 413, 421, 422, 500, 501, 507, 520, 521])
@pytest.mark.parametrize(
    ("body", "own"),
    [
        (b'{"code": 5, "message": "Run 1 not found", "details": []}', True),
        (b'{"kind": "Status", "reason": "NotFound"}', False),  # of a proxy that is Kubernetes
        (b"default backend - 404", False),
        (b"<html>404 Not Found</html>", False),
        (b"[5]", False),
        (b"\xff", False),
        (b"", False),
    ],
)
def test_a_refusal_is_believed_in_the_servers_own_words(body: bytes, own: bool, status: int) -> None:
    error = refused(status, body)
    assert (error.status, error.curable) == ((status, False) if own else (None, True))
    assert error.retryable is (not own or status == 500)
    assert isinstance(error, NotItself) is not own
    assert own or ("what answers at http://kfp:8888 is not KFP" in error.message and error.sent)
    assert own or "KWDBML_KFP_HOST" in error.hint


@pytest.mark.parametrize("status", [401, 403, 429, 502, 503])
def test_what_a_gate_says_for_the_server_is_taken(status: int) -> None:
    """A proxy that knows nobody, or finds nobody behind it, has the same cure."""
    mine, its = refused(status, b'{"code": 7}', Retry_After="7"), refused(status, b"<html>", Retry_After="7")
    told = [(e.status, e.retryable, e.curable, e.stranger, e.sent, e.retry_after, e.hint) for e in (mine, its)]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"id": ', "no JSON"),
        (b"ok", "no JSON"),
        (b"", "no JSON"),
        (b"<html>", "a page"),
        (b"[]", "another kind"),
        (b'{"message": "maintenance"}', "in other words"),
        (b'{"id": {}}', "in other words"),
    ],
)
def test_a_success_is_believed_in_the_servers_own_words(body: bytes, words: str) -> None:
    with pytest.raises(NotItself, match=f"is not KFP: it answered .*{words}") as caught:
        backoff.heard(SERVER, "looking", body, lambda answer: int(answer["id"]))
    assert (caught.value.retryable, caught.value.curable, caught.value.sent) == (True, True, True)
    assert caught.value.stranger is body.startswith(b"<")
    assert backoff.heard(SERVER, "looking", b'{"id": "7"}', lambda answer: int(answer["id"])) == 7


def test_how_long_the_server_asks_for() -> None:
    assert refused(429, Retry_After="7").retry_after == 7.0
    assert refused(503).retry_after is None
    assert refused(503, retry_after="soon").retry_after is None
    waited = refused(503, Retry_After=formatdate(time.time() + 60, usegmt=True)).retry_after
    assert waited is not None
    assert 50 < waited <= 60


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"message": "a\\n b"}', "a b"),
        (b'{"error_message": "up", "error_details": "x"}', "up"),
        (b"<html>502</html>", ""),
        (b"upstream gone", "upstream gone"),
        (b"[1]", "[1]"),
        (b"\xff", "�"),
        (b"", ""),
        (b"x" * 9999, "x" * 500),
    ],
)
def test_what_a_body_says(body: bytes, told: str) -> None:
    assert backoff.told(body) == told


def test_no_answer_at_all() -> None:
    where = HTTPConnection("kfp")
    cases = [
        (http.NewConnectionError(where, "refused"), "cannot be reached", True, False),
        (http.ConnectTimeoutError(), "cannot be reached", True, False),
        (http.ReadTimeoutError(None, "/", "slow"), "did not answer in time", True, True),  # type: ignore[arg-type]
        (http.ProtocolError("aborted"), "broke the connection", True, True),
        (http.IncompleteRead(1, 2), "broke the connection", True, True),
        (ConnectionResetError(), "broke the connection", True, True),
        (http.SSLError("self-signed"), "certificate that is not trusted", False, False),
        (http.LocationParseError("x"), "is no address", False, False),
    ]
    for error, message, retryable, sent in cases:
        found = backoff.unreachable(SERVER, "listing runs", error)
        assert message in found.message
        assert (found.retryable, found.sent, found.status) == (retryable, sent, None)
        assert found.hint


def test_pauses_grow_and_are_spread() -> None:
    longest = list(itertools.islice(backoff.pauses(1, 8, rng=lambda: 1.0), 6))
    shortest = list(itertools.islice(backoff.pauses(1, 8, rng=lambda: 0.0), 6))
    assert longest == [1, 2, 4, 8, 8, 8]
    assert shortest == [0.5, 1, 2, 4, 4, 4]


def test_repeated_until_it_works() -> None:
    answers = iter([refused(503), refused(429, Retry_After="3"), None])
    slept: list[float] = []

    def call() -> str:
        if error := next(answers):
            raise error
        return "done"

    assert backoff.repeated(call, sleep=slept.append) == "done"
    assert len(slept) == 2
    assert slept[0] <= 0.25
    assert slept[1] == 3.0


@pytest.mark.parametrize(
    ("error", "calls"),
    [(refused(503), backoff.ATTEMPTS), (refused(403), 1), (refused(503, Retry_After="120"), 1)],
    ids=["away", "no", "asks for more than a thread may be held"],
)
def test_repeated_only_where_it_can_help(error: ApiError, calls: int) -> None:
    made = []

    def call() -> None:
        made.append(1)
        raise error

    with pytest.raises(ApiError) as caught:
        backoff.repeated(call, sleep=lambda seconds: None)
    assert caught.value is error
    assert len(made) == calls
