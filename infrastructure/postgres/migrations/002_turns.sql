-- What the turns' store and the unit of work ask of the database in one round trip each.
--
-- `enable_seqscan` is off in them: plans are kept, and one that was made while a table was still
-- small would read all of it later.
--
-- Every statement of these functions takes a snapshot of its own (READ COMMITTED), so a statement
-- sees what others have committed since the one before. Where a concurrent change makes an answer
-- unclear, the function looks again: each round means that somebody else has got further.

-- Whether the conversation is somebody else's: it belongs to the actor of its first event or,
-- before there is one, to whoever has a turn running in it.
CREATE FUNCTION turn_is_foreign(p_conversation text, p_subject text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RETURN coalesce(
        (SELECT actor <> 'user:' || p_subject FROM log
          WHERE stream = 'conversation-' || p_conversation AND version = 1),
        (SELECT subject <> p_subject FROM turns WHERE conversation = p_conversation AND state = 'running'),
        false);
END
$$;

-- Whether the contents of the conversation were erased; then no turn runs in it any more.
CREATE FUNCTION turn_is_of_erased(p_conversation text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM keys.conversations WHERE conversation = p_conversation AND erased_at IS NOT NULL);
END
$$;

-- Whether what somebody asked for in this turn was erased. Only a turn that is committed needs no payload.
CREATE FUNCTION turn_is_erased(p_turn turns) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (p_turn.payload IS NULL AND p_turn.state IN ('failed', 'abandoned'))
        OR turn_is_of_erased(p_turn.conversation);
END
$$;

-- Gives up what has outlived its lease: this turn, and whatever runs in this conversation.
-- Waits for a commit in flight and leaves alone what it has closed.
CREATE FUNCTION turn_free(p_id text, p_conversation text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE turns
       SET state = 'abandoned', ended_at = clock_timestamp(), code = 'turn_abandoned'
     WHERE (id = p_id OR conversation = p_conversation)
       AND state = 'running' AND lease_until < clock_timestamp();
END
$$;

CREATE FUNCTION turn_accept(
    p_id text, p_conversation text, p_subject text, p_kind text, p_payload bytea, p_hash bytea,
    p_node text, p_lease interval, OUT verdict text, OUT turn turns)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    LOOP
        PERFORM turn_free(p_id, p_conversation);
        IF turn_is_foreign(p_conversation, p_subject) THEN
            verdict := 'foreign';
            RETURN;
        END IF;
        SELECT * INTO turn FROM turns WHERE id = p_id;
        IF found THEN
            -- Of an erased one nobody knows any more whether this is what it asked for.
            verdict := CASE WHEN turn.subject <> p_subject THEN 'reused'
                            WHEN turn_is_erased(turn) THEN 'erased' ELSE 'existing' END;
            RETURN;
        END IF;
        IF turn_is_of_erased(p_conversation) THEN
            verdict := 'erased';
            RETURN;
        END IF;
        SELECT * INTO turn FROM turns WHERE conversation = p_conversation AND state = 'running';
        CONTINUE WHEN turn.id = p_id;  -- it has come since we looked
        IF found THEN
            verdict := 'busy';
            RETURN;
        END IF;
        INSERT INTO turns (id, conversation, subject, kind, payload, payload_hash, state, attempt, node,
                           lease_until, accepted_at)
        VALUES (p_id, p_conversation, p_subject, p_kind, p_payload, p_hash, 'running', 1, p_node,
                clock_timestamp() + p_lease, clock_timestamp())
        ON CONFLICT DO NOTHING
        RETURNING * INTO turn;
        IF found THEN
            EXIT;
        END IF;
    END LOOP;
    verdict := 'accepted';
    -- From here on nobody else can start the conversation; somebody may have until now.
    IF turn_is_foreign(p_conversation, p_subject) THEN
        DELETE FROM turns WHERE id = p_id;
        verdict := 'foreign';
    ELSIF turn_is_of_erased(p_conversation) THEN
        DELETE FROM turns WHERE id = p_id;
        verdict := 'erased';
    END IF;
END
$$;

CREATE FUNCTION turn_retry(
    p_id text, p_subject text, p_node text, p_lease interval, OUT verdict text, OUT turn turns)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    seen turns;
BEGIN
    LOOP
        SELECT * INTO seen FROM turns WHERE id = p_id AND subject = p_subject;
        IF NOT found THEN
            verdict := 'missing';
            RETURN;
        END IF;
        PERFORM turn_free(p_id, seen.conversation);
        IF turn_is_foreign(seen.conversation, p_subject) THEN
            verdict := 'foreign';
            RETURN;
        END IF;
        SELECT * INTO turn FROM turns WHERE id = p_id;
        IF turn.state IN ('running', 'committed') THEN
            verdict := 'existing';
            RETURN;
        END IF;
        IF turn_is_erased(turn) THEN
            verdict := 'erased';
            RETURN;
        END IF;
        SELECT * INTO turn FROM turns WHERE conversation = seen.conversation AND state = 'running';
        CONTINUE WHEN turn.id = p_id;  -- it runs again since we looked
        IF found THEN
            verdict := 'busy';
            RETURN;
        END IF;
        BEGIN
            UPDATE turns
               SET state = 'running', attempt = attempt + 1, node = p_node,
                   lease_until = clock_timestamp() + p_lease,
                   ended_at = NULL, code = NULL, outcome = NULL, cancel_requested = false, provisional_frames = 0
             WHERE id = p_id AND state IN ('failed', 'abandoned') AND payload IS NOT NULL
            RETURNING * INTO turn;
            IF found THEN
                IF turn_is_foreign(seen.conversation, p_subject) THEN
                    RAISE EXCEPTION 'foreign' USING errcode = 'MB404';
                ELSIF turn_is_of_erased(seen.conversation) THEN
                    RAISE EXCEPTION 'erased' USING errcode = 'MB410';
                END IF;
                verdict := 'accepted';
                RETURN;
            END IF;
        EXCEPTION
            WHEN unique_violation THEN
                NULL;  -- another turn of the conversation was quicker: look again
            WHEN sqlstate 'MB404' THEN
                verdict := 'foreign';
                RETURN;
            WHEN sqlstate 'MB410' THEN
                verdict := 'erased';
                RETURN;
        END;
    END LOOP;
END
$$;

CREATE FUNCTION turn_request_cancel(p_id text, p_subject text) RETURNS SETOF turns
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
        UPDATE turns SET cancel_requested = true
         WHERE id = p_id AND subject = p_subject AND state = 'running' RETURNING *;
    IF NOT found THEN
        RETURN QUERY SELECT * FROM turns WHERE id = p_id AND subject = p_subject;
    END IF;
END
$$;

-- Both aggregates of a conversation and the page for the model's view, as of one moment. A snapshot
-- comes as a row without a position. Of what the conversation's snapshot covers, only the newest
-- `p_page` events come along. The conversation's key comes as a row of no stream, an erased one's without data.
CREATE FUNCTION load_conversation(
    p_conversation text, p_conversation_state int, p_agent text, p_agent_state int, p_page int)
RETURNS TABLE (o_position bigint, o_stream text, o_version int, o_type text, o_conversation text,
               o_turn text, o_actor text, o_recorded_at timestamptz, o_data bytea)
LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    kept snapshots;
    known int := 0;
BEGIN
    RETURN QUERY
        SELECT NULL::bigint, '', 0, '', k.conversation, '', '', k.created_at, k.wrapped
          FROM keys.conversations k WHERE k.conversation = substr(p_conversation, length('conversation-') + 1);
    SELECT * INTO kept FROM snapshots WHERE stream = p_agent AND state_version = p_agent_state;
    IF found THEN
        RETURN QUERY SELECT NULL::bigint, kept.stream, kept.version, '', '', '', '', kept.recorded_at, kept.state;
        known := kept.version;
    END IF;
    RETURN QUERY
        SELECT position, stream, version, type, conversation, turn, actor, recorded_at, data
          FROM log WHERE stream = p_agent AND version > known ORDER BY version;

    known := 0;
    SELECT * INTO kept FROM snapshots WHERE stream = p_conversation AND state_version = p_conversation_state;
    IF found THEN
        RETURN QUERY SELECT NULL::bigint, kept.stream, kept.version, '', '', '', '', kept.recorded_at, kept.state;
        known := kept.version;
        RETURN QUERY
            SELECT position, stream, version, type, conversation, turn, actor, recorded_at, data
              FROM log WHERE stream = p_conversation AND version > known - p_page AND version <= known
             ORDER BY version;
    END IF;
    RETURN QUERY
        SELECT position, stream, version, type, conversation, turn, actor, recorded_at, data
          FROM log WHERE stream = p_conversation AND version > known ORDER BY version;
END
$$;
