-- Contract: the end of a successful job, in the transaction that stored its artefacts or rows: version, metrics and
-- status together, or nothing. The job's row is locked last; it lands only if the job is RUNNING and the token is held.
-- outcome: {metrics, rows_read, rows_dropped, rows_written, main_score, data_hash, libraries, result,
--           artefacts: [{id, bytes, sha256}], better: higher or lower,
--           held_out: {hash, rows, metrics, problem, active: {metrics, problem}}}
CREATE FUNCTION kwdbml.worker_land(job uuid, held uuid, outcome jsonb) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    answer jsonb := outcome -> 'result';
    decided jsonb;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    IF j.type = 'TRAIN' THEN
        decided := kwdbml._land_version(j, a, spec, outcome);
    ELSIF j.type = 'EVALUATE' THEN
        -- the model first, then its version, as everybody locks them
        UPDATE kwdbml.model m SET last_updated = clock_timestamp()
        FROM kwdbml.model_version v WHERE v.id = j.model_version_id AND m.id = v.model_id;
        UPDATE kwdbml.model_version v SET last_metrics = kwdbml._told_metrics(j, outcome -> 'metrics') WHERE v.id = j.model_version_id;
    ELSE
        PERFORM kwdbml._result_close(j, held, spec -> 'target');
    END IF;
    UPDATE kwdbml.attempt t SET ended = clock_timestamp(), outcome = 'SUCCEEDED', phase = 'finalizing', progress = 1,
        updated = clock_timestamp()
    WHERE t.job_id = job AND t.token = held AND t.ended IS NULL;
    IF NOT FOUND THEN
        PERFORM kwdbml._fence(job, held);  -- taken over while we waited for a lock
    END IF;
    UPDATE kwdbml.job b
    SET status = 'SUCCEEDED', result = answer, rows_read = (outcome ->> 'rows_read')::bigint,
        rows_dropped = (outcome ->> 'rows_dropped')::bigint, rows_written = (outcome ->> 'rows_written')::bigint,
        main_score = (outcome ->> 'main_score')::double precision, data_hash = outcome ->> 'data_hash',
        libraries = outcome -> 'libraries', decision = decided,
        pipeline_hash = (SELECT p.content_hash FROM kwdbml.pipeline p WHERE p.id = b.pipeline_id)
    WHERE b.id = job AND b.status = 'RUNNING';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % has ended meanwhile', job USING ERRCODE = '55000', HINT = 'It was canceled or removed.';
    END IF;
    RETURN 'SUCCEEDED';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_land(uuid, uuid, jsonb) IS 'for workers: the one way to SUCCEEDED';

-- Contract: the next version of the model, made with the model when it is new; 42710 and 42501 as at the call. Answers
-- the decision of settings.promote, which is taken while the model is locked; NULL without it.
CREATE FUNCTION kwdbml._land_version(j kwdbml.job, a kwdbml.attempt, spec jsonb, outcome jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model;
    p kwdbml.pipeline;
    promotes constant boolean := j.settings ? 'promote';
    goes_live boolean := promotes OR coalesce((j.settings ->> 'immediately_deploy')::boolean, false);
    version_id uuid;
    decided jsonb;
BEGIN
    SELECT * INTO STRICT p FROM kwdbml.pipeline b WHERE b.id = j.pipeline_id;
    m := kwdbml._model_to_extend(
        -- the object part holds no dot, the schema part may
        regexp_replace(j.model_name, '\.[^.]*$', ''), regexp_replace(j.model_name, '^.*\.', ''),
        format('Model trained by pipeline %s.', j.pipeline_name), j.creator, p.problem_type, p.features, p.target,
        coalesce((j.settings ->> 'new_version_if_exists')::boolean, false), goes_live);
    IF promotes THEN
        PERFORM kwdbml._check_may_compare(m, j);
        decided := kwdbml._decide(m, j, a.compared_version_id, outcome);
    END IF;
    goes_live := coalesce((decided ->> 'promoted')::boolean, goes_live OR m.next_version = 1);
    IF goes_live THEN
        UPDATE kwdbml.model_version v SET active = false WHERE v.model_id = m.id AND v.active;
    END IF;
    INSERT INTO kwdbml.model_version (model_id, version, active, creator, framework, runtime, algorithm, hyperparameters, last_metrics,
        pipeline_name, pipeline_hash, job_id, data_query, data_hash, rows_read, libraries, duration, holdout_hash, holdout_metrics)
    VALUES (m.id, m.next_version, goes_live, j.creator, p.framework, p.runtime,
        CASE WHEN NOT (spec ->> 'user_code')::boolean THEN p.algorithm END, coalesce(spec -> 'hyperparameters', '{}'),
        outcome -> 'metrics', j.pipeline_name, p.content_hash, j.id, j.data_query, outcome ->> 'data_hash',
        (outcome ->> 'rows_read')::bigint, outcome -> 'libraries', clock_timestamp() - a.started,
        outcome -> 'held_out' ->> 'hash', nullif(outcome -> 'held_out' -> 'metrics', 'null'))
    RETURNING id INTO version_id;
    UPDATE kwdbml.model b SET next_version = b.next_version + 1, last_updated = clock_timestamp() WHERE b.id = m.id;
    UPDATE kwdbml.artefact f SET model_version_id = version_id, bytes = r.bytes, sha256 = r.sha256
    FROM jsonb_to_recordset(outcome -> 'artefacts') AS r(id uuid, bytes bigint, sha256 text)
    WHERE f.id = r.id AND num_nonnulls(f.pipeline_id, f.model_version_id) = 0;
    RETURN decided;
END
$$;
COMMENT ON FUNCTION kwdbml._land_version(kwdbml.job, kwdbml.attempt, jsonb, jsonb) IS 'adds a trained version';
REVOKE ALL ON FUNCTION kwdbml._land_version(kwdbml.job, kwdbml.attempt, jsonb, jsonb) FROM PUBLIC;
