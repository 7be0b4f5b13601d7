-- Contract: the user name; creator or admin only (42501). Several privileges are joined by |; syspublic means everyone.
CREATE FUNCTION kwdbml.revoke_privilege_on_model(model_name text, user_name text, privilege text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask_privilege('revoke', 'model', kwdbml._model_id(model_name), user_name, privilege);
END
$$;
COMMENT ON FUNCTION kwdbml.revoke_privilege_on_model(text, text, text) IS
    'revokes privileges on a model, joined by | or ALL, from a role or syspublic (everyone); its creator or an admin may';
