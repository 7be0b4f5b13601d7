"""The object store on a real S3 server that checks signatures."""

from __future__ import annotations

import datetime
import hashlib
import io
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kwdbml.engines.kfp.objectstore import ObjectStore, Part, Stored
from kwdbml.engines.kfp.storeerrors import StoreError
from kwdbml.errors import EngineError
from tests.fixtures.objectstore import Fault, Flaky, MakeSettings
from tests.fixtures.s3 import S3Server

RUN = "kwdbml-test-1"


def stored(content: bytes) -> Stored:
    return Stored(len(content), hashlib.sha256(content).hexdigest())


def send(address: str, content: bytes) -> int:
    request = urllib.request.Request(address, data=content, method="PUT", headers={"Content-Type": "x/y"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.status)


def refused(address: str, content: bytes | None = None) -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        send(address, content) if content is not None else urllib.request.urlopen(address, timeout=30)
    with caught.value as error:
        return error.code


@pytest.fixture
def ages_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is signed now was signed an hour ago."""
    now = datetime.datetime.now(datetime.UTC)
    past = (now - datetime.timedelta(hours=1)).replace(tzinfo=None)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: past)


def test_small_objects(store: ObjectStore, s3_bucket: S3Server) -> None:
    key = store.key(RUN, "in", "job.json")
    assert store.put(key, b"{}") == stored(b"{}")
    assert s3_bucket.keys() == [f"kwdbml/{RUN}/in/job.json"]
    assert (store.get(key, limit=2), store.size(key), store.exists(key)) == (b"{}", 2, True)
    other = store.key(RUN, "in", "other")
    assert (store.get(other, limit=2), store.size(other), store.exists(other)) == (None, None, False)
    with pytest.raises(EngineError, match="longer than 1 bytes"):
        store.get(key, limit=1)


@pytest.mark.parametrize("name", ["", "a/b", "..", "."])
def test_a_run_has_a_name_of_its_own(store: ObjectStore, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a run"):
        store.key(name)


@pytest.mark.parametrize("size", [0, 1, 5 << 20, (12 << 20) + 1])
def test_a_stream_is_sent_in_parts_and_comes_back(store: ObjectStore, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    key = store.key(RUN, "in", "data")
    assert store.send(key, io.BytesIO(content)) == stored(content)
    assert not list(store.unfinished(store.key(RUN)))
    store.fetch(key, tmp_path / "data", stored(content))
    assert (tmp_path / "data").read_bytes() == content


def test_what_could_not_be_written_whole_leaves_nothing(store: ObjectStore, s3_bucket: S3Server) -> None:
    with pytest.raises(ZeroDivisionError), store.writer(store.key(RUN, "in", "data")) as writer:  # noqa: PT012
        writer.write(bytes(11 << 20))
        assert list(store.unfinished(store.key(RUN)))
        _ = 1 / 0
    assert not list(store.unfinished(store.key(RUN)))
    assert s3_bucket.keys() == []


def test_a_damaged_object_is_told_by_its_name(store: ObjectStore, s3_bucket: S3Server, tmp_path: Path) -> None:
    key = store.key(RUN, "out", "model.zip")
    store.put(key, b"as it was")
    (s3_bucket.path / key).write_bytes(b"as it is?")
    (tmp_path / "canary").write_text("untouched")
    for content in (b"as it is?", b"as", b"as it was, and more"):
        (s3_bucket.path / key).write_bytes(content)
        with pytest.raises(EngineError, match=f"{RUN}/out/model.zip is damaged: its SHA-256") as caught:
            store.fetch(key, tmp_path / "model.zip", stored(b"as it was"))
        assert caught.value.retryable
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    (s3_bucket.path / key).write_bytes(b"as it was")
    store.fetch(key, tmp_path / "model.zip", stored(b"as it was"))


def test_a_link_that_waits_for_the_download_is_not_followed(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("untouched")
    for name in ("model.zip", ".model.zip.part"):
        (tmp_path / name).symlink_to("canary")
    store.put(store.key(RUN, "out", "model.zip"), b"new")
    store.fetch(store.key(RUN, "out", "model.zip"), tmp_path / "model.zip", stored(b"new"))
    assert (tmp_path / "canary").read_text() == "untouched"
    assert not (tmp_path / "model.zip").is_symlink()


def test_a_download_goes_on_where_it_broke(s3_settings: MakeSettings, flaky: Flaky, tmp_path: Path) -> None:
    store = ObjectStore(s3_settings(endpoint=flaky.endpoint))
    content = os.urandom(6 << 20)
    key = store.key(RUN, "out", "model.zip")
    store.send(key, io.BytesIO(content))
    flaky.fail("model.zip", Fault(after=3 << 20), Fault(status=503, code="SlowDown"))
    flaky.seen.clear()
    store.fetch(key, tmp_path / "model.zip", stored(content))
    assert (tmp_path / "model.zip").read_bytes() == content
    first, *others = flaky.seen
    assert first.first == 0
    assert [seen.first for seen in others] == [others[0].first] * 2
    assert 2 << 20 <= others[0].first < 3 << 20


def test_signed_addresses(store: ObjectStore, s3_bucket: S3Server) -> None:
    key = store.key(RUN, "out", "result.json")
    assert send(store.url_put(key, 60), b"{}") == 200
    with urllib.request.urlopen(store.url_get(key, 60), timeout=30) as answer:
        assert answer.read() == b"{}"
    upload = store.begin(store.key(RUN, "out", "model.zip"))
    for number, content in enumerate((bytes(5 << 20), b"end"), 1):
        assert send(store.url_part(store.key(RUN, "out", "model.zip"), upload, number, 60), content) == 200
    tags = [hashlib.md5(content).hexdigest() for content in (bytes(5 << 20), b"end")]
    parts = [Part(number, f'"{tag}"') for number, tag in enumerate(tags, 1)]
    store.complete(store.key(RUN, "out", "model.zip"), upload, parts)
    assert store.size(store.key(RUN, "out", "model.zip")) == (5 << 20) + 3
    with pytest.raises(StoreError) as caught:
        store.complete(store.key(RUN, "out", "model.zip"), upload, parts)
    assert caught.value.missing


def test_a_signed_address_opens_one_door(store: ObjectStore, s3_bucket: S3Server) -> None:
    mine, others = store.key(RUN, "out", "result.json"), store.key("kwdbml-test-2", "out", "result.json")
    store.put(others, b"canary")
    assert refused(store.url_put(mine, 60).replace(RUN, "kwdbml-test-2"), b"x") == 403
    assert refused(store.url_get(mine, 60).replace(RUN, "kwdbml-test-2")) == 403
    assert refused(store.url_get(others, 60), b"x") == 403  # to read is not to write
    put = store.url_put(mine, 60)
    assert refused(put[:-1] + ("1" if put[-1] == "0" else "0"), b"x") in (400, 403)
    assert s3_bucket.keys() == [others]
    assert store.get(others, limit=10) == b"canary"


def ask(address: str, method: str, **headers: str) -> int:
    """How the store answers what an address was not signed for."""
    content = b"x" if method == "PUT" else None
    request = urllib.request.Request(address, data=content, method=method, headers={"Content-Type": "x/y", **headers})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    with caught.value as error:
        return error.code


def test_nothing_else_can_be_made_of_an_address(store: ObjectStore, s3_bucket: S3Server) -> None:
    others, model = store.key("kwdbml-test-2", "in", "data.parquet"), store.key(RUN, "out", "model.zip")
    store.put(others, b"canary")
    upload = store.begin(model)
    get, put = store.url_get(others, 60), store.url_put(store.key(RUN, "out", "result.json"), 60)
    part = store.url_part(model, upload, 1, 60)
    copy = {"x-amz-copy-source": f"/{s3_bucket.bucket}/{others}"}  # what somebody else has, to where we may write
    answers = {
        "deleted": ask(get, "DELETE"),
        "written to delete": ask(put, "DELETE"),
        "written to read": ask(put, "GET"),
        "all listed": ask(f"{get}&list-type=2", "GET"),
        "opened for all": ask(f"{put}&acl=", "PUT"),
        "longer": ask(get.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"), "GET"),
        "copied": ask(put, "PUT", **copy),
        "copied into a part": ask(part, "PUT", **copy),
        "another part": ask(part.replace("partNumber=1", "partNumber=2"), "PUT"),
        "another upload": ask(part.replace(upload, "0" * len(upload)), "PUT"),
        "another's part": ask(part.replace(RUN, "kwdbml-test-2"), "PUT"),
    }
    assert set(answers.values()) == {403}, answers
    assert s3_bucket.keys() == [others]
    assert store.get(others, limit=10) == b"canary"


def test_an_address_expires(store: ObjectStore, ages_ago: None) -> None:
    key = store.key(RUN, "out", "result.json")
    assert refused(store.url_put(key, 60), b"x") in (400, 403)
    assert send(store.url_put(key, 7200), b"x") == 200


def test_pods_get_the_address_that_they_can_reach(s3_settings: MakeSettings) -> None:
    store = ObjectStore(s3_settings(pod_endpoint="http://store.kubeflow:9000"))
    assert store.url_get(store.key(RUN, "x"), 60).startswith("http://store.kubeflow:9000/bucket-")


def test_deleting_a_run_leaves_the_others(store: ObjectStore, s3_bucket: S3Server) -> None:
    other = store.key(RUN + "0", "in", "job.json")
    store.put(other, b"canary")
    folder = s3_bucket.path / store.key(RUN, "pipeline")
    folder.mkdir(parents=True)
    for number in range(1005):  # more than one page
        (folder / f"{number:04}").write_text("x")
    store.begin(store.key(RUN, "out", "model.zip"))
    store.delete_run(RUN)
    assert s3_bucket.keys() == [other]
    assert not list(store.unfinished(store.key(RUN)))
    store.delete_run(RUN)
    assert store.get(other, limit=10) == b"canary"


def test_what_a_sweep_finds(store: ObjectStore, s3_bucket: S3Server) -> None:
    assert store.runs() == {}
    store.put(store.key(RUN, "in", "a"), b"x")
    store.put(store.key(RUN, "in", "b"), b"x")
    store.begin(store.key("kwdbml-test-2", "out", "model.zip"))  # the worker died before it wrote anything more
    os.utime(s3_bucket.path / store.key(RUN, "in", "a"), (1000, 1000))
    os.utime(s3_bucket.path / store.key(RUN, "in", "b"), (2000, 2000))
    deadline = time.monotonic() + 10
    while (found := store.runs())[RUN] != 2000.0:  # the server looks at its files again after some milliseconds
        assert time.monotonic() < deadline, found
    assert found.pop("kwdbml-test-2") > 1_000_000_000
    assert found == {RUN: 2000.0}


@pytest.mark.parametrize(
    ("changed", "said", "cure"),
    [
        ({"access_key": "nobody-knows-it"}, "does not know the access key", "KWDBML_S3_ACCESS_KEY"),
        ({"secret_key": "wrong-secret"}, "refused the signature", "KWDBML_S3_SECRET_KEY"),
        ({"bucket": "no-such-bucket"}, "there is no bucket “no-such-bucket”", "KWDBML_S3_BUCKET"),
        ({"endpoint": "http://127.0.0.1:1"}, "http://127.0.0.1:1 cannot be reached", "KWDBML_S3_ENDPOINT"),
    ],
)
def test_wrong_settings_are_told_with_their_cure(
    s3_settings: MakeSettings, changed: dict[str, str], said: str, cure: str
) -> None:
    settings = s3_settings(**changed)
    store = ObjectStore(settings)
    key = store.key(RUN, "in", "job.json")
    for call in (store.check, lambda: store.put(key, b"x"), lambda: store.send(key, io.BytesIO(bytes(6 << 20)))):
        with pytest.raises(EngineError) as caught:
            call()
        error = caught.value
        assert said in error.message
        assert cure in error.hint
        assert error.retryable == ("endpoint" in changed)
        told = f"{error} {error.hint} {error.detail}"
        assert settings.access_key not in told
        assert settings.secret_key.get_secret_value() not in told


def test_right_settings_say_nothing(store: ObjectStore) -> None:
    store.check()


def test_a_server_without_tls(s3_settings: MakeSettings, s3_bucket: S3Server) -> None:
    store = ObjectStore(s3_settings(endpoint=s3_bucket.endpoint.replace("http:", "https:")))
    with pytest.raises(EngineError, match="certificate that is not trusted") as caught:
        store.check()
    assert "KWDBML_S3_CA_FILE" in caught.value.hint


def test_clocks_that_differ(store: ObjectStore, ages_ago: None) -> None:
    with pytest.raises(EngineError, match="clocks of this machine and of the object store differ"):
        store.check()


def test_a_busy_store_is_asked_again_and_not_for_ever(
    s3_settings: MakeSettings, flaky: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    store = ObjectStore(s3_settings(endpoint=flaky.endpoint))
    key = store.key(RUN, "in", "job.json")
    flaky.fail("job.json", *[Fault(status=503, code="SlowDown")] * 2)
    store.put(key, b"x")
    flaky.fail("job.json", *[Fault(status=503, code="SlowDown")] * 4)
    with pytest.raises(EngineError, match="503 SlowDown") as caught:
        store.put(key, b"y")
    assert caught.value.retryable
    assert store.get(key, limit=10) == b"x"
