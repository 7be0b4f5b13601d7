-- Named statements of the server-side Python, with the types of their parameters. Run as the caller, under the caller's
-- search_path: everything is qualified, and where PostgreSQL has no operator of exactly these types (oid = regclass, of
-- our own enums any) the types are made its own, or the operator is named in full: somebody else's could fit better and
-- run as the caller (tests/sql/test_search_path.py). A parameter inside a function is a sub-select of its own where it is
-- looked up by: else every call is planned anew, in the hope that the value tells the planner something.

-- name: resolve_schema(text)
SELECT n.nspname::text AS name, pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usage,
       kwdbml._is_system_schema(n.nspname::text) AS system
FROM pg_catalog.pg_namespace n
WHERE n.nspname::text IN (coalesce($1, pg_catalog.current_schema()::text), pg_catalog.lower($1))
ORDER BY n.nspname::text = $1 DESC LIMIT 1

-- name: relation(text)
SELECT c.relkind::text AS kind, c.relpersistence::text AS persistence, c.reltuples::float8 AS rows,
       n.nspname::text AS schema, c.relname::text AS name,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable,
       (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', a.attname, 'oid', a.atttypid::int8, 'typmod', a.atttypmod,
               'type', pg_catalog.format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)::text AS columns
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = (SELECT pg_catalog.to_regclass($1)::pg_catalog.oid)

-- name: place(text)
SELECT pg_catalog.current_database()::text AS db, pg_catalog.current_schema()::text AS current,
       pg_catalog.to_regnamespace($1) IS NOT NULL AS schema

-- name: type_names(oid[], int4[])
SELECT pg_catalog.format_type(t.oid, t.typmod) AS type
FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) WITH ORDINALITY AS t(oid, typmod, n) ORDER BY t.n

-- name: feature_types(oid[])
SELECT kwdbml._feature_type(t.oid) AS kind, kwdbml._base_type(t.oid) = 'pg_catalog.bool'::pg_catalog.regtype::pg_catalog.oid AS bool
FROM pg_catalog.unnest($1) WITH ORDINALITY AS t(oid, n) ORDER BY t.n

-- name: feature_casts(oid[], text[])
SELECT (kwdbml._feature_cast(t.oid, t.wanted)).staged AS staged
FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) WITH ORDINALITY AS t(oid, wanted, n) ORDER BY t.n

-- name: readings(oid[], text[])
SELECT (kwdbml._feature_cast(t.oid, t.wanted)).staged AS staged, kwdbml._feature_type(t.oid) AS own, b.typname::text AS base
FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) WITH ORDINALITY AS t(oid, wanted, n)
LEFT JOIN pg_catalog.pg_type b ON b.oid = kwdbml._base_type(t.oid) ORDER BY t.n

-- name: sizes(text[], text[])
SELECT DISTINCT c.relname::text AS name, c.reltuples < 0::pg_catalog.float4 AS unknown,
       c.relkind IN ('r', 'm') AND pg_catalog.pg_relation_size(c.oid) = 0 AS empty, NOT c.relispopulated AS hollow
FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS t(schema, name)
JOIN pg_catalog.pg_namespace n ON n.nspname::text = t.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname::text = t.name ORDER BY 1

-- name: past_trainings(text)
SELECT pg_catalog.count(*) AS jobs,
       pg_catalog.percentile_disc(0.5) WITHIN GROUP (ORDER BY j.rows_read) AS rows,
       pg_catalog.percentile_cont(0.5) WITHIN GROUP (ORDER BY pg_catalog.date_part('epoch', j.finished - a.started) / j.rows_read::pg_catalog.float8)
           AS seconds_per_row
FROM (SELECT b.id, b.rows_read, b.finished FROM kwdbml.job b
      WHERE b.type OPERATOR(pg_catalog.=) 'TRAIN' AND b.status OPERATOR(pg_catalog.=) 'SUCCEEDED' AND b.rows_read > 0 AND b.creator = current_user
        AND b.pipeline_hash = (SELECT p.content_hash FROM kwdbml.pipeline p WHERE p.id = $1::uuid)
      ORDER BY b.finished DESC LIMIT 100) j
JOIN LATERAL (SELECT t.started FROM kwdbml.attempt t WHERE t.job_id = j.id ORDER BY t.number DESC LIMIT 1) a ON true

-- name: carried(oid[])
SELECT (kwdbml._carried(t.oid)).staged AS staged
FROM pg_catalog.unnest($1) WITH ORDINALITY AS t(oid, n) ORDER BY t.n

-- name: bundle_limit()
SELECT kwdbml._setting('bundle_limit')::int8 AS bytes

-- name: runtime(text, text)
SELECT runs_as FROM kwdbml.runtime WHERE framework = $1 AND runtime = $2

-- name: runtimes()
SELECT framework, pg_catalog.string_agg(runtime, ' ' ORDER BY runtime) AS runtimes
FROM kwdbml.runtime GROUP BY 1 ORDER BY 1

-- name: insert_pipeline(text, text, text, text, text, text, text, text, text, text, text[], text)
INSERT INTO kwdbml.pipeline (schema, name, description, problem_type, framework, runtime, features, target,
                             algorithm, hyperparameters, scripts, content_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9, $10::jsonb, $11, $12) RETURNING id::text

-- name: attach_bundle(text, text, bytea)
SELECT kwdbml._attach_bundle($1::uuid, $2, $3)

-- name: pipeline(text, text, text)
SELECT p.id::text AS id, p.schema || '.' || p.name AS name, p.problem_type, p.features, p.target, p.algorithm,
       p.hyperparameters, p.scripts, kwdbml._pipeline_right(p.id, $3, current_user) AS allowed
FROM kwdbml.pipeline p WHERE p.schema = $1 AND p.name = $2

-- name: model_version(text, text, text, int8)
SELECT m.schema || '.' || m.name AS name, m.problem_type, m.features, m.target, v.id::text AS version_id, v.version,
       v.algorithm, kwdbml._model_right(m.id, $3, current_user) AS allowed
FROM kwdbml.model m
LEFT JOIN LATERAL kwdbml._usable_version(m.id, $4) v ON v.id IS NOT NULL
WHERE m.schema = $1 AND m.name = $2

-- name: import_model(text, bytea[])
SELECT kwdbml._ask('import_model', $1::jsonb, $2)::text AS answer

-- name: model_to_extend(text, text)
SELECT m.id IS NOT NULL AS visible, m.problem_type, m.features, m.target,
       CASE WHEN m.id IS NULL THEN kwdbml._model_taken($1, $2) END AS taken,
       (SELECT pg_catalog.array_agg(w.privilege) FROM (VALUES ('CREATE'), ('UPDATE'), ('EVALUATE')) AS w(privilege)
        WHERE kwdbml._model_right(m.id, w.privilege, current_user)) AS rights
FROM (VALUES (1)) AS always LEFT JOIN kwdbml.model m ON m.schema = $1 AND m.name = $2

-- name: check_result_table(text, text, text, text, text)
SELECT kwdbml._check_result_table($1, $2, kwdbml._result_columns($3::jsonb, $4::jsonb), $5, current_user)

-- name: placement(text, text)
SELECT kwdbml._placement($1::jsonb, $2, current_user)

-- name: insert_job(text, text, text, text, int4, text, text, text, text, text, text, text, int2, text, text, int4)
INSERT INTO kwdbml.job (type, pipeline_name, pipeline_id, model_name, model_version, model_version_id, settings, data_query,
                        data_relation, data_columns, engine, queue, priority, labels, annotations, retries)
VALUES ($1::kwdbml.job_type, $2, $3::uuid, $4, $5, $6::uuid, $7::jsonb, $8, $9, $10::jsonb,
        coalesce($11, kwdbml._setting('default_engine') OPERATOR(pg_catalog.#>>) '{}'), $12, $13, $14::jsonb, $15::jsonb, $16)
RETURNING id::text AS id, pg_catalog.pg_notify('kwdbml_wake', '')

-- name: insert_env(text, text)
INSERT INTO kwdbml.job_env (job_id, env) VALUES ($1::uuid, $2::jsonb)
