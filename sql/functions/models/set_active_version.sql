-- Contract: the number that is active now; UPDATE on the model. 0 means the newest version.
CREATE FUNCTION kwdbml.set_active_version(model_name text, model_version bigint) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('set_active_version', pg_catalog.jsonb_build_object(
        'version', kwdbml._given_version(model_version), 'model', kwdbml._model_id(model_name)))::integer;
END
$$;
COMMENT ON FUNCTION kwdbml.set_active_version(text, bigint) IS 'makes a version the active one, which is used where none is named; 0 is the newest';

CREATE FUNCTION kwdbml._do_set_active_version(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model := kwdbml._model_locked((arguments ->> 'model')::uuid, 'UPDATE', who);
    v kwdbml.model_version := kwdbml._version_of(m, kwdbml._given_version((arguments ->> 'version')::bigint));
BEGIN
    IF NOT v.active THEN
        UPDATE kwdbml.model_version b SET active = false WHERE b.model_id = m.id AND b.active;
        UPDATE kwdbml.model_version b SET active = true WHERE b.id = v.id;
        UPDATE kwdbml.model b SET last_updated = clock_timestamp() WHERE b.id = m.id;
    END IF;
    RETURN to_jsonb(v.version);
END
$$;
COMMENT ON FUNCTION kwdbml._do_set_active_version(name, jsonb) IS 'does what set_active_version asks for';
REVOKE ALL ON FUNCTION kwdbml._do_set_active_version(name, jsonb) FROM PUBLIC;
