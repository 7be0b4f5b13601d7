"""What the documents name exists: links and their anchors, files, commands and their options, functions, SQL."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer

from kwdbml.cli import app
from kwdbml.settings import WorkerSettings
from tests.acceptance.test_readme import statements
from tests.fixtures.database import MakeRole

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/**/*.md", "examples/*/*.md") for path in ROOT.glob(pattern))

_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_FILE = re.compile(r"`((?:sql|kwdbml|extension|docs|tests|scripts|bench|examples)/[\w./-]*|[\w-]+\.(?:yml|toml))`")
_FUNCTION = re.compile(r"\bkwdbml\.([a-z_]+)\(")
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:kwdbml|scripts/\w+)(?: [^`]+)?)`")

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links_resolve(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@documents
def test_files_exist(document: Path) -> None:
    if "examples" in document.parts:
        return  # its paths are those inside the bundle
    missing = [name for name in _FILE.findall(document.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert missing == []


@documents
def test_functions_exist(document: Path, db: psycopg.Connection[Any]) -> None:
    rows = db.execute("SELECT proname::text FROM pg_proc WHERE pronamespace = 'kwdbml'::regnamespace").fetchall()
    named = set(_FUNCTION.findall(document.read_text(encoding="utf-8")))
    assert named <= {name for (name,) in rows}


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command that a document shows, without variables before it."""
    lines = [line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *_INLINE.findall(text)]:
        words = shlex.split(line, comments=True)
        while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] == "sudo"):
            del words[0]
        if words and "…" not in words:
            yield words


@documents
def test_commands_exist(document: Path) -> None:
    for words in commands(document.read_text(encoding="utf-8")):
        if words[0].startswith("scripts/"):
            assert os.access(ROOT / words[0], os.X_OK), words
        elif Path(words[0]).name == "kwdbml":
            _check_command(words[1:])


def _check_command(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, words
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, words


def test_the_workers_variables_are_those_of_its_settings() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`KWDBML_(?!KFP_|S3_)(\w+)`", text))  # those are in kubeflow.md
    assert named == {name.upper() for name in WorkerSettings.model_fields} - {"KUBEFLOW"} | {"CONFIG"}
    for name, default in re.findall(r"`KWDBML_(\w+)` \| (\d+) \|", text):
        assert WorkerSettings.model_fields[name.lower()].default == int(default), name


def test_the_statements_of_operations_run_as_an_admin(role: MakeRole) -> None:
    admin = role("admin", member_of=["kwdbml_admin"]).connect()
    for statement in statements((ROOT / "docs" / "operations.md").read_text(encoding="utf-8")):
        admin.execute(statement.encode())


def test_the_settings_table_of_operations_has_the_defaults(db: psycopg.Connection[Any]) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", text, re.MULTILINE)
    allowed = db.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = 'kwdbml.settings'::regclass AND conname = 'settings_name_check'"
    ).fetchone()
    assert allowed is not None
    assert {name for name, _ in listed} == set(re.findall(r"'(\w+)'", allowed[0]))
    for name, default in listed:
        found = db.execute("SELECT kwdbml._setting(%s)::text", [name]).fetchone()
        assert found == (default,), name
