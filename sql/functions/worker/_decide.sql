-- Contract: the score under a name among metrics [{objective, score}]; NULL when there is none.
CREATE FUNCTION kwdbml._score(metrics jsonb, wanted text) RETURNS double precision LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT (x ->> 'score')::double precision FROM jsonb_array_elements(nullif(metrics, 'null')) AS x
            WHERE x ->> 'objective' = wanted LIMIT 1);
END
$$;
COMMENT ON FUNCTION kwdbml._score(jsonb, text) IS 'one score among metrics';

-- Contract: whether the version that is landing becomes the active one, with both scores and the reason: what
-- kwdbml.jobs.decision shows. The model is locked, so the active version stays what it is. compared is the version that
-- the run has measured beside the new one. Another that became active meanwhile counts with what was measured when it
-- was trained, if that was on the same rows and of the same label. No score is never better, and neither is the same.
CREATE FUNCTION kwdbml._decide(m kwdbml.model, j kwdbml.job, compared uuid, outcome jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    objective text := j.settings ->> 'objective';
    held jsonb := outcome -> 'held_out';
    ours double precision := kwdbml._score(held -> 'metrics', objective);
    theirs double precision;
    v kwdbml.model_version;
    promoted boolean;
BEGIN
    SELECT * INTO v FROM kwdbml.model_version b WHERE b.model_id = m.id AND b.active;
    IF v.id = compared THEN
        theirs := kwdbml._score(held -> 'active' -> 'metrics', objective);
    ELSIF v.holdout_hash = held ->> 'hash'
          AND v.holdout_metrics -> 0 -> 'positive_label' IS NOT DISTINCT FROM held -> 'metrics' -> 0 -> 'positive_label' THEN
        theirs := kwdbml._score(v.holdout_metrics, objective);
    END IF;
    promoted := v.id IS NULL OR coalesce(CASE outcome ->> 'better' WHEN 'lower' THEN ours < theirs ELSE ours > theirs END, false);
    RETURN jsonb_build_object(
        'promoted', promoted, 'objective', objective, 'better', outcome -> 'better', 'candidate', ours, 'active', theirs,
        'version', m.next_version, 'active_version', v.version, 'holdout_hash', held -> 'hash', 'holdout_rows', held -> 'rows',
        'reason', CASE
            WHEN v.id IS NULL THEN 'the first version of the model'
            WHEN ours IS NULL THEN
                coalesce('the new version could not be measured: ' || (held ->> 'problem'), format('the new version has no %s', objective))
            WHEN theirs IS NULL AND v.id = compared THEN coalesce(
                format('version %s could not be measured: ', v.version) || (held -> 'active' ->> 'problem'),
                format('version %s has no %s', v.version, objective))
            WHEN theirs IS NULL THEN format('version %s became active meanwhile, and %s: train again', v.version, CASE
                WHEN (v.holdout_hash = held ->> 'hash') IS NOT TRUE THEN 'was not measured on the same rows'
                WHEN nullif(v.holdout_metrics, 'null') IS NULL THEN 'could not be measured when it was trained'
                WHEN kwdbml._score(v.holdout_metrics, objective) IS NULL THEN format('had no %s when it was trained', objective)
                ELSE 'was measured for another positive label' END)
            WHEN promoted THEN format('better than version %s', v.version)
            WHEN ours = theirs THEN format('as good as version %s, and no better', v.version)
            ELSE format('worse than version %s', v.version) END);
END
$$;
COMMENT ON FUNCTION kwdbml._decide(kwdbml.model, kwdbml.job, uuid, jsonb) IS 'whether a new version is promoted, and why';
REVOKE ALL ON FUNCTION kwdbml._decide(kwdbml.model, kwdbml.job, uuid, jsonb) FROM PUBLIC;
