-- Contract: the qualified name; DELETE on the model, 55006 while a running job uses it. All versions go.
CREATE FUNCTION kwdbml.remove_model(model_name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('remove_model', pg_catalog.jsonb_build_object('model', kwdbml._model_id(model_name))) OPERATOR(pg_catalog.#>>) '{}';
END
$$;
COMMENT ON FUNCTION kwdbml.remove_model(text) IS 'removes a model with all its versions';

-- Contract: as above, for one version; 55006 for the active one. No NULL here: it must not mean the whole model.
CREATE FUNCTION kwdbml.remove_model(model_name text, model_version bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('remove_model', pg_catalog.jsonb_build_object(
        'version', kwdbml._given_version(model_version), 'model', kwdbml._model_id(model_name))) OPERATOR(pg_catalog.#>>) '{}';
END
$$;
COMMENT ON FUNCTION kwdbml.remove_model(text, bigint) IS 'removes a version of a model, but not the active one; 0 is the newest';

CREATE FUNCTION kwdbml._do_remove_model(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model := kwdbml._model_locked((arguments ->> 'model')::uuid, 'DELETE', who);
    shown text := m.schema || '.' || m.name;
    v kwdbml.model_version;
BEGIN
    IF arguments ? 'version' THEN
        v := kwdbml._version_of(m, kwdbml._given_version((arguments ->> 'version')::bigint));
        IF v.active THEN
            RAISE EXCEPTION 'version % is the active one of model %', v.version, shown
                USING ERRCODE = '55006', HINT = 'Make another one active first (kwdbml.set_active_version), or remove the whole model.';
        END IF;
        DELETE FROM kwdbml.model_version b WHERE b.id = v.id;
        UPDATE kwdbml.model b SET last_updated = clock_timestamp() WHERE b.id = m.id;
    ELSIF EXISTS (SELECT FROM kwdbml.job j WHERE j.model_name = shown AND j.type = 'TRAIN' AND j.status = 'RUNNING') THEN
        RAISE EXCEPTION 'model % is being trained by a running job', shown
            USING ERRCODE = '55006', HINT = 'Wait for the job or cancel it: SELECT * FROM kwdbml.show_jobs(ARRAY[''RUNNING'']). It may be another role''s, which you do not see: an admin can cancel it.';
    ELSE
        DELETE FROM kwdbml.model b WHERE b.id = m.id;
    END IF;
    RETURN to_jsonb(shown);
END
$$;
COMMENT ON FUNCTION kwdbml._do_remove_model(name, jsonb) IS 'does what remove_model asks for';
REVOKE ALL ON FUNCTION kwdbml._do_remove_model(name, jsonb) FROM PUBLIC;
