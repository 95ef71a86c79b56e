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
