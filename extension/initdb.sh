# Read by the base image's entrypoint when it makes the cluster: the extension, and the worker's login role, which has
# the rights of kwdbml_worker and no others. Its password comes from KWDBML_WORKER_PASSWORD; without it there is no role.
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE EXTENSION kwdbml CASCADE;
SQL
if [ -n "${KWDBML_WORKER_PASSWORD:-}" ]; then
    # \getenv keeps the password off the command line.
    psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password KWDBML_WORKER_PASSWORD
CREATE ROLE kwdbml_container_worker LOGIN PASSWORD :'password' IN ROLE kwdbml_worker;
SQL
fi
