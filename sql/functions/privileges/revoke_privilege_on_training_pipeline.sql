-- Contract: the user name; creator or admin only (42501). Several privileges are joined by |; syspublic means everyone.
CREATE FUNCTION kwdbml.revoke_privilege_on_training_pipeline(pipeline_name text, user_name text, privilege text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask_privilege('revoke', 'training pipeline', kwdbml._pipeline_id(pipeline_name), user_name, privilege);
END
$$;
COMMENT ON FUNCTION kwdbml.revoke_privilege_on_training_pipeline(text, text, text) IS
    'revokes privileges on a training pipeline, joined by | or ALL, from a role or syspublic (everyone); its creator or an admin may';
