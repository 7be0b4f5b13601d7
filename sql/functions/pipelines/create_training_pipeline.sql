-- requires: _load
-- Contract: the qualified name. A pipeline of built-in code; features, types and problem type are read off the data
-- as the caller, who needs SELECT on it.
CREATE FUNCTION kwdbml.create_training_pipeline(
    pipeline_name text, algorithm text, target text, train_data text, problem_type text DEFAULT NULL,
    features text[] DEFAULT NULL, hyperparameters jsonb DEFAULT '{}', description text DEFAULT '')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('create_training_pipeline', pg_catalog.jsonb_build_array(pipeline_name, algorithm, target, train_data, problem_type, features, hyperparameters, description)) #>> '{}';
COMMENT ON FUNCTION kwdbml.create_training_pipeline(text, text, text, text, text, text[], jsonb, text) IS
    'makes a training pipeline from a built-in algorithm, without any upload; see kwdbml.algorithms()';
CREATE FUNCTION kwdbml.create_training_pipeline(
    pipeline_name text, algorithm text, target text, train_data text, problem_type text,
    features text[], hyperparameters text, description text DEFAULT '')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('create_training_pipeline', pg_catalog.jsonb_build_array(pipeline_name, algorithm, target, train_data, problem_type, features, hyperparameters, description)) #>> '{}';
COMMENT ON FUNCTION kwdbml.create_training_pipeline(text, text, text, text, text, text[], text, text) IS
    'create_training_pipeline with hyperparameters as text';
