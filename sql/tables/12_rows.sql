-- What functions that answer rows answer: named types, because a column of RETURNS TABLE that is named like a parameter
-- silently switches a filter off. Here, not beside the functions, because a type cannot be made again.
CREATE TYPE kwdbml.log_row AS (seq bigint, at timestamptz, step text, stream text, line text);
CREATE TYPE kwdbml.job_row AS (
    id text, type text, status text, pipeline_name text, model_name text, model_version integer, creator text,
    created timestamptz, finished timestamptz, settings jsonb, result jsonb, error jsonb);
CREATE TYPE kwdbml.model_row AS (
    schema text, name text, description text, creator text, created timestamptz, last_updated timestamptz,
    problem_type text, features jsonb, target jsonb, framework text, runtime text, active_version integer,
    last_metrics jsonb, status jsonb);
CREATE TYPE kwdbml.model_version_row AS (
    schema text, name text, description text, creator text, created timestamptz, last_updated timestamptz,
    problem_type text, features jsonb, target jsonb, framework text, runtime text, active_version integer,
    last_metrics jsonb, status jsonb, version integer, lineage jsonb);
CREATE TYPE kwdbml.algorithm_row AS (
    name text, description text, problem_types text[], framework text, hyperparameters jsonb);
CREATE TYPE kwdbml.pipeline_row AS (
    schema text, name text, description text, creator text, created timestamptz, problem_type text,
    features jsonb, target jsonb, framework text, runtime text);
CREATE TYPE kwdbml.explain_row AS (item text, name text, found text, wanted text, verdict text, detail text);
CREATE TYPE kwdbml.worker_job AS (
    job_id uuid, attempt integer, token uuid, run_name text, engine text, status text, takeover boolean, phase text, handle jsonb,
    host text);
