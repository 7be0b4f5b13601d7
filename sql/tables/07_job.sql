CREATE TYPE kwdbml.job_type AS ENUM ('TRAIN', 'EVALUATE', 'BATCH_PREDICT');
-- RUNNING → SUCCEEDED (worker_land), RUNNING → FAILED (worker_fail), RUNNING → CANCELED (cancel_job). Nothing else.
CREATE TYPE kwdbml.job_status AS ENUM ('RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELED');

-- A caller may INSERT the request columns, which grants.sql lists; the rest comes from defaults, here and in the
-- worker's functions. The worker trusts no request column: all are checked again when the job is claimed.
CREATE TABLE kwdbml.job (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    type kwdbml.job_type NOT NULL,
    status kwdbml.job_status NOT NULL DEFAULT 'RUNNING',
    pipeline_name text,
    pipeline_id uuid REFERENCES kwdbml.pipeline ON DELETE SET NULL,
    model_name text NOT NULL,
    model_version integer,
    model_version_id uuid REFERENCES kwdbml.model_version ON DELETE SET NULL,
    creator name NOT NULL DEFAULT current_user,
    -- A new role of an old name must not inherit the old one's queued jobs.
    creator_oid oid NOT NULL DEFAULT pg_catalog.to_regrole(pg_catalog.quote_ident(current_user))::oid,
    created timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished timestamptz,
    updated timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    settings jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(settings) = 'object'),
    result jsonb,
    error jsonb,
    -- what to read: one query; its columns [{name, type, typmod}] as the caller saw them; the relation, when it is one
    data_query text NOT NULL,
    data_relation text,
    data_columns jsonb NOT NULL CHECK (pg_catalog.jsonb_typeof(data_columns) = 'array'),
    -- under which settings of the caller's session the query means what the caller meant
    session jsonb NOT NULL DEFAULT pg_catalog.jsonb_build_object(
        'search_path', pg_catalog.current_setting('search_path'),
        'TimeZone', pg_catalog.current_setting('TimeZone'),
        'DateStyle', pg_catalog.current_setting('DateStyle'),
        'IntervalStyle', pg_catalog.current_setting('IntervalStyle')),
    engine text NOT NULL DEFAULT kwdbml._setting('default_engine') #>> '{}',
    queue text NOT NULL DEFAULT 'default',
    priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -1 AND 1),
    labels jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(labels) = 'object'),
    annotations jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(annotations) = 'object'),
    retries integer NOT NULL DEFAULT 0 CHECK (retries BETWEEN 0 AND 100),
    installation uuid NOT NULL DEFAULT kwdbml._installation(),
    rows_read bigint,
    rows_dropped bigint,
    rows_written bigint,
    main_score double precision,
    decision jsonb,
    pipeline_hash text,
    data_hash text,
    libraries jsonb
);
CREATE INDEX job_created ON kwdbml.job (created DESC);
CREATE INDEX job_creator_created ON kwdbml.job (creator, created DESC);
CREATE INDEX job_model_created ON kwdbml.job (model_name, created DESC);
-- what a worker looks for: the highest priority first, then the oldest
CREATE INDEX job_running ON kwdbml.job (priority DESC, created) WHERE status = 'RUNNING';
-- how long earlier trainings took: a person's latest by the content of their pipeline; by finished, because no other
-- index has that order and could be taken for it
CREATE INDEX job_trained ON kwdbml.job (creator, pipeline_hash, finished DESC) WHERE type = 'TRAIN' AND status = 'SUCCEEDED';
CREATE INDEX job_pipeline ON kwdbml.job (pipeline_id) WHERE pipeline_id IS NOT NULL;
CREATE INDEX job_model_version ON kwdbml.job (model_version_id) WHERE model_version_id IS NOT NULL;
COMMENT ON TABLE kwdbml.job IS 'jobs: what was asked for, by whom, and how it ended; read kwdbml.jobs or kwdbml.show_jobs()';
COMMENT ON COLUMN kwdbml.job.settings IS 'the arguments of the call that have no column of their own, and the keys of settings; of env only the names';

-- The values of env: a table of its own, because row-level security masks no columns.
CREATE TABLE kwdbml.job_env (
    job_id uuid PRIMARY KEY REFERENCES kwdbml.job ON DELETE CASCADE,
    env jsonb NOT NULL CHECK (pg_catalog.jsonb_typeof(env) = 'object')
);
COMMENT ON TABLE kwdbml.job_env IS 'environment variables of a job; only its creator and the worker read them';
