-- Contract: whether a role has all of the named privileges. Admin, creator, or anyone with some privilege on it may ask;
-- to others it is not there (42704).
CREATE FUNCTION kwdbml.has_model_privilege(model_name text, user_name text, privilege text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN kwdbml._has_all('model', kwdbml._model_id(model_name), kwdbml._grantee(user_name), kwdbml._privileges('model', privilege));
END
$$;
COMMENT ON FUNCTION kwdbml.has_model_privilege(text, text, text) IS 'whether a role has all of these privileges on a model';
