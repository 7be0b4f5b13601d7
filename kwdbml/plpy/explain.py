"""What train_model would do with a data set, said before anything runs: rows of ``kwdbml.explain_row``.

Of the query only the planner runs, as the caller. What is wrong with the columns is an answer here, not an error; what
keeps train_model from looking at them (no such pipeline, no right, no readable data set) is the same error as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kwdbml.plpy import about_types, data, query
from kwdbml.plpy.submit import _pipeline

Row = dict[str, str | None]
_CAST = "Cast it in the query."
#: types as PostgreSQL has them under all domains
_TIMES = {"date", "timestamp", "timestamptz"}
_TEXTS = {"text", "varchar", "bpchar"}
_NUMBERS = {"numeric", "float4", "float8"}
#: identifiers and literals of an expression as EXPLAIN shows it: what stands in them is no function of PostgreSQL's
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")


@dataclass(frozen=True)
class Plan:
    """What PostgreSQL's planner says of the columns that a training reads; ``problem`` when it refuses."""

    rows: int = 0
    width: int = 0
    stale: tuple[str, ...] = ()  # relations without statistics
    session_user: bool = False
    problem: str = ""


def explain_train(plpy: Any, pipeline_name: str, train_data: str) -> list[Row]:
    """What ``train_model`` would do, a row for each thing, the verdict first."""
    pipeline = _pipeline(plpy, pipeline_name, "TRAIN")
    found = data.describe(plpy, train_data, "train_data")
    declared = {role: json.loads(pipeline[key]) for role, key in (("target", "target"), ("feature", "features"))}
    columns = [row for role, wanted in declared.items() for row in _columns(plpy, found, role, wanted)]
    used = [str(row["name"]) for row in columns if row["verdict"] != "missing"]
    plan = _planned(plpy, found, used)
    return [
        _verdict(pipeline["name"], columns, plan),
        _data_set(found, len(columns), plan),
        *columns,
        *(_row("column", c["name"], c["type"], None, "unused") for c in found.columns if c["name"] not in used),
        *_estimates(plpy, pipeline, plan),
        *_warnings(plan),
    ]


def _row(
    item: str, name: str | None, found: Any = None, wanted: str | None = None, verdict: str = "", detail: str = ""
) -> Row:
    shown = None if found is None else str(found)
    return {"item": item, "name": name, "found": shown, "wanted": wanted, "verdict": verdict, "detail": detail}


def _verdict(pipeline: str, columns: list[Row], plan: Plan) -> Row:
    wrong = [f'"{c["name"]}" is {c["verdict"]}' for c in columns if c["verdict"] in ("missing", "refused")]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        return _row("verdict", pipeline, None, None, "refused", f"train_model would refuse it: {shown}.")
    why = plan.problem or ("the data set has no rows" if plan.rows == 0 else "")
    if why:
        detail = f"train_model would take it, the job would fail: {why}."
        return _row("verdict", pipeline, None, None, "would fail", detail)
    return _row("verdict", pipeline, None, None, "accepted", "train_model would take it. No value has been read.")


def _data_set(found: data.DataSet, wanted: int, plan: Plan) -> Row:
    return _row(
        "data set", found.relation or "query", f"{len(found.columns)} columns", f"{wanted} columns",
        "not readable" if plan.problem else "readable", plan.problem,
    )  # fmt: skip


def _columns(plpy: Any, found: data.DataSet, role: str, wanted: list[dict[str, str]]) -> Iterator[Row]:
    """A row for each declared column, in the order of the declaration."""
    there = [c for c in wanted if c["name"] in found.names]
    oids, types = [found.names[c["name"]]["oid"] for c in there], [c["type"] for c in there]
    readings = dict(zip((c["name"] for c in there), about_types(plpy, "readings", oids, types), strict=True))
    for column in wanted:
        name, kind = column["name"], column["type"]
        if name not in readings:
            like = [n for n in found.names if n.lower() == name.lower()]
            cure = f'There is "{like[0]}", but names are case-sensitive here.' if like else "Add it to the query."
            yield _row(role, name, None, kind, "missing", cure)
        else:
            yield _row(role, name, found.names[name]["type"], kind, *_reading(readings[name], kind))


def _reading(how: dict[str, Any], wanted: str) -> tuple[str, str]:
    """(verdict, detail) of a column that is there."""
    own, base = how["own"], how["base"]
    if how["staged"] is None:
        could = f"It could be read as {own}. {_CAST}" if own else f"Its type cannot be read at all. {_CAST}"
        return "refused", could
    if base == "bool" and wanted in ("INT", "BOOL"):
        return "as it is", "true is 1, false 0" if wanted == "INT" else ""
    if own == wanted and (own == "STRING" or how["staged"] == base):
        return "as it is", ""
    return "cast", _effect(base, wanted)


def _effect(base: str, wanted: str) -> str:
    """What a cast does to values."""
    if wanted == "STRING":
        return "written as text"
    if base in _TIMES:
        return "seconds since 1970, UTC"
    if base == "interval":
        return "seconds"
    if base in _TEXTS:
        return f"text that does not read as {wanted} fails the job"
    if wanted == "INT" and base in _NUMBERS:
        return "rounded; a number too large for bigint, or NaN, fails the job"
    return "to double precision" if wanted == "FLOAT" else "0 is false"


def _planned(plpy: Any, found: data.DataSet, used: list[str]) -> Plan:
    """What the planner says of reading these columns, which is all that a training reads."""
    wanted = ", ".join(plpy.quote_ident(name) for name in used) or "*"
    try:
        # quoted, and one SELECT that describe() has looked at; EXPLAIN runs nothing of it
        answer = plpy.execute(f"EXPLAIN (VERBOSE, FORMAT JSON) SELECT {wanted} FROM (\n{found.query}\n) AS d")  # noqa: S608
    except plpy.SPIError as error:
        explained = data.explained(error, "train_data")
        if not isinstance(explained, data.QueryError):
            raise
        return Plan(problem=str(error))
    root = json.loads(answer[0]["QUERY PLAN"])[0]["Plan"]
    scans = [node for node in _nodes(root) if "Relation Name" in node]
    known = query(plpy, "sizes", [n.get("Schema", "") for n in scans], [n["Relation Name"] for n in scans])
    if hollow := [k["name"] for k in known if k["hollow"]]:
        return Plan(
            problem=f'materialized view "{hollow[0]}" has not been populated (REFRESH MATERIALIZED VIEW does that)'
        )
    nothing = len(scans) == 1 and scans[0] is root and bool(known) and known[0]["empty"]
    return Plan(
        rows=0 if nothing else int(root["Plan Rows"]),
        width=int(root["Plan Width"]),
        stale=tuple(k["name"] for k in known if k["unknown"] and not nothing),
        session_user=any("SESSION_USER" in _QUOTED.sub("", text) for node in _nodes(root) for text in _texts(node)),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _texts(node: dict[str, Any]) -> Iterator[str]:
    """The expressions of a node of a plan."""
    for value in node.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield text


def _estimates(plpy: Any, pipeline: dict[str, Any], plan: Plan) -> Iterator[Row]:
    if plan.problem:
        return
    how = "PostgreSQL's estimate"
    if plan.stale:
        how += f"; never analyzed: {', '.join(plan.stale[:5])} (ANALYZE makes it better)"
    yield _row("estimate", "rows", plan.rows, None, "estimated", how)
    yield _row("estimate", "bytes", plan.rows * plan.width, None, "estimated", "of the columns that are read")
    past = query(plpy, "past_trainings", pipeline["id"])[0]
    if not past["jobs"] or not plan.rows:
        why = "no finished training of this pipeline among your jobs" if not past["jobs"] else "no rows to scale by"
        yield _row("estimate", "seconds", None, None, "unknown", why)
        return
    jobs = f"your last {past['jobs']} trainings" if past["jobs"] > 1 else "your 1 training"
    yield _row(
        "estimate", "seconds", round(past["seconds_per_row"] * plan.rows, 1), None, "estimated",
        f"median of {jobs} with this pipeline, of {past['rows']} rows, scaled by rows",
    )  # fmt: skip


def _warnings(plan: Plan) -> Iterator[Row]:
    if plan.session_user:
        yield _row(
            "warning", "session_user", None, None, "differs",
            "The query, or a view or row-level security policy in it, asks for session_user, which in a job is the"
            " worker: use current_user.",
        )  # fmt: skip
    if plan.rows == 0 and not plan.problem:
        yield _row("warning", "rows", None, None, "none", "There is nothing to learn from.")
