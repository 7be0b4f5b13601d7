-- Contract: the pipelines on which the caller has SELECT.
CREATE FUNCTION kwdbml.show_training_pipelines() RETURNS SETOF kwdbml.pipeline_row LANGUAGE sql STABLE ROWS 100
BEGIN ATOMIC
    SELECT p.schema, p.name, p.description, p.creator::text, p.created, p.problem_type, p.features, p.target,
           p.framework, p.runtime
    FROM kwdbml.pipeline p
    WHERE kwdbml._pipeline_right(p.id, 'SELECT', current_user)
    ORDER BY p.schema, p.name;
END;
COMMENT ON FUNCTION kwdbml.show_training_pipelines() IS 'the training pipelines that you may see';

-- Contract: one row; 42704 in the same words whether it does not exist or is not yours to see.
CREATE FUNCTION kwdbml.show_training_pipeline(pipeline_name text) RETURNS SETOF kwdbml.pipeline_row
LANGUAGE plpgsql STABLE ROWS 1 AS $$
DECLARE
    parts text[] := kwdbml._name('training pipeline', pipeline_name);
BEGIN
    RETURN QUERY SELECT * FROM kwdbml.show_training_pipelines() p WHERE p.schema = parts[1] AND p.name = parts[2];
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such training pipeline: %.%', parts[1], parts[2]
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_training_pipelines() lists those you may see.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.show_training_pipeline(text) IS 'one training pipeline';
