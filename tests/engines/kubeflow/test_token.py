"""The bearer token for KFP: sent, renewed, never told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from kwdbml.engines.kfp import token as token_module
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.token import Token
from kwdbml.errors import EngineError
from tests.engines.kubeflow.stub.stub import Stub


def test_the_token_file_is_read_again_once(kubeflow_settings: KubeflowSettings, kubeflow: Stub, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n", encoding="utf-8")
    api = KfpApi(kubeflow_settings.model_copy(update={"token_file": file}), sleep=lambda seconds: None)
    kubeflow.kfp.tokens = {"old"}
    assert api.find("x") == []
    kubeflow.kfp.tokens = {"new"}
    kubeflow.kfp.calls.clear()
    with pytest.raises(ApiError) as caught:
        api.find("x")
    assert (caught.value.status, caught.value.retryable) == (401, False)
    assert "KWDBML_KFP_TOKEN_FILE" in caught.value.hint
    assert sum(kubeflow.kfp.calls.values()) == 2
    file.write_text("new\n", encoding="utf-8")
    assert api.find("x") == []
    file.unlink()
    kubeflow.kfp.tokens = set()
    with pytest.raises(EngineError, match="cannot be read"):
        api.find("x")


def test_it_is_read_again_before_a_login_page(
    kubeflow_settings: KubeflowSettings, kubeflow: Stub, tmp_path: Path
) -> None:
    """A proxy that keeps users out sends those whose token has expired there, and says no 401."""
    (file := tmp_path / "token").write_text("old\n", encoding="utf-8")
    api = KfpApi(kubeflow_settings.model_copy(update={"token_file": file}), sleep=lambda seconds: None)
    assert api.find("x") == []
    kubeflow.kfp.faults.add("GET", "/runs", status=302)
    file.write_text("new\n", encoding="utf-8")
    kubeflow.kfp.tokens = {"old", "new"}
    assert api.find("x") == []
    assert api._token.value() == "new"
    kubeflow.kfp.faults.add("GET", "/runs", status=302, times=9)
    with pytest.raises(ApiError, match="a redirection") as caught:
        api.find("x")
    assert (caught.value.retryable, caught.value.curable) == (True, True)


def test_the_token_file_is_read_again_every_few_minutes(
    kubeflow_settings: KubeflowSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that is asked without a token may answer less, instead of 401."""
    (file := tmp_path / "token").write_text("old\n", encoding="utf-8")
    clock = [1000.0]
    monkeypatch.setattr(token_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    token = Token(kubeflow_settings.model_copy(update={"token_file": file}))
    assert token.value() == "old"
    file.write_text("new\n", encoding="utf-8")
    assert token.value() == "old"
    clock[0] += 181
    assert token.value() == "new"


def test_a_given_token_is_sent_and_never_told(kubeflow_settings: KubeflowSettings, kubeflow: Stub) -> None:
    kubeflow.kfp.tokens = {"hush"}
    assert KfpApi(kubeflow_settings.model_copy(update={"token": SecretStr("hush")})).find("x") == []
    with pytest.raises(ApiError) as caught:
        KfpApi(kubeflow_settings.model_copy(update={"token": SecretStr("hash")})).find("x")
    assert "hash" not in caught.value.message + caught.value.hint + caught.value.detail
