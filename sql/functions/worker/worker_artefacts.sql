-- Contract: the bundles that a job runs with: (kind, id, bytes, sha256, chunks). Those of the version that a training is
-- compared with are active-model and active-transformer.
CREATE FUNCTION kwdbml.worker_artefacts(job uuid, held uuid)
RETURNS TABLE (kind text, artefact uuid, bytes bigint, sha256 text, chunks bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
BEGIN
    RETURN QUERY
        SELECT CASE WHEN f.model_version_id = a.compared_version_id THEN 'active-' ELSE '' END || f.kind, f.id, f.bytes, f.sha256,
               (SELECT count(*) FROM kwdbml.artefact_chunk c WHERE c.artefact_id = f.id)
        FROM kwdbml.job j
        JOIN kwdbml.artefact f ON f.model_version_id IN (j.model_version_id, a.compared_version_id)
             OR f.pipeline_id = j.pipeline_id AND (f.kind = 'pipeline' OR f.kind = 'transformer' AND j.type = 'TRAIN')
        WHERE j.id = job;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_artefacts(uuid, uuid) IS 'for workers: the bundles of a job';

-- Contract: one chunk of an artefact of the job; NULL past its end.
CREATE FUNCTION kwdbml.worker_chunk(job uuid, held uuid, wanted uuid, number integer) RETURNS bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM kwdbml.worker_artefacts(job, held) f WHERE f.artefact = wanted) THEN
        RAISE EXCEPTION 'artefact % is not of job %', wanted, job USING ERRCODE = '42501';
    END IF;
    RETURN (SELECT c.chunk FROM kwdbml.artefact_chunk c WHERE c.artefact_id = wanted AND c.seq = number);
END
$$;
COMMENT ON FUNCTION kwdbml.worker_chunk(uuid, uuid, uuid, integer) IS 'for workers: bytes of a bundle';

-- Contract: stores a chunk of what a TRAIN job made; NULL as the artefact makes a new one. Belongs to the transaction
-- that lands the job: an artefact without owner is never committed, because only worker_land gives it one.
CREATE FUNCTION kwdbml.worker_put(job uuid, held uuid, artefact uuid, new_kind text, number integer, new_chunk bytea)
RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    put uuid := artefact;
BEGIN
    IF put IS NULL THEN
        INSERT INTO kwdbml.artefact (kind, bytes, sha256) VALUES (new_kind, 0, '') RETURNING id INTO put;
    ELSIF NOT EXISTS (SELECT FROM kwdbml.artefact f WHERE f.id = put AND num_nonnulls(f.pipeline_id, f.model_version_id) = 0) THEN
        RAISE EXCEPTION 'artefact % is not being made', put USING ERRCODE = '42501';
    END IF;
    INSERT INTO kwdbml.artefact_chunk (artefact_id, seq, chunk) VALUES (put, number, new_chunk);
    RETURN put;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_put(uuid, uuid, uuid, text, integer, bytea) IS 'for workers: stores bytes of a model';
