-- What running turns have said so far, for watchers in other processes. Nothing here is worth a
-- write-ahead log: it is provisional, and gone after a crash like the turns that said it.
CREATE UNLOGGED TABLE chunks (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node         text   NOT NULL,
    turn         text   NOT NULL,
    attempt      int    NOT NULL,
    conversation text   NOT NULL,
    frames       bytea  NOT NULL,
    kept_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX chunks_turn ON chunks (turn);
CREATE INDEX chunks_conversation ON chunks (conversation);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'minutebook_app') THEN
        GRANT SELECT, INSERT, DELETE ON chunks TO minutebook_app;
    END IF;
END
$$;
