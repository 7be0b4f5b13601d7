-- requires: _load
-- Contract: the new job's id. Needs TRAIN on the pipeline and SELECT on the data; both are checked again when it runs.
CREATE FUNCTION kwdbml.train_model(
    pipeline_name text, model_name text, train_data text, new_version_if_exists boolean, immediately_deploy boolean,
    settings jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('train_model', pg_catalog.jsonb_build_array(pipeline_name, model_name, train_data, new_version_if_exists, immediately_deploy, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.train_model(text, text, text, boolean, boolean, jsonb) IS
    'submits a TRAIN job: train_data is a relation or one SELECT; answers the job''s id; the job starts when you commit';
CREATE FUNCTION kwdbml.train_model(
    pipeline_name text, model_name text, train_data text, new_version_if_exists boolean, immediately_deploy boolean,
    settings text)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('train_model', pg_catalog.jsonb_build_array(pipeline_name, model_name, train_data, new_version_if_exists, immediately_deploy, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.train_model(text, text, text, boolean, boolean, text) IS 'train_model with settings as text';
