-- The key store: what opens the log. In a schema of its own, so that a backup of the log can leave it
-- out (`pg_dump --exclude-schema=keys`): such a backup cannot bring back what is erased later.
CREATE SCHEMA keys;

-- One data key a conversation, wrapped by the master key, which is never in the database. NULL: destroyed.
CREATE TABLE keys.conversations (
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    erased_at    timestamptz,
    scrubbed_at  timestamptz,
    conversation text        NOT NULL PRIMARY KEY,
    wrapped      bytea,
    CHECK ((wrapped IS NULL) = (erased_at IS NOT NULL))
);

-- By `sealed` a start finds out that it was given another master key. The salt is for the keys derived
-- from the master key: without the key store they cannot be derived.
CREATE TABLE keys.master (
    is_it  boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_it),
    sealed bytea   NOT NULL,
    salt   bytea   NOT NULL
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'minutebook_app') THEN
        GRANT USAGE ON SCHEMA keys TO minutebook_app;
        GRANT SELECT, INSERT, UPDATE ON keys.conversations TO minutebook_app;
        GRANT SELECT, INSERT ON keys.master TO minutebook_app;
    END IF;
END
$$;
