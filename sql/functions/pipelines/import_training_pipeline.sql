-- requires: _load
-- Contract: stores a bundle for a pipeline that this very transaction has made; nobody else can see that row yet, and
-- nobody can add to one that is committed. SECURITY DEFINER: callers have no right on artefacts.
CREATE FUNCTION kwdbml._attach_bundle(pipeline uuid, bundle_kind text, bundle bytea) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM kwdbml.pipeline p WHERE p.id = pipeline AND p.algorithm IS NULL AND kwdbml._written_here(p.xmin))
       OR bundle_kind NOT IN ('pipeline', 'transformer') THEN
        RAISE EXCEPTION 'bundles belong to the transaction that makes their pipeline' USING ERRCODE = '42501';
    END IF;
    PERFORM kwdbml._store_bundle(pipeline, NULL, bundle_kind, bundle);
END
$$;
COMMENT ON FUNCTION kwdbml._attach_bundle(uuid, text, bytea) IS 'stores the bundle of a pipeline that is being made';

-- Contract: the qualified name. The bundle is checked (a ZIP with the files asked for, bounded), never executed here.
CREATE FUNCTION kwdbml.import_training_pipeline(
    pipeline_name text, description text, problem_type text, framework text, runtime text,
    input_schema jsonb, output_schema jsonb, pipeline_entity bytea, transformer_entity bytea)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('import_training_pipeline', pg_catalog.jsonb_build_array(pipeline_name, description, problem_type, framework, runtime, input_schema, output_schema),
        ARRAY[pipeline_entity, transformer_entity]) #>> '{}';
COMMENT ON FUNCTION kwdbml.import_training_pipeline(text, text, text, text, text, jsonb, jsonb, bytea, bytea) IS
    'makes a training pipeline from a ZIP of your own code (pipeline/train.py), see docs/bundles.md';
CREATE FUNCTION kwdbml.import_training_pipeline(
    pipeline_name text, description text, problem_type text, framework text, runtime text,
    input_schema text, output_schema text, pipeline_entity bytea, transformer_entity bytea)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('import_training_pipeline', pg_catalog.jsonb_build_array(pipeline_name, description, problem_type, framework, runtime, input_schema, output_schema),
        ARRAY[pipeline_entity, transformer_entity]) #>> '{}';
COMMENT ON FUNCTION kwdbml.import_training_pipeline(text, text, text, text, text, text, text, bytea, bytea) IS
    'import_training_pipeline with the schemas as text, as JDBC''s setString sends them';
