-- Contract: (schema, object) of a model's or pipeline's name as the caller means it; 22004, 22023, 3F000, 42501.
CREATE FUNCTION kwdbml._name(kind text, name text) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(SELECT pg_catalog.jsonb_array_elements_text(kwdbml._call('resolve', pg_catalog.jsonb_build_array(kind, name))));
END
$$;
COMMENT ON FUNCTION kwdbml._name(text, text) IS 'schema and object part of a model or pipeline name';

-- Contract: whether a model has this name, also one that the caller does not see: a name in a schema is taken or not, and
-- who wants to make something there learns it (docs/decisions/0008). SECURITY DEFINER functions cannot know their caller,
-- so it is the session's role that needs USAGE on the schema: the one it has set, else the one it came as.
CREATE FUNCTION kwdbml._model_taken(model_schema text, model_name text) RETURNS boolean LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    RETURN EXISTS (SELECT FROM kwdbml.model m WHERE m.schema = model_schema AND m.name = model_name)
       AND coalesce(has_schema_privilege(who, to_regnamespace(quote_ident(model_schema)), 'USAGE'), false);
END
$$;
COMMENT ON FUNCTION kwdbml._model_taken(text, text) IS 'whether a model''s name is taken; false without USAGE on its schema';

CREATE FUNCTION kwdbml._qualified(kind text, name text) RETURNS text LANGUAGE sql STABLE
RETURN (SELECT n[1] || '.' || n[2] FROM kwdbml._name(kind, name) AS n);
COMMENT ON FUNCTION kwdbml._qualified(text, text) IS 'a model or pipeline name as answers give it';

-- Contract: a model's version where a driver says that it is text; 22023 when it is no number.
CREATE FUNCTION kwdbml._version(model_version text) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN model_version::bigint;
EXCEPTION WHEN invalid_text_representation OR numeric_value_out_of_range THEN
    RAISE EXCEPTION 'invalid model version "%"', pg_catalog.left(model_version, 200)
        USING ERRCODE = '22023', HINT = 'Versions are 1, 2, 3 …; 0 is the newest.';
END
$$;
COMMENT ON FUNCTION kwdbml._version(text) IS 'a model''s version given as text; 22023 when it is none';

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
