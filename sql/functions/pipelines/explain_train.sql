-- requires: _load
-- Contract: what train_model would do with a data set, a row for each thing, in this order: the verdict (accepted, would
-- fail, refused), the data set, the target and the features as declared (as it is, cast, refused, missing), the columns
-- that are unused, estimates of rows, bytes and seconds, warnings. Needs what train_model needs: TRAIN on the pipeline and
-- SELECT on the data; runs nothing but the planner, as the caller. Says nothing of model names and settings.
CREATE FUNCTION kwdbml.explain_train(pipeline_name text, train_data text) RETURNS SETOF kwdbml.explain_row
LANGUAGE sql STABLE ROWS 20
BEGIN ATOMIC
    SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::kwdbml.explain_row,
        kwdbml._call('explain_train', pg_catalog.jsonb_build_array(pipeline_name, train_data)));
END;
COMMENT ON FUNCTION kwdbml.explain_train(text, text) IS
    'what train_model would do with a data set, before anything runs: columns, estimates and warnings, the verdict first; needs TRAIN on the pipeline';
