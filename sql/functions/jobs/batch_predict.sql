-- requires: _load names
-- Contract: the new job's id. Needs PREDICT on the model, SELECT on the data (and on a named pipeline), and the right to
-- create or write the result table. All rows land in the transaction that makes the job SUCCEEDED, or none do.
CREATE FUNCTION kwdbml.batch_predict(
    pipeline_name text, model_name text, model_version bigint, batch_data text, result_table text,
    action_if_exists text, settings jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('batch_predict', pg_catalog.jsonb_build_array(pipeline_name, model_name, model_version, batch_data, result_table, action_if_exists, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, bigint, text, text, text, jsonb) IS
    'submits a BATCH_PREDICT job: the data and a prediction column go to result_table; action_if_exists: replace, append or error';
CREATE FUNCTION kwdbml.batch_predict(
    pipeline_name text, model_name text, model_version bigint, batch_data text, result_table text,
    action_if_exists text, settings text)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('batch_predict', pg_catalog.jsonb_build_array(pipeline_name, model_name, model_version, batch_data, result_table, action_if_exists, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, bigint, text, text, text, text) IS 'batch_predict with settings as text';
CREATE FUNCTION kwdbml.batch_predict(
    model_name text, model_version bigint, batch_data text, result_table text, action_if_exists text,
    settings jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.batch_predict('', $1, $2, $3, $4, $5, $6);
END;
COMMENT ON FUNCTION kwdbml.batch_predict(text, bigint, text, text, text, jsonb) IS 'batch_predict without a pipeline';
CREATE FUNCTION kwdbml.batch_predict(
    model_name text, model_version bigint, batch_data text, result_table text, action_if_exists text, settings text)
RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.batch_predict('', $1, $2, $3, $4, $5, $6);
END;
COMMENT ON FUNCTION kwdbml.batch_predict(text, bigint, text, text, text, text) IS
    'batch_predict without a pipeline, with settings as text';
-- Six arguments without types: the second tells which form it is. Unnamed, so that named notation means the forms above.
CREATE FUNCTION kwdbml.batch_predict(text, text, text, text, text, text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF $2 IS NULL OR $2 ~ '^\s*\d+\s*$' THEN
        RETURN kwdbml.batch_predict(''::text, $1, kwdbml._version($2), $3, $4, $5, $6);
    END IF;
    RETURN kwdbml.batch_predict($1, $2, kwdbml._version($3), $4, $5, $6, '{}'::jsonb);
END
$$;
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, text, text, text, text) IS
    'batch_predict with untyped arguments: without a pipeline when the second is a version, else without settings';
-- The version as text, where a driver says that it is text.
CREATE FUNCTION kwdbml.batch_predict(text, text, text, text, text, text, text) RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.batch_predict($1, $2, kwdbml._version($3), $4, $5, $6, $7);
END;
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, text, text, text, text, text) IS 'batch_predict, the version as text';
CREATE FUNCTION kwdbml.batch_predict(text, text, text, text, text) RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.batch_predict(''::text, $1, kwdbml._version($2), $3, $4, $5, '{}'::jsonb);
END;
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, text, text, text) IS 'batch_predict without a pipeline, the version as text';
