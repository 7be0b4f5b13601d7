-- Contract: 'schema.name,version'. Anybody for a new name; a further version needs CREATE on the model and the same problem
-- type, features and target. The bundle is checked (a ZIP with the files asked for, bounded), never executed here.
CREATE FUNCTION kwdbml.import_model(
    model_name text, description text, problem_type text, framework text, runtime text,
    input_schema jsonb, output_schema jsonb, model_entity bytea, transformer_entity bytea, metrics jsonb DEFAULT NULL)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('import_model', pg_catalog.jsonb_build_array(model_name, description, problem_type, framework, runtime,
    input_schema, output_schema, metrics), ARRAY[model_entity, transformer_entity]) #>> '{}';
COMMENT ON FUNCTION kwdbml.import_model(text, text, text, text, text, jsonb, jsonb, bytea, bytea, jsonb) IS
    'makes a version of a model from a ZIP of a trained one (model/model.joblib …), see docs/bundles.md; description is the model''s, kept with its first version alone';
CREATE FUNCTION kwdbml.import_model(
    model_name text, description text, problem_type text, framework text, runtime text,
    input_schema text, output_schema text, model_entity bytea, transformer_entity bytea, metrics text DEFAULT NULL)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('import_model', pg_catalog.jsonb_build_array(model_name, description, problem_type, framework, runtime,
    input_schema, output_schema, metrics), ARRAY[model_entity, transformer_entity]) #>> '{}';
COMMENT ON FUNCTION kwdbml.import_model(text, text, text, text, text, text, text, bytea, bytea, text) IS
    'import_model with JSON as text, as JDBC''s setString sends it';

-- Contract: what import_model asks for, checked once more, because a request may be written by hand.
CREATE FUNCTION kwdbml._do_import_model(who name, arguments jsonb, bundles bytea[]) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given kwdbml.model := jsonb_populate_record(NULL::kwdbml.model, arguments);
    kinds constant text[] := ARRAY['model', 'transformer'];
    m kwdbml.model;
    version_id uuid;
BEGIN
    PERFORM kwdbml._check_model_name(given.schema || '.' || given.name, who);
    IF NOT EXISTS (SELECT FROM kwdbml.runtime r
                   WHERE (r.framework, r.runtime) = (arguments ->> 'framework', arguments ->> 'runtime')) THEN
        RAISE EXCEPTION 'no such runtime: % %', arguments ->> 'framework', arguments ->> 'runtime'
            USING ERRCODE = '22023', HINT = 'SELECT * FROM kwdbml.runtime lists them.';
    ELSIF bundles[1] IS NULL THEN
        RAISE EXCEPTION 'model_entity is NULL' USING ERRCODE = '22004', HINT = 'Use kwdbml.import_model.';
    END IF;
    m := kwdbml._model_to_extend(given.schema, given.name, coalesce(given.description, ''), who,
                                 given.problem_type, given.features, given.target, true, false);
    INSERT INTO kwdbml.model_version (model_id, version, active, creator, framework, runtime, last_metrics)
    VALUES (m.id, m.next_version, m.next_version = 1, who, arguments ->> 'framework', arguments ->> 'runtime',
            nullif(arguments -> 'metrics', 'null'))
    RETURNING id INTO version_id;
    UPDATE kwdbml.model b SET next_version = b.next_version + 1, last_updated = clock_timestamp() WHERE b.id = m.id;
    FOR i IN 1..2 LOOP
        IF bundles[i] IS NOT NULL THEN
            PERFORM kwdbml._store_bundle(NULL, version_id, kinds[i], bundles[i]);
        END IF;
    END LOOP;
    RETURN to_jsonb(format('%s.%s,%s', m.schema, m.name, m.next_version));
END
$$;
COMMENT ON FUNCTION kwdbml._do_import_model(name, jsonb, bytea[]) IS 'does what import_model asks for';
REVOKE ALL ON FUNCTION kwdbml._do_import_model(name, jsonb, bytea[]) FROM PUBLIC;
