-- Contract: one row per built-in algorithm; hyperparameters: {name: {type, range, default, description}}.
CREATE FUNCTION kwdbml.algorithms() RETURNS SETOF kwdbml.algorithm_row LANGUAGE sql STABLE ROWS 10
BEGIN ATOMIC
    SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::kwdbml.algorithm_row, kwdbml._call('algorithms', '[]'));
END;
COMMENT ON FUNCTION kwdbml.algorithms() IS 'the built-in algorithms for kwdbml.create_training_pipeline';
