"""The privilege matrix: who may do what. The tests try every cell, and docs/privileges.md is made from these tables.

Here: roles, functions, and statements of special interest; ``matrix_tables.py``: tables, views and columns.

A cell is what the role of its column meets: ``ok``, ``no`` (the answer is false), which rows are there for it
(``empty``, ``granted``, ``own``, ``all``: see SHOWN), or an SQLSTATE. Everybody may read the data set and create tables
in the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MODEL_PRIVILEGES = ("SELECT", "UPDATE", "DELETE", "EVALUATE", "PREDICT", "CREATE")
PIPELINE_PRIVILEGES = ("SELECT", "DELETE", "TRAIN")
ON_MODEL = tuple(f"model {privilege}" for privilege in MODEL_PRIVILEGES)
ON_PIPELINE = tuple(f"pipeline {privilege}" for privilege in PIPELINE_PRIVILEGES)
#: member: of a role that was granted ALL on both; syspublic: anybody, once ALL on both was granted to everyone;
#: colleague: has the rights of the creator's role.
ROLES = ("stranger", *ON_MODEL, *ON_PIPELINE, "member", "syspublic", "creator", "colleague", "admin", "superuser")
#: Further roles, each of which meets in every cell what the other one meets.
SAME_AS = {
    "member of a member": "member",
    "member by SET ROLE": "member",
    "admin by SET ROLE": "admin",
    "member that inherits nothing": "stranger",
    "member behind one that inherits nothing": "stranger",
    "admin that inherits nothing": "stranger",
    "whose grants and membership were revoked": "stranger",
    "worker": "stranger",
}
ALL = ("member", "syspublic")
OWNERS = ("creator", "colleague", "admin", "superuser")
JOB_OWNERS = ("creator", "admin", "superuser")
ADMINS = ("admin", "superuser")

Cells = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A statement and what each role meets; ``what`` is its name in the document."""

    what: str
    statement: str
    cells: Cells


def cells(otherwise: str, *groups: tuple[Sequence[str], str]) -> Cells:
    """A cell for each role; the last group that names it decides."""
    found = dict.fromkeys(ROLES, otherwise)
    for roles, cell in groups:
        found |= dict.fromkeys(roles, cell)
    return found


def on_model(needed: str, hidden: str = "42704", refused: str = "42501", allowed: str = "ok") -> Cells:
    """What asks for one privilege on a model; who has another one knows at least that it is there."""
    have = ((f"model {needed}",), allowed)
    return cells(hidden, (ON_MODEL, refused), have, ((*ALL, *OWNERS), allowed))


def on_pipeline(needed: str, hidden: str = "42704", refused: str = "42501", allowed: str = "ok") -> Cells:
    have = ((f"pipeline {needed}",), allowed)
    return cells(hidden, (ON_PIPELINE, refused), have, ((*ALL, *OWNERS), allowed))


EVERYBODY = cells("ok")
EVERYBODY_ALL = cells("all")
NOBODY = cells("42501", (("superuser",), "ok"))
ADMINS_ONLY = cells("42501", (ADMINS, "ok"))
THE_JOBS_OWNERS = cells("42704", (JOB_OWNERS, "ok"))
OWN_JOB = cells("empty", (JOB_OWNERS, "ok"))
OWN_JOBS = cells("empty", (("creator",), "own"), (ADMINS, "all"))


def sees(*granted: str) -> Cells:
    """Rows: what was granted to those who have one of these privileges, the owners' own, all for admins."""
    return cells("empty", ((*granted, *ALL), "granted"), (("creator", "colleague"), "own"), (ADMINS, "all"))


SEES_MODEL = sees("model SELECT")
SEES_PIPELINE = sees("pipeline SELECT")
#: Grants are the owners' to make: nobody passes on what was granted to him.
GRANTS_MODEL = cells("42704", ((*ON_MODEL, *ALL), "42501"), (OWNERS, "ok"))
GRANTS_PIPELINE = cells("42704", ((*ON_PIPELINE, *ALL), "42501"), (OWNERS, "ok"))
ASKS_MODEL = cells("42704", ((*ON_MODEL, *ALL, *OWNERS), "ok"))
ASKS_PIPELINE = cells("42704", ((*ON_PIPELINE, *ALL, *OWNERS), "ok"))
#: That a name is taken is no secret (decision 8), so a further version is refused, not unknown.
EXTENDS = on_model("CREATE", hidden="42501")
#: A training into a model that exists asks for TRAIN on the pipeline and CREATE on the model: one grant is not enough.
EXTENDS_BY_TRAINING = cells("42704", (ON_PIPELINE, "42501"), ((*ALL, *OWNERS), "ok"))

_BUNDLE = "'d', {0}, 'sklearn_1.3', 'python_3.8', {1}::{{0}}, {2}::{{0}}, {3}::bytea, NULL"
_MODEL_ENTITY = "%(model)s, " + _BUNDLE.format("%(problem)s", "%(features)s", "%(target)s", "%(model_zip)s")
_PIPELINE_ENTITY = "'public.new', " + _BUNDLE.format("'B'", "%(input)s", "%(output)s", "%(pipeline_zip)s")
_CREATE = "'public.new', 'logistic_regression', 'late', 'public.shop', 'B', ARRAY['amount'], '{{}}'::{}, 'd'"
_TRAIN = "%(pipeline)s, 'public.new', 'public.shop', true, true, '{{}}'::{}"
_EVALUATE = "'', %(model)s, 1::bigint, 'public.shop', 'f1', '{{}}'::{}"
_PREDICT = "%(model)s, 1::bigint, 'public.shop', 'public.result', 'error', '{{}}'::{}"

#: Signature as the catalogue gives it → (the arguments of a call, the cells).
FUNCTIONS: dict[str, tuple[str, Cells]] = {
    "algorithms()": ("", EVERYBODY),
    "batch_predict(text,bigint,text,text,text,jsonb)": (_PREDICT.format("jsonb"), on_model("PREDICT")),
    "batch_predict(text,bigint,text,text,text,text)": (_PREDICT.format("text"), on_model("PREDICT")),
    "batch_predict(text,text,bigint,text,text,text,jsonb)": ("'', " + _PREDICT.format("jsonb"), on_model("PREDICT")),
    "batch_predict(text,text,bigint,text,text,text,text)": ("'', " + _PREDICT.format("text"), on_model("PREDICT")),
    "batch_predict(text,text,text,text,text)": (
        "%(model)s::text, '1'::text, 'public.shop'::text, 'public.result'::text, 'error'::text", on_model("PREDICT")),
    "batch_predict(text,text,text,text,text,text)": (
        "''::text, %(model)s::text, '1'::text, 'public.shop'::text, 'public.result'::text, 'error'::text",
        on_model("PREDICT")),
    "batch_predict(text,text,text,text,text,text,text)": (
        "''::text, %(model)s::text, '1'::text, 'public.shop'::text, 'public.result'::text, 'error'::text, '{}'::text",
        on_model("PREDICT")),
    "cancel_job(text)": ("%(running)s::text", THE_JOBS_OWNERS),
    "cancel_job(uuid)": ("%(running)s::uuid", THE_JOBS_OWNERS),
    "create_training_pipeline(text,text,text,text,text,text[],jsonb,text)": (_CREATE.format("jsonb"), EVERYBODY),
    "create_training_pipeline(text,text,text,text,text,text[],text,text)": (_CREATE.format("text"), EVERYBODY),
    "evaluate_model(text,text,bigint,text,text,jsonb)": (_EVALUATE.format("jsonb"), on_model("EVALUATE")),
    "evaluate_model(text,text,bigint,text,text,text)": (_EVALUATE.format("text"), on_model("EVALUATE")),
    "explain_train(text,text)": ("%(pipeline)s, 'public.shop'", on_pipeline("TRAIN")),
    "grant_privilege_on_model(text,text,text)": ("%(model)s, %(friend)s, 'SELECT'", GRANTS_MODEL),
    "grant_privilege_on_training_pipeline(text,text,text)": ("%(pipeline)s, %(friend)s, 'SELECT'", GRANTS_PIPELINE),
    "has_model_privilege(text,text,text)": ("%(model)s, %(creator)s, 'ALL'", ASKS_MODEL),
    "has_training_pipeline_privilege(text,text,text)": ("%(pipeline)s, %(creator)s, 'ALL'", ASKS_PIPELINE),
    "import_model(text,text,text,text,text,jsonb,jsonb,bytea,bytea,jsonb)": (_MODEL_ENTITY.format("jsonb"), EXTENDS),
    "import_model(text,text,text,text,text,text,text,bytea,bytea,text)": (_MODEL_ENTITY.format("text"), EXTENDS),
    "import_training_pipeline(text,text,text,text,text,jsonb,jsonb,bytea,bytea)": (
        _PIPELINE_ENTITY.format("jsonb"), EVERYBODY),
    "import_training_pipeline(text,text,text,text,text,text,text,bytea,bytea)": (
        _PIPELINE_ENTITY.format("text"), EVERYBODY),
    "job_logs(text)": ("%(job)s::text", THE_JOBS_OWNERS),
    "job_logs(uuid)": ("%(job)s::uuid", THE_JOBS_OWNERS),
    "reassign_owned(text,text)": ("%(friend)s, %(creator)s", ADMINS_ONLY),
    "remove_job(text)": ("%(job)s::text", ADMINS_ONLY),
    "remove_job(uuid)": ("%(job)s::uuid", ADMINS_ONLY),
    "remove_model(text)": ("%(model)s", on_model("DELETE")),
    "remove_model(text,bigint)": ("%(model)s, 2::bigint", on_model("DELETE")),
    "remove_training_pipeline(text)": ("%(pipeline)s", on_pipeline("DELETE")),
    "revoke_privilege_on_model(text,text,text)": ("%(model)s, %(friend)s, 'SELECT'", GRANTS_MODEL),
    "revoke_privilege_on_training_pipeline(text,text,text)": ("%(pipeline)s, %(friend)s, 'SELECT'", GRANTS_PIPELINE),
    "set_active_version(text,bigint)": ("%(model)s, 2::bigint", on_model("UPDATE")),
    "show_job(text)": ("%(job)s::text", THE_JOBS_OWNERS),
    "show_job(uuid)": ("%(job)s::uuid", THE_JOBS_OWNERS),
    "show_jobs(text,bigint,text[],text[])": ("NULL, NULL::bigint, NULL::text[], NULL::text[]", OWN_JOBS),
    "show_jobs(text,text,text[])": ("'*'::text, NULL::text, ARRAY['*']", OWN_JOBS),
    "show_jobs(text,text[],text[])": ("'*'::text, ARRAY['*'], ARRAY['*']", OWN_JOBS),
    "show_jobs(text[])": ("ARRAY['*']", OWN_JOBS),
    "show_model(text,bigint)": ("%(model)s, 1::bigint", on_model("SELECT", refused="42704")),
    "show_models()": ("", SEES_MODEL),
    "show_models(text,bigint)": ("%(model)s, 1::bigint", on_model("SELECT", refused="42704")),
    "show_training_pipeline(text)": ("%(pipeline)s", on_pipeline("SELECT", refused="42704")),
    "show_training_pipelines()": ("", SEES_PIPELINE),
    "train_model(text,text,text,boolean,boolean,jsonb)": (_TRAIN.format("jsonb"), on_pipeline("TRAIN")),
    "train_model(text,text,text,boolean,boolean,text)": (_TRAIN.format("text"), on_pipeline("TRAIN")),
    "wait_for_job(text,interval,text)": ("%(job)s::text", THE_JOBS_OWNERS),
    "wait_for_job(uuid,interval,text)": ("%(job)s::uuid", THE_JOBS_OWNERS),
    "wait_job(text,interval)": ("%(job)s::text", THE_JOBS_OWNERS),
    "wait_job(uuid,interval)": ("%(job)s::uuid", THE_JOBS_OWNERS),
}  # fmt: skip

#: The same functions asked for something else.
FURTHER_CALLS = (
    Row("train_model into a model that exists", (
        "SELECT kwdbml.train_model(%(pipeline)s, %(model)s, 'public.shop', true, true)"), EXTENDS_BY_TRAINING),
    Row("evaluate_model with a named pipeline", (
        "SELECT kwdbml.evaluate_model(%(pipeline)s, %(model)s, 1, 'public.shop', 'f1')"),
        cells("42704", (("pipeline TRAIN", "pipeline DELETE"), "42501"), ((*ALL, *OWNERS), "ok"))),
    Row("import_model under a new name", (
        "SELECT kwdbml.import_model('public.new', 'd', %(problem)s, 'sklearn_1.3', 'python_3.8', %(features)s::jsonb,"
        " %(target)s::jsonb, %(model_zip)s::bytea, NULL)"), EVERYBODY),
    Row("show_jobs of a model", "SELECT id FROM kwdbml.show_jobs(%(model)s)", OWN_JOB),
    Row("show_jobs of a model's newest version", "SELECT id FROM kwdbml.show_jobs(%(model)s, 0)", cells("empty")),
    Row("has_model_privilege of what was granted to oneself", (
        "SELECT kwdbml.has_model_privilege(%(model)s, current_user::text, 'SELECT')"),
        on_model("SELECT", refused="no")),
)  # fmt: skip

#: Rows of kwdbml.request written by hand by somebody who knows the random id of what they are about.
_REQUEST = "INSERT INTO kwdbml.request (kind, arguments) VALUES ('{}', jsonb_build_object({})) RETURNING answer"
_ON_MODEL = "'model', %(model_id)s::text, 'version', 2"
_PRIVILEGE = "'thing', 'model', 'id', %(model_id)s::text, 'user_name', %(friend)s::text, 'privilege', 'SELECT'"
REQUESTS = (
    Row("request set_active_version", _REQUEST.format("set_active_version", _ON_MODEL), on_model("UPDATE")),
    Row("request remove_model", _REQUEST.format("remove_model", _ON_MODEL), on_model("DELETE")),
    Row("request remove_pipeline", _REQUEST.format("remove_pipeline", "'pipeline', %(pipeline_id)s::text"),
        on_pipeline("DELETE")),
    Row("request grant", _REQUEST.format("grant", _PRIVILEGE), GRANTS_MODEL),
    Row("request revoke", _REQUEST.format("revoke", _PRIVILEGE), GRANTS_MODEL),
    Row("request reassign_owned", _REQUEST.format(
        "reassign_owned", "'from_name', %(friend)s::text, 'to_name', %(creator)s::text"), ADMINS_ONLY),
    Row("request with a requester", (
        "INSERT INTO kwdbml.request (kind, requester, arguments) VALUES ('reassign_owned', %(admin)s,"
        " jsonb_build_object('from_name', %(friend)s::text, 'to_name', %(creator)s::text))"), NOBODY),
)  # fmt: skip

_JOB = (
    "INSERT INTO kwdbml.job (type, model_name, {}, data_query, data_columns) VALUES ('{}', 'public.m', %({})s,"
    " 'TABLE public.shop', '[]')"
)
_PIPELINE = (
    "INSERT INTO kwdbml.pipeline (schema, name, problem_type, framework, runtime, features, target, content_hash)"
    " VALUES ('{}', 'byhand', 'b', 'sklearn_1.3', 'python_3.8', '[]', '[]', '')"
)
#: What is granted of tables by column or by row.
PARTS = (
    Row("attempt.token (SELECT)", "SELECT token FROM kwdbml.attempt", NOBODY),
    Row("attempt.handle (SELECT)", "SELECT handle FROM kwdbml.attempt", NOBODY),
    Row("request.arguments (SELECT)", "SELECT count(arguments) FROM kwdbml.request", NOBODY),
    Row("job.status (UPDATE to CANCELED)", (
        "UPDATE kwdbml.job SET status = 'CANCELED' WHERE id = %(running)s"), OWN_JOB),
    Row("job.status (UPDATE to SUCCEEDED)", (
        "UPDATE kwdbml.job SET status = 'SUCCEEDED' WHERE id = %(running)s"),
        cells("empty", (("creator", "admin"), "42501"), (("superuser",), "ok"))),
    Row("job (SELECT FOR UPDATE)", "SELECT id FROM kwdbml.job WHERE id = %(running)s FOR UPDATE", OWN_JOB),
    Row("model (SELECT FOR SHARE)", "SELECT id FROM kwdbml.model WHERE id = %(model_id)s FOR SHARE", NOBODY),
    Row("pipeline (INSERT)", _PIPELINE.format("public"), EVERYBODY),
    Row("pipeline (INSERT, without USAGE on the schema)", _PIPELINE.format("hidden"), NOBODY),
    Row("a table of one's own in the schema kwdbml", "CREATE TABLE kwdbml.mine ()", NOBODY),
    Row("job (DELETE of a row)", "DELETE FROM kwdbml.job WHERE id = %(job)s", ADMINS_ONLY),
    Row("job (INSERT TRAIN)", _JOB.format("pipeline_id", "TRAIN", "pipeline_id"), on_pipeline("TRAIN", "42501")),
    Row("job (INSERT EVALUATE)", _JOB.format("model_version_id", "EVALUATE", "version_id"),
        on_model("EVALUATE", "42501")),
    Row("job (INSERT BATCH_PREDICT)", _JOB.format("model_version_id", "BATCH_PREDICT", "version_id"),
        on_model("PREDICT", "42501")),
    Row("job.creator (INSERT)", (
        "INSERT INTO kwdbml.job (type, model_name, creator, data_query, data_columns)"
        " VALUES ('TRAIN', 'public.m', %(admin)s, 'TABLE public.shop', '[]')"), NOBODY),
    Row("job_env (INSERT)", "INSERT INTO kwdbml.job_env (job_id, env) VALUES (%(bare)s, '{}')",
        cells("42501", (("creator", "superuser"), "ok"))),
    Row("settings (INSERT)", "INSERT INTO kwdbml.settings (name, value) VALUES ('default_ttl', '5')", ADMINS_ONLY),
    Row("settings.value (UPDATE)", "UPDATE kwdbml.settings SET value = '7'", ADMINS_ONLY),
    Row("runtime (INSERT)", (
        "INSERT INTO kwdbml.runtime (framework, runtime, runs_as) VALUES ('sklearn_9', 'python_9', 'sklearn')"),
        ADMINS_ONLY),
    Row("runtime (UPDATE of a built-in one)", "UPDATE kwdbml.runtime SET image = 'x' WHERE builtin",
        cells("42501", (("admin",), "empty"), (("superuser",), "ok"))),
    Row("runtime (DELETE of a built-in one)", "DELETE FROM kwdbml.runtime WHERE builtin",
        cells("42501", (("admin",), "empty"), (("superuser",), "ok"))),
    Row("flavour (INSERT)", "INSERT INTO kwdbml.flavour (name, cpu) VALUES ('big', '9')", ADMINS_ONLY),
    Row("file_system (INSERT)", "INSERT INTO kwdbml.file_system (name, claim) VALUES ('mine', 'pvc')", ADMINS_ONLY),
    Row("file_system.roles (UPDATE)", "UPDATE kwdbml.file_system SET roles = '{public}'", ADMINS_ONLY),
)  # fmt: skip

#: Internal functions that run as the owner although everybody may call them: what a call with somebody's ids answers.
DEFINERS: dict[str, tuple[str, Cells]] = {
    "_attach_bundle(uuid,text,bytea)": ("%(pipeline_id)s::uuid, 'pipeline', ''::bytea", cells("42501")),
    "_has_all(text,uuid,name,text[])": (
        "'model', %(model_id)s::uuid, current_user, ARRAY['SELECT']",
        on_model("SELECT", "no", "no"),
    ),
    "_load()": ("", EVERYBODY),
    "_model_right(uuid,text,name)": ("%(model_id)s::uuid, 'UPDATE', current_user", on_model("UPDATE", "no", "no")),
    "_model_taken(text,text)": ("'public', 'm'", EVERYBODY),
    "_owns_model(uuid,name)": ("%(model_id)s::uuid, current_user", cells("no", (OWNERS, "ok"))),
    "_owns_pipeline(uuid,name)": ("%(pipeline_id)s::uuid, current_user", cells("no", (OWNERS, "ok"))),
    "_pipeline_right(uuid,text,name)": (
        "%(pipeline_id)s::uuid, 'TRAIN', current_user",
        on_pipeline("TRAIN", "no", "no"),
    ),
    "_version_right(uuid,text,name)": (
        "%(version_id)s::uuid, 'PREDICT', current_user",
        on_model("PREDICT", "no", "no"),
    ),
}
#: Internal functions that nobody but the owner may call, and every one whose name begins with _do_ or worker_ (the
#: worker's own), and every trigger function, which believes the row of whatever table it hangs on.
OWNER_ONLY = {
    "_decide", "_fence", "_heir", "_hold_grants", "_hold_schema", "_land_version", "_lock_plain", "_misfit",
    "_model_to_extend", "_reads_as", "_reassign_jobs", "_reassign_privileges", "_result_close", "_store_bundle",
    "_told_metrics",
}  # fmt: skip
#: Internal functions that everybody may call, because they act with the caller's rights only.
CALLERS = {
    "_ask", "_ask_privilege", "_base_type", "_call", "_carried", "_check_creator", "_check_grantor", "_check_image",
    "_check_job", "_check_scalar_resources", "_file_systems", "_flavour", "_is_cpu", "_is_mem", "_known_engines",
    "_may_use", "_placement",
    "_check_job_filter", "_check_made", "_check_may_compare", "_check_model_name", "_check_result_table", "_commit",
    "_environment", "_feature_cast", "_feature_type", "_given_version", "_grantee", "_has_any", "_has_role",
    "_installation", "_is_admin", "_is_system_schema", "_job_id", "_job_statuses", "_job_types", "_model_id",
    "_model_locked", "_name", "_no_filter", "_no_such_job", "_owns", "_pipeline_id", "_privileges", "_python",
    "_qualified", "_reads_plainly", "_result_columns", "_result_name", "_result_place", "_runs_code_on_insert",
    "_score", "_setting", "_shape_difference", "_stage_columns", "_typmod", "_usable_version", "_valid_words",
    "_version", "_version_of", "_waitable_status", "_wanted_version", "_word_list", "_written_here",
}  # fmt: skip


#: Types of the schema that are no table's; everybody may use them.
TYPES = {
    "algorithm_row", "explain_row", "job_row", "job_status", "job_type", "log_row", "model_row", "model_version_row",
    "pipeline_row", "worker_job",
}  # fmt: skip


def expanded(wanted: Cells) -> Cells:
    """The cells of all roles, those of SAME_AS included."""
    return {**wanted, **{twin: wanted[role] for twin, role in SAME_AS.items()}}


def call(signature: str, arguments: str) -> str:
    """A statement that calls a function, or the procedure."""
    name = signature.partition("(")[0]
    return f"CALL kwdbml.{name}({arguments})" if name == "wait_for_job" else f"SELECT * FROM kwdbml.{name}({arguments})"
