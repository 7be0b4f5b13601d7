-- PostgreSQL keeps all names that begin with pg_ for itself.
CREATE FUNCTION kwdbml._is_system_schema(schema text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN $1 IN ('kwdbml', 'information_schema') OR pg_catalog.left($1, 3) = 'pg_';
COMMENT ON FUNCTION kwdbml._is_system_schema(text) IS 'whether a schema is no place for models and training pipelines';

CREATE TABLE kwdbml.pipeline (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    schema text NOT NULL CHECK (NOT kwdbml._is_system_schema(schema)),
    name text NOT NULL CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 63),
    description text NOT NULL DEFAULT '',
    creator name NOT NULL DEFAULT current_user,
    created timestamptz NOT NULL DEFAULT pg_catalog.now(),
    problem_type text NOT NULL CHECK (problem_type IN ('r', 'b', 'm')),
    framework text NOT NULL,
    runtime text NOT NULL,
    features jsonb NOT NULL CHECK (pg_catalog.jsonb_typeof(features) = 'array'),
    target jsonb NOT NULL CHECK (pg_catalog.jsonb_typeof(target) = 'array'),
    algorithm text,
    hyperparameters jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(hyperparameters) = 'object'),
    scripts text[] NOT NULL DEFAULT '{}',
    content_hash text NOT NULL,
    UNIQUE (schema, name)
);
COMMENT ON TABLE kwdbml.pipeline IS 'training pipelines: an uploaded bundle of user code, or a built-in algorithm';
COMMENT ON COLUMN kwdbml.pipeline.algorithm IS 'the built-in algorithm; NULL for an uploaded bundle';
COMMENT ON COLUMN kwdbml.pipeline.scripts IS 'which scripts the bundle brings: train, evaluate, batch_predict';
COMMENT ON COLUMN kwdbml.pipeline.content_hash IS 'SHA-256 over declaration and bundles: what really trained a version';

CREATE TABLE kwdbml.pipeline_privilege (
    pipeline_id uuid NOT NULL REFERENCES kwdbml.pipeline ON DELETE CASCADE,
    grantee name NOT NULL,
    privilege text NOT NULL CHECK (privilege IN ('SELECT', 'DELETE', 'TRAIN')),
    grantor name NOT NULL DEFAULT current_user,
    PRIMARY KEY (pipeline_id, grantee, privilege)
);
COMMENT ON TABLE kwdbml.pipeline_privilege IS 'who else may see, delete or train with a pipeline; grantee public means everyone';
