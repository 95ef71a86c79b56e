// The turns that run or failed: what they say meanwhile, and what was sent, until the minutes have it.

import { ask, change, frames, newId, Problem } from "./wire.js";

const later = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const storeKey = (conversationId) => `minutebook.outbox.${conversationId}`;

/** What was sent from this browser and is not known to be stored: it survives a reload. */
const outbox = {
  read(conversationId) {
    try {
      return JSON.parse(localStorage.getItem(storeKey(conversationId))) ?? {};
    } catch {
      return {};
    }
  },
  write(conversationId, sent) {
    try {
      if (Object.keys(sent).length) localStorage.setItem(storeKey(conversationId), JSON.stringify(sent));
      else localStorage.removeItem(storeKey(conversationId));
    } catch {
      // Without a place to keep it the page works all the same, until it is reloaded.
    }
  },
};

export class Turns {
  /** `changed` is called after every change, `stored(position)` when a turn is known to be in the log. */
  constructor(conversationId, { changed, stored }) {
    this.conversationId = conversationId;
    this.changed = changed;
    this.stored = stored;
    this.all = new Map();
    this.over = new Set();
    this.sent = outbox.read(conversationId);
    this.left = new AbortController();
    for (const [id, message] of Object.entries(this.sent)) {
      const turn = this.turn(id);
      turn.message = message;
      turn.phase = "asking";
      this.settle(turn);
    }
  }

  get isClosed() {
    return this.left.signal.aborted;
  }

  get running() {
    return [...this.all.values()].find((turn) => ["sending", "asking", "running"].includes(turn.phase));
  }

  get failed() {
    return [...this.all.values()].filter((turn) => turn.phase === "failed" || turn.phase === "unsent");
  }

  turn(id) {
    if (!this.all.has(id)) {
      this.all.set(id, { id, phase: "running", seq: 0, drafts: new Map(), status: "", cursor: null });
    }
    return this.all.get(id);
  }

  drop(turn) {
    this.all.delete(turn.id);
    this.keep(turn.id, undefined);
    this.changed();
  }

  keep(id, message) {
    if (message === undefined) delete this.sent[id];
    else this.sent[id] = message;
    outbox.write(this.conversationId, this.sent);
  }

  // --- sending ---------------------------------------------------------------------------------

  /** Send a message; resolves when its turn is over. Throws `Problem` where it was refused. */
  async send(message) {
    if (message.type === "user_message") this.failed.forEach((turn) => this.drop(turn));
    const turn = this.turn(newId());
    Object.assign(turn, { message, phase: "sending", isFresh: true });
    this.keep(turn.id, message);
    this.changed();
    await this.post(turn);
  }

  /** Send again what has not arrived, or run again what failed. */
  async again(turn) {
    const retries = turn.phase === "failed";
    this.begin(turn, { started_at: null });
    turn.phase = "sending";
    turn.cursor = null;
    turn.tries = (turn.tries ?? 1) + 1;
    this.changed();
    await this.post(turn, retries ? `v1/turns/${encodeURIComponent(turn.id)}/retry` : undefined);
  }

  async post(turn, retry) {
    const body = { conversation_id: this.conversationId, turn_id: turn.id, message: turn.message };
    try {
      await (retry ? this.read(turn, retry, {}) : this.read(turn, "v1/messages/stream", body));
    } catch (error) {
      if (!(error instanceof Problem)) return void (await this.settle(turn));
      this.refused(error);
      if (retry) {
        Object.assign(turn, { phase: "failed", failure: { code: error.code, message: error.message } });
        return this.changed();
      }
      this.drop(turn);
      throw error;
    }
  }

  async cancel() {
    const turn = this.running;
    if (turn) await change(`v1/turns/${encodeURIComponent(turn.id)}/cancel`, "POST", {});
  }

  // --- reading ---------------------------------------------------------------------------------

  /** Find out whether a turn runs in the conversation, whoever sent it, and follow it: it may say nothing yet. */
  async join() {
    try {
      const { turn } = await ask(`v1/conversations/${encodeURIComponent(this.conversationId)}/turn`);
      if (turn && !this.isClosed) this.follow(turn.turn_id);
    } catch {
      // Then its next word tells; and a feed that breaks asks again when it is back.
    }
  }

  /** What was refused because another turn runs shows that turn. */
  refused(problem) {
    if (problem.code === "turn_in_progress" && problem.turnId) this.follow(problem.turnId);
  }

  follow(turnId) {
    if (this.over.has(turnId)) return;
    const turn = this.turn(turnId);
    if (!turn.isRead) this.settle(turn);
    this.changed();
  }

  /** Read a turn's stream to its terminal frame; throws a `TypeError` where it breaks off. */
  async read(turn, path, body) {
    turn.isRead = true;
    try {
      for await (const frame of frames(path, body, this.left.signal)) {
        if (this.isClosed) return;
        turn.cursor = frame.id;
        this.take(turn, frame);
        if (frame.data.is_final) return;
      }
    } finally {
      turn.isRead = false;
    }
    throw new TypeError("The stream broke off.");
  }

  /** Take a frame from the feed; a hole in what is said, and an end, are looked up in the turn's own stream. */
  fromFeed(frame) {
    if (this.over.has(frame.data.turn_id)) return; // the commit may overtake the last words
    const turn = this.turn(frame.data.turn_id);
    if (turn.isRead) return; // its own stream says it all, in order
    if (frame.type === "turn.failed") this.settle(turn);
    else if (frame.type === "turn.started" || frame.data.seq === turn.seq + 1) this.take(turn, frame);
    else if (frame.data.seq > turn.seq) this.settle(turn);
  }

  begin(turn, { started_at }) {
    Object.assign(turn, { startedAt: started_at, seq: 0, phase: "running", failure: null, status: "" });
    turn.drafts = new Map();
  }

  take(turn, { type, data }) {
    // A later attempt begins anew; an earlier one may be heard late, and says nothing any more.
    if (type === "turn.started" && data.started_at > (turn.startedAt ?? "")) this.begin(turn, data);
    if (data.seq <= turn.seq && !data.is_final) return;
    turn.seq = Math.max(turn.seq, data.seq);
    TAKEN[type]?.(this, turn, data);
    this.changed();
  }

  /** A committed event of a turn has come: its turn is over. */
  seen(turnId) {
    this.over.add(turnId);
    const turn = this.all.get(turnId);
    if (!turn || turn.phase === "stored") return;
    turn.phase = "stored";
    this.keep(turn.id, undefined);
    // Its other events come in the same moment; until they are here its words stay.
    setTimeout(() => this.drop(turn), 400);
  }

  /** Find out how a turn stands, and follow it to its end, over any number of breaks. */
  async settle(turn) {
    if (turn.isSettling) return;
    turn.isSettling = true;
    const path = `v1/turns/${encodeURIComponent(turn.id)}`;
    try {
      while (!this.isClosed && this.all.has(turn.id) && turn.phase !== "stored") {
        if (await this.isSettled(turn, path)) break;
        await later(700);
      }
    } finally {
      turn.isSettling = false;
    }
    this.changed();
  }

  async isSettled(turn, path) {
    try {
      const { state } = await ask(path);
      if (state === "running") turn.phase = "running";
      await this.read(turn, `${path}/stream${turn.cursor ? `?after=${turn.cursor}` : ""}`);
      return true;
    } catch (error) {
      if (!(error instanceof Problem && error.status === 404)) return false;
      if (!turn.message) return this.vanished(turn);
      return turn.isFresh ? this.resent(turn) : this.unsent(turn, { code: "", message: "This has not reached the server." });
    }
  }

  /** A turn of another window that was taken back: as if it had never been. */
  vanished(turn) {
    this.all.delete(turn.id);
    return true;
  }

  unsent(turn, failure) {
    Object.assign(turn, { phase: "unsent", failure });
    return true;
  }

  /** What was sent into a break goes out when the server is back; its id makes that safe. */
  async resent(turn) {
    const body = { conversation_id: this.conversationId, turn_id: turn.id, message: turn.message };
    try {
      await this.read(turn, "v1/messages/stream", body);
      return true;
    } catch (error) {
      if (!(error instanceof Problem && error.status < 500)) return false;
      this.refused(error);
      return this.unsent(turn, error);
    }
  }

  /** After a break of the feed: turns that were running may have ended unseen. */
  check() {
    for (const turn of this.all.values()) {
      if (["running", "asking"].includes(turn.phase) && !turn.isRead) this.settle(turn);
    }
  }

  /** Read nothing more: a browser opens six connections to a server at most, and other conversations need them. */
  close() {
    this.left.abort();
  }
}

const TAKEN = {
  "turn.started": (turns, turn, data) => {
    turn.phase = "running";
    turn.kind = data.kind;
    turn.agent = data.agent;
  },
  "turn.delta": (turns, turn, data) => {
    const draft = turn.drafts.get(data.message_id) ?? { agent: data.agent, text: "" };
    draft.text += data.text;
    turn.drafts.set(data.message_id, draft);
    turn.status = "";
  },
  "turn.status": (turns, turn, data) => {
    turn.status = data.text;
  },
  "turn.failed": (turns, turn, data) => {
    turn.phase = "failed";
    turn.failure = data;
    turn.drafts = new Map();
  },
  "turn.committed": (turns, turn, data) => {
    turns.keep(turn.id, undefined);
    turn.phase = turn.phase === "stored" ? "stored" : "committed";
    turn.lastPosition = data.last_position ?? 0;
    turns.stored(turn);
  },
};
