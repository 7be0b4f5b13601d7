-- Contract: the user name; creator or admin only (42501). Several privileges are joined by |; syspublic means everyone.
CREATE FUNCTION kwdbml.grant_privilege_on_training_pipeline(pipeline_name text, user_name text, privilege text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask_privilege('grant', 'training pipeline', kwdbml._pipeline_id(pipeline_name), user_name, privilege);
END
$$;
COMMENT ON FUNCTION kwdbml.grant_privilege_on_training_pipeline(text, text, text) IS
    'grants privileges on a training pipeline, joined by | or ALL, to a role or syspublic (everyone); its creator or an admin may';
