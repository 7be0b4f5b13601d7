"""SQL text as sqlglot sees it: it explains what PostgreSQL refused. It never decides: a valid query that sqlglot
cannot parse is not refused. Imported lazily, also inside the server (100 ms once per backend)."""

from __future__ import annotations


def statement_kind(text: str) -> str | None:
    """What a statement that is no query is, in words ("an UPDATE statement"); None when it is one, or unclear."""
    import sqlglot
    from sqlglot import exp

    try:
        parsed = sqlglot.parse_one(text, read="postgres")
    except sqlglot.errors.SqlglotError:
        return None
    if isinstance(parsed, exp.Query | exp.Values):
        return "SELECT INTO" if parsed.find(exp.Into) else None
    if isinstance(parsed, exp.Condition | exp.Alias):  # "hello world" is an expression to sqlglot
        return None
    name = (str(parsed.this) if isinstance(parsed, exp.Command) else type(parsed).__name__).upper()
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name} statement"
