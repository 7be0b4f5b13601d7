-- Contract: the model of that name, locked, to which a version may be added; made when it is new. next_version = 1 says
-- that it has none yet. 42710 when it is there and must not be or is not the creator's business, 42501 without CREATE
-- (and UPDATE, when the version is to be deployed), 22023 when it is another problem.
CREATE FUNCTION kwdbml._model_to_extend(
    model_schema text, object text, description text, who name, problem_type text, features jsonb, target jsonb,
    may_exist boolean, deploy boolean)
RETURNS kwdbml.model LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    m kwdbml.model;
    shown text := model_schema || '.' || object;
    allowed boolean;
    differs text;
BEGIN
    INSERT INTO kwdbml.model AS b (schema, name, description, creator, problem_type, features, target)
    VALUES (model_schema, object, description, who, problem_type, features, target)
    ON CONFLICT DO NOTHING RETURNING b.* INTO m;
    IF FOUND THEN
        RETURN m;
    END IF;
    SELECT b.* INTO m FROM kwdbml.model b WHERE b.schema = model_schema AND b.name = object;
    -- who has no right neither locks it nor waits, and is refused also where it is granted just now: nobody goes on unlocked
    allowed := FOUND AND may_exist AND kwdbml._model_right(m.id, 'CREATE', who);
    IF allowed THEN
        SELECT b.* INTO m FROM kwdbml.model b WHERE b.id = m.id FOR UPDATE;
        PERFORM kwdbml._hold_grants('model', m.id, 'CREATE'), kwdbml._hold_grants('model', m.id, 'UPDATE');
    END IF;
    IF m.id IS NULL THEN
        RAISE EXCEPTION 'model % was removed meanwhile', shown USING ERRCODE = '40001', HINT = 'Try again.';
    ELSIF NOT may_exist THEN
        RAISE EXCEPTION 'model % already exists', shown
            USING ERRCODE = '42710', HINT = 'Pass new_version_if_exists => true, or choose another name.';
    ELSIF NOT allowed OR NOT kwdbml._model_right(m.id, 'CREATE', who) OR deploy AND NOT kwdbml._model_right(m.id, 'UPDATE', who) THEN
        RAISE EXCEPTION 'permission denied for model %', shown
            USING ERRCODE = '42501', HINT = 'A new version needs CREATE on the model, and UPDATE to be deployed.';
    END IF;
    differs := kwdbml._misfit(m, problem_type, features, target);
    IF differs <> '' THEN
        RAISE EXCEPTION 'the new version does not fit model %: %', shown, differs
            USING ERRCODE = '22023', HINT = 'A new version needs the model''s problem type, features and target (names, types, order).';
    END IF;
    RETURN m;
END
$$;
COMMENT ON FUNCTION kwdbml._model_to_extend(text, text, text, name, text, jsonb, jsonb, boolean, boolean) IS
    'the model to which a version is added, locked';
REVOKE ALL ON FUNCTION kwdbml._model_to_extend(text, text, text, name, text, jsonb, jsonb, boolean, boolean) FROM PUBLIC;

-- Contract: in what a version of such a problem differs from its model, in words; empty: in nothing.
CREATE FUNCTION kwdbml._misfit(m kwdbml.model, problem_type text, features jsonb, target jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT coalesce(string_agg(format('its %s: %s, the model''s: %s', d.what, left(d.given, 200), left(d.declared, 200)), '; '), '')
            FROM (VALUES (1, 'problem type', problem_type, m.problem_type), (2, 'features', features::text, m.features::text),
                         (3, 'target', target::text, m.target::text)) AS d(n, what, given, declared)
            WHERE d.given IS DISTINCT FROM d.declared);
END
$$;
COMMENT ON FUNCTION kwdbml._misfit(kwdbml.model, text, jsonb, jsonb) IS 'in what a version does not fit its model';
REVOKE ALL ON FUNCTION kwdbml._misfit(kwdbml.model, text, jsonb, jsonb) FROM PUBLIC;

-- Contract: the bytes of a bundle, in chunks, for a pipeline or for a version; 54000 above the deployment's limit.
CREATE FUNCTION kwdbml._store_bundle(pipeline uuid, version uuid, bundle_kind text, bundle bytea) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    artefact uuid;
    chunk_size constant integer := 8388608;
BEGIN
    IF octet_length(bundle) > (kwdbml._setting('bundle_limit'))::bigint THEN
        RAISE EXCEPTION 'the bundle has % bytes, the limit is %', octet_length(bundle), kwdbml._setting('bundle_limit')
            USING ERRCODE = '54000', HINT = 'An admin can raise bundle_limit in kwdbml.settings.';
    END IF;
    INSERT INTO kwdbml.artefact (pipeline_id, model_version_id, kind, bytes, sha256)
    VALUES (pipeline, version, bundle_kind, octet_length(bundle), encode(sha256(bundle), 'hex'))
    RETURNING id INTO artefact;
    INSERT INTO kwdbml.artefact_chunk (artefact_id, seq, chunk)
    SELECT artefact, n, substring(bundle FROM n * chunk_size + 1 FOR chunk_size)
    FROM generate_series(0, greatest(octet_length(bundle) - 1, 0) / chunk_size) AS n;
END
$$;
COMMENT ON FUNCTION kwdbml._store_bundle(uuid, uuid, text, bytea) IS 'stores the bytes of a bundle';
REVOKE ALL ON FUNCTION kwdbml._store_bundle(uuid, uuid, text, bytea) FROM PUBLIC;
