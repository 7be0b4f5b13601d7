"""docs/kubeflow.md: its tables of settings are generated from the models, its reasons are those of the code, its
manifests are manifests.

``KWDBML_UPDATE_DOCS=1 scripts/test tests/docs`` writes the tables anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ByteSize
from pydantic_core import PydanticUndefined

from kwdbml.engines.kfp.settings import KFP_PREFIX, S3_PREFIX, KubeflowSettings, S3Settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "kubeflow.md"
_BEGIN, _END = "scripts/test tests/docs -->\n", "\n<!-- end -->"


def generated() -> str:
    head = "\n| variable | default | what |\n| --- | --- | --- |\n"
    return head + "".join([*_rows(KFP_PREFIX, KubeflowSettings), *_rows(S3_PREFIX, S3Settings)])


def _rows(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name == "s3":
            continue
        default = "required" if field.default is PydanticUndefined else _shown(field.default)
        yield f"| `{prefix}{name.upper()}` | {default} | {field.description} |\n"


def _shown(default: object) -> str:
    if default is None or default == "":
        return ""
    return f"{int(default) >> 20} MiB" if isinstance(default, ByteSize) else f"{default}".removesuffix(".0")


def test_the_tables_of_settings() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    table, _, after = rest.partition(_END)
    if os.environ.get("KWDBML_UPDATE_DOCS"):
        DOCUMENT.write_text(before + _BEGIN + generated() + _END + after, encoding="utf-8")
    else:
        assert table == generated(), "KWDBML_UPDATE_DOCS=1 scripts/test tests/docs writes it anew"


def test_every_variable_that_is_named_is_a_setting() -> None:
    known = set(re.findall(r"`(KWDBML_\w+)`", generated())) | {"KWDBML_ALIVE_FILE", "KWDBML_CONFIG"}
    assert set(re.findall(r"`(KWDBML_[A-Z_0-9]+)[`=]", DOCUMENT.read_text(encoding="utf-8"))) <= known


def test_the_reasons_are_those_of_the_code() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in (*(ROOT / "kwdbml" / "engines" / "kfp").glob("*.py"), ROOT / "kwdbml" / "engines" / "kubeflow.py")
    )
    table = DOCUMENT.read_text(encoding="utf-8").partition("| reason |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert len(named) > 10
    assert {word for word in named if f'"{word}"' not in code} == set()


def manifests() -> list[dict[str, object]]:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [one for block in blocks for one in yaml.safe_load_all(block)]


@pytest.mark.parametrize(
    "manifest", [one for one in manifests() if one["kind"] != "Kustomization"], ids=lambda m: m["kind"]
)
def test_manifests(manifest: dict[str, object]) -> None:
    kubernetes_validate.validate(manifest, "1.36", strict=True)
