-- A schema and a login role per service in the database that one is connected to; no role has a
-- right on another's schema. Harmless to repeat. Plain SQL, so that psql runs it (compose) as well
-- as infra/postgres/provision.py (native launcher, tests). It reads two settings of the session:
--   perennial.passwords    JSON, {"<service>": "<password>", …}
--   perennial.role_suffix  optional, appended to the names of the roles (tests)
DO $provision$
DECLARE
    service text;
    secret text;
    suffix text := coalesce(current_setting('perennial.role_suffix', true), '');
    role_name text;
BEGIN
    -- Roles belong to the whole server: two provisionings at once take turns.
    PERFORM pg_advisory_xact_lock(hashtext('perennial provision'));
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
    FOR service, secret IN
        SELECT key, value FROM json_each_text(current_setting('perennial.passwords')::json)
    LOOP
        role_name := service || suffix;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role_name);
        END IF;
        EXECUTE format('ALTER ROLE %I PASSWORD %L', role_name, secret);
        EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), role_name);
        -- One who is no superuser (a managed Postgres) may give away only what it is a member of.
        IF NOT pg_has_role(current_user, role_name, 'USAGE') THEN
            EXECUTE format('GRANT %I TO current_user', role_name);
        END IF;
        EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I', service, role_name);
        EXECUTE format(
            'ALTER ROLE %I IN DATABASE %I SET search_path = %I', role_name, current_database(), service
        );
    END LOOP;
    -- What invoicing's role may not install by itself: search with typos, no overlap of dates.
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'invoicing') THEN
        CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA invoicing;
        CREATE EXTENSION IF NOT EXISTS btree_gist SCHEMA invoicing;
    END IF;
END
$provision$;
