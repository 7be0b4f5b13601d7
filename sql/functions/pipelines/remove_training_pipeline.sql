-- Contract: the qualified name; DELETE on it (42501), 42704 when not visible, 55006 while a running job uses it (trigger).
CREATE FUNCTION kwdbml.remove_training_pipeline(pipeline_name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('remove_pipeline',
        pg_catalog.jsonb_build_object('pipeline', kwdbml._pipeline_id(pipeline_name))) OPERATOR(pg_catalog.#>>) '{}';
END
$$;
COMMENT ON FUNCTION kwdbml.remove_training_pipeline(text) IS 'removes a training pipeline; models it made stay';

CREATE FUNCTION kwdbml._do_remove_pipeline(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pipeline uuid := (arguments ->> 'pipeline')::uuid;
    p kwdbml.pipeline;
BEGIN
    IF kwdbml._pipeline_right(pipeline, 'DELETE', who) THEN
        PERFORM FROM kwdbml.pipeline b WHERE b.id = pipeline FOR UPDATE;
        PERFORM kwdbml._hold_grants('training pipeline', pipeline, 'DELETE');
    END IF;
    SELECT * INTO p FROM kwdbml.pipeline b WHERE b.id = pipeline;
    IF NOT FOUND OR NOT kwdbml._has_any('training pipeline', p.id, who) THEN
        RAISE EXCEPTION 'no such training pipeline' USING ERRCODE = '42704', HINT = 'It, or your right to see it, has gone meanwhile.';
    ELSIF NOT kwdbml._pipeline_right(p.id, 'DELETE', who) THEN
        RAISE EXCEPTION 'permission denied for training pipeline %.%', p.schema, p.name
            USING ERRCODE = '42501', HINT = 'You need DELETE on it; its creator can grant that.';
    END IF;
    DELETE FROM kwdbml.pipeline b WHERE b.id = p.id;
    RETURN to_jsonb(p.schema || '.' || p.name);
END
$$;
COMMENT ON FUNCTION kwdbml._do_remove_pipeline(name, jsonb) IS 'does what remove_training_pipeline asks for';
REVOKE ALL ON FUNCTION kwdbml._do_remove_pipeline(name, jsonb) FROM PUBLIC;
