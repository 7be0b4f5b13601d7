-- Contract: the qualified name; DELETE on it (42501), 42704 when not visible, 55006 while a running job uses it (trigger).
CREATE FUNCTION kwdbml.remove_training_pipeline(pipeline_name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    parts text[] := kwdbml._name('training pipeline', pipeline_name);
BEGIN
    UPDATE kwdbml.pipeline p SET doomed = true WHERE p.schema = parts[1] AND p.name = parts[2];
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM kwdbml.pipeline p WHERE p.schema = parts[1] AND p.name = parts[2]) THEN
            RAISE EXCEPTION 'permission denied for training pipeline %.%', parts[1], parts[2]
                USING ERRCODE = '42501', HINT = 'You need DELETE on it; its creator can grant that.';
        END IF;
        RAISE EXCEPTION 'no such training pipeline: %.%', parts[1], parts[2]
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_training_pipelines() lists those you may see.';
    END IF;
    RETURN parts[1] || '.' || parts[2];
END
$$;
COMMENT ON FUNCTION kwdbml.remove_training_pipeline(text) IS 'removes a training pipeline; models it made stay';
