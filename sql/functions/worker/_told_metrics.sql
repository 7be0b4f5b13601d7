-- Contract: what an evaluation leaves with the model, for all to see who may see that. Where the model's creator could
-- not have read the rows, of each name asked for one score, and nothing else: his code has seen the rows, and could put
-- them into names of its own. The job's result, which is its creator's alone, has everything.
CREATE FUNCTION kwdbml._told_metrics(j kwdbml.job, metrics jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model;
BEGIN
    SELECT b.* INTO m FROM kwdbml.model b JOIN kwdbml.model_version v ON v.model_id = b.id WHERE v.id = j.model_version_id;
    -- by OID, because of names of dropped roles pg_has_role raises
    IF pg_has_role(to_regrole(quote_ident(m.creator)), to_regrole(quote_ident(j.creator)), 'USAGE') THEN
        RETURN metrics;
    END IF;
    RETURN (
        SELECT coalesce(jsonb_agg(jsonb_build_object('objective', asked.name, 'score', told.score)
                                  ORDER BY asked.n, asked.name COLLATE "C"), '[]')
        FROM (SELECT p.prefix || s.name AS name, min(g.n) AS n
              FROM regexp_split_to_table(j.settings ->> 'objectives', '[,|]') WITH ORDINALITY AS g(given, n),
                   unnest(ARRAY[btrim(g.given), lower(btrim(g.given))]) AS s(name),
                   -- of several targets each has its name before it
                   unnest(''::text || ARRAY(SELECT t ->> 'name' || '.' FROM jsonb_array_elements(m.target) AS t)) AS p(prefix)
              GROUP BY 1) AS asked,
             LATERAL (SELECT x -> 'score' AS score FROM jsonb_array_elements(metrics) AS x
                      WHERE x ->> 'objective' = asked.name LIMIT 1) AS told);
END
$$;
COMMENT ON FUNCTION kwdbml._told_metrics(kwdbml.job, jsonb) IS 'the metrics of an evaluation that become the version''s';
REVOKE ALL ON FUNCTION kwdbml._told_metrics(kwdbml.job, jsonb) FROM PUBLIC;
