-- Contract: whether a role has all of the named privileges. Admin, creator, or anyone with some privilege on it may ask;
-- to others it is not there (42704).
CREATE FUNCTION kwdbml.has_training_pipeline_privilege(pipeline_name text, user_name text, privilege text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN kwdbml._has_all('training pipeline', kwdbml._pipeline_id(pipeline_name), kwdbml._grantee(user_name), kwdbml._privileges('training pipeline', privilege));
END
$$;
COMMENT ON FUNCTION kwdbml.has_training_pipeline_privilege(text, text, text) IS 'whether a role has all of these privileges on a training pipeline';
