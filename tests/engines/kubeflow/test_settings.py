"""A worker's settings from flags, environment and file; what is wrong names the setting, its value and the cure."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kwdbml import cli, configuration
from kwdbml.engines.kfp.settings import KubeflowSettings, S3Settings
from kwdbml.errors import EngineError, InvalidParameter
from kwdbml.settings import WorkerSettings

S3: dict[str, Any] = {"endpoint": "http://s3:9000", "bucket": "mlpipeline", "access_key": "k", "secret_key": "hush"}
KFP: dict[str, Any] = {"host": "http://kfp:8888", "image": "kwdbml/runtime:1"}
FILE = """
dsn = "dbname=file"
concurrency = 3

[kubeflow]
host = "http://file:8888"
namespace = "file"
experiment = "file"
image = "kwdbml/runtime:file"

[s3]
endpoint = "http://s3-file:9000"
bucket = "mlpipeline"
access_key = "key-of-file"
secret_key = "hush-of-file"
"""


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("KWDBML_") or name == "KUBECONFIG":
            monkeypatch.delenv(name)
    monkeypatch.setenv("KWDBML_DSN", "dbname=environment")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kwdbml.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def load(config: Path | None = None, **given: Any) -> WorkerSettings:
    return configuration.load(given, config)


def kubeflow(**given: Any) -> KubeflowSettings:
    found = load(kubeflow={**KFP, **given}, s3=S3).kubeflow
    assert found is not None
    return found


def test_flags_go_over_environment_over_file_over_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_KFP_NAMESPACE", "environment")
    monkeypatch.setenv("KWDBML_KFP_EXPERIMENT", "environment")
    monkeypatch.setenv("KWDBML_S3_ACCESS_KEY", "key-of-environment")
    found = load(file, kubeflow={"experiment": "flag"}, concurrency=5)
    assert found.kubeflow is not None
    assert (found.kubeflow.host, found.kubeflow.namespace, found.kubeflow.experiment) == (
        "http://file:8888", "environment", "flag",
    )  # fmt: skip
    assert found.kubeflow.s3.access_key == "key-of-environment"
    assert found.kubeflow.s3.secret_key.get_secret_value() == "hush-of-file"
    assert found.kubeflow.keep == "archive"
    assert (found.dsn.get_secret_value(), found.concurrency) == ("dbname=environment", 5)
    assert found.engine_names == ("local", "kubeflow")


def test_the_environment_can_name_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_CONFIG", str(file))
    assert load().concurrency == 3


def test_without_a_host_there_is_no_kubeflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_KFP_NAMESPACE", "ml")
    monkeypatch.setenv("KWDBML_KFP_HOST", "")  # as a compose file passes on what it was not given
    found = load()
    assert (found.kubeflow, found.engine_names) == (None, ("local",))


def test_engines_can_be_chosen(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = load(file, engines=["local"])
    assert (local.kubeflow, local.engine_names) == (None, ("local",))
    monkeypatch.setenv("KWDBML_ENGINES", '["kubeflow"]')
    assert load(file).engine_names == ("kubeflow",)
    with pytest.raises(InvalidParameter) as caught:
        load()
    assert caught.value.message == "setting kubeflow.host: is missing"


def test_defaults_are_the_contract() -> None:
    found = KubeflowSettings(**KFP, s3=S3Settings(**S3))
    assert found.s3.pod_endpoint == found.s3.endpoint
    assert S3Settings(**S3, pod_endpoint="http://inside:9000/").pod_endpoint == "http://inside:9000"
    assert (found.namespace, found.experiment, found.timeout, found.poll, found.presign) == (
        "kubeflow", "kwdbml", 30.0, 2.0, 43200,
    )  # fmt: skip
    assert (found.s3.prefix, found.s3.part_size, found.image_pull_policy) == ("kwdbml", 16 << 20, "IfNotPresent")


def test_how_the_cluster_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.touch()
    assert kubeflow().cluster_access == "in-cluster"
    assert kubeflow(kubeconfig=config).cluster_access == "kubeconfig"
    assert kubeflow(cluster_host="http://127.0.0.1:8001").cluster_access == "host"
    assert kubeflow(in_cluster="false").cluster_access == "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(config))
    assert kubeflow().cluster_access == "kubeconfig"
    assert kubeflow(in_cluster=True).cluster_access == "in-cluster"


def test_reading_takes_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_KFP_NAMESPACE", "production")
    assert KubeflowSettings(**KFP, s3=S3Settings(**S3)).namespace == "kubeflow"


FAULTS: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("host", {"host": "kfp:8888"}, {}, 'setting kubeflow.host "kfp:8888": must be an address', "KWDBML_KFP_HOST"),
    ("port", {"host": "http://kfp:x"}, {}, 'setting kubeflow.host "http://kfp:x"', "--set kubeflow.host=…"),
    ("image", {"image": None}, {}, "setting kubeflow.image", "KWDBML_KFP_IMAGE"),
    ("namespace", {"namespace": "My_NS"}, {}, 'setting kubeflow.namespace "My_NS"', "KWDBML_KFP_NAMESPACE"),
    ("timeout", {"timeout": "soon"}, {}, 'setting kubeflow.timeout "soon"', "KWDBML_KFP_TIMEOUT"),
    ("presign", {"presign": 700000}, {}, 'setting kubeflow.presign "700000"', "KWDBML_KFP_PRESIGN"),
    ("keep", {"keep": "forever"}, {}, 'setting kubeflow.keep "forever"', "KWDBML_KFP_KEEP"),
    ("ca", {"ca_file": "/no/such"}, {}, 'setting kubeflow.ca_file "/no/such": there is no such file', "_CA_FILE"),
    ("bucket", {}, {"bucket": "My Bucket"}, 'setting s3.bucket "My Bucket"', "KWDBML_S3_BUCKET"),
    ("prefix", {}, {"prefix": "a/../b"}, 'setting s3.prefix "a/../b"', "KWDBML_S3_PREFIX"),
    ("part size", {}, {"part_size": "1MiB"}, 'setting s3.part_size "1MiB"', "below [s3] of the file"),
    ("no key", {}, {"access_key": ""}, 'setting s3.access_key ""', "KWDBML_S3_ACCESS_KEY"),
    ("two lines", {"token": "hush hush"}, {}, "setting kubeflow.token: must be one word", "KWDBML_KFP_TOKEN"),
    ("odd key", {}, {"access_key": "a\nb"}, "must be one word of printable ASCII", "KWDBML_S3_ACCESS_KEY"),
    ("two tokens", {"token": "hush", "token_file": __file__}, {}, "token and token_file exclude each other", "docs"),
    ("two ways", {"in_cluster": True, "kubeconfig": __file__}, {}, "in_cluster and kubeconfig exclude", "docs"),
    ("context", {"in_cluster": True, "context": "prod"}, {}, "context is a kubeconfig's", "docs"),
]  # fmt: skip


@pytest.mark.parametrize(("kfp", "s3", "message", "hint"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_names_the_setting_and_the_cure(
    kfp: dict[str, Any], s3: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        load(kubeflow={**KFP, **kfp}, s3={**S3, **s3})
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "hush" not in str(caught.value) + caught.value.hint + caught.value.detail


def test_a_secret_is_never_told() -> None:
    for given in ({"secret_key": ["hush"]}, {"endpoint": "http://user:hush@s3"}):
        with pytest.raises(InvalidParameter) as caught:
            load(kubeflow=KFP, s3={**S3, **given})
        assert "hush" not in caught.value.message + caught.value.hint
    assert "hush" not in repr(load(kubeflow={**KFP, "token": "hush"}, s3=S3))


def test_the_end_of_a_file_s_line_is_no_part_of_a_credential() -> None:
    ended = {**S3, "access_key": "key\n", "secret_key": "a word\r\n"}
    found = load(kubeflow={**KFP, "token": "hush\n"}, s3=ended, dsn="postgresql://w@db/shop\n")
    assert (told := found.kubeflow) is not None
    assert found.dsn.get_secret_value() == "postgresql://w@db/shop"
    assert told.token is not None
    assert told.token.get_secret_value() == "hush"
    assert (told.s3.access_key, told.s3.secret_key.get_secret_value()) == ("key", "a word")


def test_missing_settings_are_named_one_by_one() -> None:
    with pytest.raises(InvalidParameter) as caught:
        load(kubeflow=KFP)
    assert caught.value.message == "setting s3.endpoint: is missing"
    assert "KWDBML_S3_ENDPOINT" in caught.value.hint


def test_a_slip_in_a_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kwdbml.toml"
    for text, message, hint in (
        ("concurency = 2", "there is no setting concurency", "concurrency"),
        ("[kubeflow]\nhots = 'x'", "there is no setting kubeflow.hots", "kubeflow.host"),
        ("s3 = 4", "s3 is no section", "[s3]"),
        ("[s3", "is no TOML", "docs"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InvalidParameter) as caught:
            load(path)
        assert message in caught.value.message
        assert hint in caught.value.hint
    with pytest.raises(InvalidParameter, match="No such file"):
        load(tmp_path / "other.toml")
    monkeypatch.setenv("KWDBML_S3_BUKET", "x")
    with pytest.raises(InvalidParameter) as caught:
        load()
    assert (caught.value.message, caught.value.hint) == (
        "environment variable KWDBML_S3_BUKET is no setting", "Did you mean KWDBML_S3_BUCKET?",
    )  # fmt: skip


def test_overrides_of_the_command_line() -> None:
    found = configuration.overrides(["kubeflow.host=http://a=b", "s3.bucket=x", "kubeflow.keep=delete"])
    assert found == {"kubeflow": {"host": "http://a=b", "keep": "delete"}, "s3": {"bucket": "x"}}
    for text, message in (
        ("kubeflow.hots=x", "not SECTION.NAME=VALUE"),
        ("concurrency=2", "not SECTION.NAME=VALUE"),
        ("kubeflow.s3=x", "not SECTION.NAME=VALUE"),
        ("s3.bucket", "not SECTION.NAME=VALUE"),
        ("s3.bucket=", "gives no value"),
        ("s3.secret_key=hush", "setting s3.secret_key is a secret"),
        ("kubeflow.token=hush", "setting kubeflow.token is a secret"),
    ):
        with pytest.raises(InvalidParameter) as caught:
            configuration.overrides([text])
        assert message in caught.value.message


def test_the_worker_makes_the_engines_that_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(kubeflow=KFP, s3=S3, scratch=tmp_path)
    engines = cli._engines(found)
    assert set(engines) == {"local", "kubeflow"}
    assert {getattr(engine, "_disk", None) for engine in engines.values()} == {int(found.scratch_limit)}
    assert set(cli._engines(load(scratch=tmp_path))) == {"local"}
    monkeypatch.setitem(sys.modules, "kwdbml.engines.kubeflow", None)
    with pytest.raises(EngineError) as caught:
        cli._engines(found)
    assert "kwdbml[kubeflow]" in caught.value.hint


def test_the_command_line_tells_the_fault() -> None:
    ran = CliRunner().invoke(cli.app, ["worker", "--set", "kubeflow.host=nowhere"])
    assert ran.exit_code == 1
    assert 'error: setting kubeflow.host "nowhere": must be an address like https://host:port' in ran.output
    assert "KWDBML_KFP_HOST" in ran.output


def test_each_engine_has_places_of_its_own(file: Path) -> None:
    found = load(file)
    assert (found.slots("local"), found.slots("kubeflow")) == (3, 100)
    found = load(file, concurrency=2, kubeflow={"concurrency": 7})
    assert (found.slots("local"), found.slots("kubeflow")) == (2, 7)
