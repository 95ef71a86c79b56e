-- What an auditor asks of the turns. Few turns end badly, and a few bytes tell for a range of the
-- table when its turns were accepted: neither is felt where a turn is accepted or closed.
CREATE INDEX turns_ended_badly ON turns (state, accepted_at) WHERE state IN ('failed', 'abandoned');
CREATE INDEX turns_accepted_at ON turns USING brin (accepted_at) WITH (pages_per_range = 32, autosummarize = on);
