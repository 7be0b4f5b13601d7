-- Contract: (schema, object) of a model's or pipeline's name as the caller means it; 22004, 22023, 3F000, 42501.
CREATE FUNCTION kwdbml._name(kind text, name text) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(SELECT pg_catalog.jsonb_array_elements_text(kwdbml._call('resolve', pg_catalog.jsonb_build_array(kind, name))));
END
$$;
COMMENT ON FUNCTION kwdbml._name(text, text) IS 'schema and object part of a model or pipeline name';

CREATE FUNCTION kwdbml._qualified(kind text, name text) RETURNS text LANGUAGE sql STABLE
RETURN (SELECT n[1] || '.' || n[2] FROM kwdbml._name(kind, name) AS n);
COMMENT ON FUNCTION kwdbml._qualified(text, text) IS 'a model or pipeline name as answers give it';

CREATE FUNCTION kwdbml._job_id(job_id text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF job_id IS NULL THEN
        RAISE EXCEPTION 'job_id is NULL' USING ERRCODE = '22004', HINT = 'Give the id that the submitting call returned.';
    END IF;
    RETURN job_id::uuid;
EXCEPTION WHEN invalid_text_representation THEN
    RAISE EXCEPTION 'invalid job id "%"', job_id
        USING ERRCODE = '22023', HINT = 'A job id is a UUID, as kwdbml.show_jobs() shows it.';
END
$$;
COMMENT ON FUNCTION kwdbml._job_id(text) IS 'a job id given as text; 22023 when it is none';
