-- What the registry's functions share.

-- Contract: the id of a model of which the caller has some privilege; 42704 in the same words whether it is not there or
-- not the caller's.
CREATE FUNCTION kwdbml._model_id(model_name text) RETURNS uuid LANGUAGE plpgsql STABLE AS $$
DECLARE
    parts text[] := kwdbml._name('model', model_name);
    answer uuid;
BEGIN
    SELECT m.id INTO answer FROM kwdbml.model m WHERE m.schema = parts[1] AND m.name = parts[2];
    IF answer IS NULL THEN
        RAISE EXCEPTION 'no such model: %.%', parts[1], parts[2]
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_models() lists those you may see.';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._model_id(text) IS 'the id of a model by its name';

CREATE FUNCTION kwdbml._pipeline_id(pipeline_name text) RETURNS uuid LANGUAGE plpgsql STABLE AS $$
DECLARE
    parts text[] := kwdbml._name('training pipeline', pipeline_name);
    answer uuid;
BEGIN
    SELECT p.id INTO answer FROM kwdbml.pipeline p WHERE p.schema = parts[1] AND p.name = parts[2];
    IF answer IS NULL THEN
        RAISE EXCEPTION 'no such training pipeline: %.%', parts[1], parts[2]
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_training_pipelines() lists those you may see.';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._pipeline_id(text) IS 'the id of a training pipeline by its name';

-- Contract: a row of kwdbml.request, done; its answer. Runs as the caller, whom the row shows.
CREATE FUNCTION kwdbml._ask(kind text, arguments jsonb, bundles bytea[] DEFAULT NULL) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told jsonb;
BEGIN
    INSERT INTO kwdbml.request (kind, arguments, bundles) VALUES (kind, arguments, bundles) RETURNING answer INTO told;
    RETURN told;
END
$$;
COMMENT ON FUNCTION kwdbml._ask(text, jsonb, bytea[]) IS 'asks the registry to do something';

-- Contract: the model, locked: whoever changes its versions comes one after the other. 42704 to those who have nothing
-- on it, 42501 to those who lack the privilege.
CREATE FUNCTION kwdbml._model_locked(model uuid, wanted text, who name) RETURNS kwdbml.model LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model;
BEGIN
    IF kwdbml._model_right(model, wanted, who) THEN
        SELECT * INTO m FROM kwdbml.model b WHERE b.id = model FOR UPDATE;
        PERFORM kwdbml._hold_grants('model', model, wanted);
        IF kwdbml._model_right(model, wanted, who) THEN  -- still, after waiting
            RETURN m;
        END IF;
    END IF;
    SELECT * INTO m FROM kwdbml.model b WHERE b.id = model;
    IF NOT FOUND OR NOT kwdbml._has_any('model', model, who) THEN
        RAISE EXCEPTION 'no such model' USING ERRCODE = '42704', HINT = 'It, or your right to see it, has gone meanwhile.';
    END IF;
    RAISE EXCEPTION 'permission denied for model %.%', m.schema, m.name
        USING ERRCODE = '42501', HINT = format('You need %s on it; its creator can grant that.', wanted);
END
$$;
COMMENT ON FUNCTION kwdbml._model_locked(uuid, text, name) IS 'a model that who may change, locked';

-- Contract: the version of that number, 0 the newest; 42704 when there is none.
CREATE FUNCTION kwdbml._version_of(m kwdbml.model, wanted bigint) RETURNS kwdbml.model_version LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v kwdbml.model_version;
BEGIN
    SELECT * INTO v FROM kwdbml.model_version b
    WHERE b.model_id = m.id AND (b.version = wanted OR wanted = 0) ORDER BY b.version DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'model %.% has no version %', m.schema, m.name, wanted
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_model(name) lists its versions; 0 is the newest.';
    END IF;
    RETURN v;
END
$$;
COMMENT ON FUNCTION kwdbml._version_of(kwdbml.model, bigint) IS 'a version of a model by its number';

-- Contract: a version's number as an argument; 22004 and 22023.
CREATE FUNCTION kwdbml._given_version(model_version bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF model_version IS NULL THEN
        RAISE EXCEPTION 'model_version is NULL' USING ERRCODE = '22004', HINT = 'Give 1, 2, 3 …, or 0 for the newest.';
    ELSIF model_version < 0 THEN
        RAISE EXCEPTION 'invalid model version %', model_version
            USING ERRCODE = '22023', HINT = 'Versions are 1, 2, 3 …; 0 is the newest.';
    END IF;
    RETURN model_version;
END
$$;
COMMENT ON FUNCTION kwdbml._given_version(bigint) IS 'checks the number of a version';

-- Contract: id, number and algorithm of a version (NULL: the active one, 0: the newest), which whoever may use the model
-- needs, also without SELECT on it.
CREATE FUNCTION kwdbml._usable_version(model uuid, wanted bigint, OUT id uuid, OUT version integer, OUT algorithm text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    SELECT v.id, v.version, v.algorithm INTO id, version, algorithm FROM kwdbml._usable v
    WHERE v.model_id = $1 AND (v.version = $2 OR $2 = 0 OR $2 IS NULL AND v.active) ORDER BY v.version DESC LIMIT 1;
END
$$;
COMMENT ON FUNCTION kwdbml._usable_version(uuid, bigint) IS 'the version of a model that a number means';
