"""The privilege matrix of tables, views and their columns, directly: what ``matrix.py`` is for functions."""

from __future__ import annotations

from tests.sql.matrix import (
    ADMINS,
    ADMINS_ONLY,
    EVERYBODY,
    EVERYBODY_ALL,
    FUNCTIONS,
    NOBODY,
    ON_MODEL,
    ON_PIPELINE,
    OWN_JOBS,
    SEES_MODEL,
    Cells,
    cells,
    sees,
)

_MODELS = "(SELECT o.id FROM kwdbml.model o WHERE o.creator = %(creator)s)"
_PIPELINES = "(SELECT o.id FROM kwdbml.pipeline o WHERE o.creator = %(creator)s)"
_JOBS = "t.job_id IN (SELECT o.id FROM kwdbml.job o WHERE o.creator = %(creator)s)"
_VERSIONS = ("t.id::text", "t.model_id = %(model_id)s", f"t.model_id IN {_MODELS}")
#: What names a row of each table and view; which are ``granted`` (NULL: none), and which are the creator's ``own``.
SHOWN: dict[str, tuple[str, str, str]] = {
    "_usable": _VERSIONS,
    "artefact": ("t.id::text", "NULL", "NULL"),
    "artefact_chunk": ("t.artefact_id::text || t.seq", "NULL", "NULL"),
    "attempt": ("t.job_id::text || t.number", "NULL", _JOBS),
    "cleanup": ("t.id::text", "NULL", "NULL"),
    "file_system": ("t.name", "t.roles && %(grantees)s::name[]", "NULL"),
    "flavour": ("t.name", "NULL", "NULL"),
    "installation": ("t.id::text", "NULL", "NULL"),
    "job": ("t.id::text", "NULL", "t.creator = %(creator)s"),
    "job_env": ("t.job_id::text", "NULL", _JOBS),
    "job_log": ("t.job_id::text || t.attempt || t.seq", "NULL", _JOBS),
    "jobs": ("t.id::text", "NULL", "t.creator = %(creator)s"),
    "model": ("t.id::text", "t.id = %(model_id)s", f"t.id IN {_MODELS}"),
    "model_privilege": ("t.model_id::text || t.grantee || t.privilege",
        "t.model_id = %(model_id)s AND t.grantee = ANY (%(grantees)s::name[])", f"t.model_id IN {_MODELS}"),
    "model_version": _VERSIONS,
    "pipeline": ("t.id::text", "t.id = %(pipeline_id)s", f"t.id IN {_PIPELINES}"),
    "pipeline_privilege": ("t.pipeline_id::text || t.grantee || t.privilege",
        "t.pipeline_id = %(pipeline_id)s AND t.grantee = ANY (%(grantees)s::name[])", f"t.pipeline_id IN {_PIPELINES}"),
    "request": ("t.requester::text", "NULL", "NULL"),
    "runtime": ("t.framework || t.runtime", "NULL", "NULL"),
    "settings": ("t.name", "NULL", "NULL"),
}  # fmt: skip
#: Functions that list: what names a row of theirs, and the table whose rows they are.
LISTS = {
    "show_models()": ("t.schema || '.' || t.name", "model"),
    "show_training_pipelines()": ("t.schema || '.' || t.name", "pipeline"),
    **{signature: ("t.id::text", "job") for signature in FUNCTIONS if signature.startswith("show_jobs(")},
}
#: Functions that answer the same rows to all who get any.
READS = (
    "algorithms()", "job_logs(text)", "job_logs(uuid)", "show_job(text)", "show_job(uuid)", "show_model(text,bigint)",
    "show_models(text,bigint)", "show_training_pipeline(text)",
)  # fmt: skip

#: What SELECT shows of each table and view.
READABLE: dict[str, Cells] = {
    "_usable": sees(*ON_MODEL),
    "artefact": cells("42501", (("superuser",), "all")),
    "artefact_chunk": cells("42501", (("superuser",), "all")),
    "attempt": OWN_JOBS,
    "cleanup": cells("42501", (("superuser",), "all")),
    "file_system": cells("empty", (("member",), "granted"), (ADMINS, "all")),
    "flavour": EVERYBODY_ALL,
    "installation": EVERYBODY_ALL,
    "job": OWN_JOBS,
    "job_env": cells("empty", (("creator",), "own"), (("superuser",), "all")),
    "job_log": OWN_JOBS,
    "jobs": OWN_JOBS,
    "model": sees(*ON_MODEL),
    "model_privilege": sees(*ON_MODEL),
    "model_version": SEES_MODEL,
    "pipeline": sees(*ON_PIPELINE),
    "pipeline_privilege": sees(*ON_PIPELINE),
    "request": cells("empty"),
    "runtime": EVERYBODY_ALL,
    "settings": EVERYBODY_ALL,
}
VIEWS = ("_usable", "jobs")

#: The rest, of whole tables: without a hole it is the owner's alone, and so is LOCK, which would stop everybody.
WRITES = {
    "INSERT": "INSERT INTO kwdbml.{0} SELECT * FROM kwdbml.{0} WHERE false",
    "UPDATE": "UPDATE kwdbml.{0} SET {1} = {1} WHERE false",
    "DELETE": "DELETE FROM kwdbml.{0} WHERE false",
    "TRUNCATE": "TRUNCATE kwdbml.{0} CASCADE",
    "LOCK": "LOCK TABLE kwdbml.{0} IN ACCESS EXCLUSIVE MODE",
    "COPY TO": "COPY kwdbml.{0} TO STDOUT",
    "COPY FROM": "COPY kwdbml.{0} FROM STDIN",
    "CREATE TRIGGER": (
        "CREATE TRIGGER mine AFTER INSERT ON kwdbml.{0} EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "ALTER": "ALTER TABLE kwdbml.{0} RENAME TO mine",
}
#: What admins write, all columns of it but of a runtime.
ADMINS_TABLES = ("file_system", "flavour", "runtime", "settings")
#: Of these the secrets are left out: SELECT of whole rows is refused.
SECRETS = ("artefact", "artefact_chunk", "attempt", "cleanup", "request")
#: Whoever may DELETE may LOCK: that is PostgreSQL's. Of job_env and what admins write all columns are granted, and
#: the policies look at each row (see PARTS); COPY FROM looks at none, so PostgreSQL refuses it. Views take no writes
#: from anybody.
WRITABLE: dict[tuple[str, str], Cells] = {
    (table, verb): ADMINS_ONLY for table in ("job", *ADMINS_TABLES) for verb in ("DELETE", "LOCK")
} | {
    (table, "COPY TO"): EVERYBODY for table in READABLE if table not in (*SECRETS, *VIEWS)
} | {
    ("job_env", "INSERT"): EVERYBODY, ("job_env", "COPY FROM"): cells("0A000", (("superuser",), "ok")),
} | {
    (table, "INSERT"): ADMINS_ONLY for table in ADMINS_TABLES if table != "runtime"
} | {
    (table, "COPY FROM"): cells("42501", (("admin",), "0A000"), (("superuser",), "ok"))
    for table in ADMINS_TABLES if table != "runtime"
} | {
    (view, verb): cells("55000") for view in VIEWS for verb in ("INSERT", "UPDATE", "DELETE")
} | {
    (view, verb): cells("42809") for view in VIEWS for verb in ("TRUNCATE", "COPY TO")
} | {
    (view, "COPY FROM"): cells("42501", (("superuser",), "42809")) for view in VIEWS
}  # fmt: skip

_REQUESTED = (
    "type pipeline_name pipeline_id model_name model_version model_version_id settings data_query data_relation"
    " data_columns engine queue priority labels annotations retries"
)
#: Columns that everybody, or every admin, may name in a statement: of all others that is the owner's. SELECT of all
#: columns but of the tables in SECRETS.
EVERYBODYS: dict[tuple[str, str], str] = {
    ("attempt", "SELECT"): (
        "job_id number worker lease_until phase step progress engine started updated ended outcome"
    ),
    ("request", "SELECT"): "answer requester",
    ("job", "INSERT"): _REQUESTED,
    ("job", "UPDATE"): "status",
    ("job_env", "INSERT"): "job_id env",
    ("pipeline", "INSERT"): (
        "schema name description problem_type framework runtime features target algorithm hyperparameters scripts"
        " content_hash"
    ),
    ("request", "INSERT"): "kind arguments bundles",
}
ADMINS_COLUMNS: dict[tuple[str, str], str] = {
    ("file_system", "INSERT"): "name claim sub_path roles description",
    ("file_system", "UPDATE"): "claim sub_path roles description",
    ("flavour", "INSERT"): "name cpu mem scalar_resources node_selector tolerations description",
    ("flavour", "UPDATE"): "cpu mem scalar_resources node_selector tolerations description",
    ("runtime", "INSERT"): "framework runtime runs_as image engines",
    ("runtime", "UPDATE"): "runs_as image engines",
    ("settings", "INSERT"): "name value",
    ("settings", "UPDATE"): "value",
}
COLUMN_VERBS = {
    "SELECT": "SELECT {1} FROM kwdbml.{0} LIMIT 0",
    "INSERT": "INSERT INTO kwdbml.{0} ({1}) SELECT NULL::{2} WHERE false",
    "UPDATE": "UPDATE kwdbml.{0} SET {1} = NULL WHERE false",
}


def column(table: str, verb: str, name: str) -> Cells:
    """What each role meets that names a column in a statement."""
    if table in VIEWS and verb != "SELECT":
        return cells("55000")
    if (verb == "SELECT" and table not in SECRETS) or name in EVERYBODYS.get((table, verb), "").split():
        return EVERYBODY
    return ADMINS_ONLY if name in ADMINS_COLUMNS.get((table, verb), "").split() else NOBODY
