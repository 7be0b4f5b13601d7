-- requires: _load
-- Contract: the new job's id. Needs EVALUATE on the model, SELECT on a named pipeline and on the data.
CREATE FUNCTION kwdbml.evaluate_model(
    pipeline_name text, model_name text, model_version bigint, evaluate_data text, objectives text,
    settings jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('evaluate_model', pg_catalog.jsonb_build_array(pipeline_name, model_name, model_version, evaluate_data, objectives, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.evaluate_model(text, text, bigint, text, text, jsonb) IS
    'submits an EVALUATE job: version NULL is the active one, 0 the newest; objectives are metric names separated by commas';
CREATE FUNCTION kwdbml.evaluate_model(
    pipeline_name text, model_name text, model_version bigint, evaluate_data text, objectives text, settings text)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('evaluate_model', pg_catalog.jsonb_build_array(pipeline_name, model_name, model_version, evaluate_data, objectives, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.evaluate_model(text, text, bigint, text, text, text) IS 'evaluate_model with settings as text';
