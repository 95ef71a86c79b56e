-- How a turn begins, first and again. An erasure reaches turns of which nothing was stored, too, so databases
-- that began with other versions of these functions get them anew.

-- Whether what somebody asked for in this turn was erased. Only a turn that is committed needs no payload.
CREATE OR REPLACE FUNCTION turn_is_erased(p_turn turns) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (p_turn.payload IS NULL AND p_turn.state IN ('failed', 'abandoned'))
        OR turn_is_of_erased(p_turn.conversation);
END
$$;

CREATE OR REPLACE FUNCTION turn_accept(
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

CREATE OR REPLACE FUNCTION turn_retry(
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
