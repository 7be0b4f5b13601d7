CREATE TABLE kwdbml.model (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    schema text NOT NULL CHECK (NOT kwdbml._is_system_schema(schema)),
    name text NOT NULL CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 63),
    description text NOT NULL DEFAULT '',
    creator name NOT NULL DEFAULT current_user,
    created timestamptz NOT NULL DEFAULT pg_catalog.now(),
    last_updated timestamptz NOT NULL DEFAULT pg_catalog.now(),
    problem_type text NOT NULL CHECK (problem_type IN ('r', 'b', 'm')),
    features jsonb NOT NULL CHECK (pg_catalog.jsonb_typeof(features) = 'array'),
    target jsonb NOT NULL CHECK (pg_catalog.jsonb_typeof(target) = 'array'),
    next_version integer NOT NULL DEFAULT 1,
    UNIQUE (schema, name)
);
COMMENT ON TABLE kwdbml.model IS 'models; what they can do is in their versions';
COMMENT ON COLUMN kwdbml.model.next_version IS 'a number is never used again while the model exists';

CREATE TABLE kwdbml.model_version (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    model_id uuid NOT NULL REFERENCES kwdbml.model ON DELETE CASCADE,
    version integer NOT NULL,
    active boolean NOT NULL DEFAULT false,
    creator name NOT NULL DEFAULT current_user,
    created timestamptz NOT NULL DEFAULT pg_catalog.now(),
    framework text NOT NULL,
    runtime text NOT NULL,
    algorithm text,
    hyperparameters jsonb NOT NULL DEFAULT '{}',
    last_metrics jsonb,
    pipeline_name text,
    pipeline_hash text,
    job_id uuid,
    data_query text,
    data_hash text,
    rows_read bigint,
    libraries jsonb,
    duration interval,
    holdout_hash text,
    holdout_metrics jsonb,
    UNIQUE (model_id, version)
);
-- The active version is a flag, not a foreign key from model: circular keys break the restore of a dump.
CREATE UNIQUE INDEX model_version_active ON kwdbml.model_version (model_id) WHERE active;
COMMENT ON COLUMN kwdbml.model_version.holdout_hash IS
    'SHA-256 over the rows that were held out when it was trained: scores on equal ones can be compared';
COMMENT ON COLUMN kwdbml.model_version.holdout_metrics IS
    'what the built-in evaluator measured on the rows of holdout_hash; unlike last_metrics it never changes';
COMMENT ON TABLE kwdbml.model_version IS 'versions of models and where each came from';

CREATE TABLE kwdbml.model_privilege (
    model_id uuid NOT NULL REFERENCES kwdbml.model ON DELETE CASCADE,
    grantee name NOT NULL,
    privilege text NOT NULL CHECK (privilege IN ('SELECT', 'UPDATE', 'DELETE', 'EVALUATE', 'PREDICT', 'CREATE')),
    grantor name NOT NULL DEFAULT current_user,
    PRIMARY KEY (model_id, grantee, privilege)
);
COMMENT ON TABLE kwdbml.model_privilege IS 'who else may see and use a model; grantee public means everyone';
