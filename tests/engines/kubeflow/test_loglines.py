"""Lines as pods print them, among those of others."""

from __future__ import annotations

from datetime import UTC, datetime

from kwdbml.engines.base import LogLine
from kwdbml.engines.kfp.loglines import Parser, Progress


def test_lines_of_a_log() -> None:
    data = (
        b"time=2026 level=info msg=launcher\n0 import kwdbml: progress -\n"
        b"2026-11-21T08:25:51.5Z 1 - stdout: a: b\n2026-11-21T08:25:52.123456789+01:00 2 train stderr: \xff\n"
        b"0 train kwdbml: progress 0.5000\n0 train kwdbml: progress 7\n0 train stdout: progress 1\n3 train stdin: x\n"
        b"4 a b stdout: x\n5 train kwdbml: "
    )
    found = Parser().feed(data)
    at = datetime(2026, 11, 21, 8, 25, 51, 500_000, UTC).timestamp()
    assert found[0] == Progress("import", None)
    assert found[1] == LogLine(1, at, "", "stdout", "a: b")
    assert isinstance(found[2], LogLine)
    assert (found[2].seq, found[2].step, found[2].line) == (2, "train", "\ufffd")
    assert found[3:] == [Progress("train", 0.5)]
    parser = Parser()
    assert [one for byte in data for one in parser.feed(bytes([byte]))][1:] == found[1:]


def test_an_endless_line_is_skipped() -> None:
    parser = Parser()
    assert parser.feed(b"x" * 100_000) == []
    assert parser.feed(b"1 train stdout: x" * 1000) == []
    (found,) = parser.feed(b"\n2 train stdout: y\n")
    assert isinstance(found, LogLine)
    assert found.seq == 2
