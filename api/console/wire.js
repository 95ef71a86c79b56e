// Talking to the server: JSON without loss, streams of frames, and a feed that always comes back.

import { EVENT_TYPES } from "./fold.js";

/** Read JSON; numbers that the browser would round are kept as they were written. */
export function parse(text) {
  return JSON.parse(text, (key, value, context) => {
    const source = typeof value === "number" ? context?.source : undefined;
    const isExact = source === undefined || JSON.rawJSON === undefined || String(value) === source;
    return isExact ? value : JSON.rawJSON(source);
  });
}

export const pretty = (value) => JSON.stringify(value, null, 2) ?? "null";

export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Read a part of an address; one that we did not give stays as it is, and names nothing. */
export function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `The server answered ${status}.`);
    this.status = status;
    this.code = body.code ?? "";
    this.turnId = body.turn_id;
  }
}

async function problem(response) {
  const body = await response.json().catch(() => ({}));
  return new Problem(response.status, body);
}

/** Ask for JSON. Throws `Problem` for what the server refuses, `TypeError` without a server. */
export async function ask(path, options = {}) {
  const response = await fetch(path, options);
  if (!response.ok) throw await problem(response);
  return parse(await response.text());
}

export function change(path, method, body) {
  return ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

/**
 * Open a stream of frames and yield them as `{id, type, data}` until it ends, breaks or is left.
 *
 * What is sent arrives although its reader leaves: only the answer is given up, and its connection with it.
 */
export async function* frames(path, body, left) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  if (!response.ok) throw await problem(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const leave = () => void reader.cancel().catch(() => {});
  left.addEventListener("abort", leave);
  try {
    let rest = "";
    while (!left.aborted) {
      const { value, done } = await reader.read();
      if (done) return;
      const messages = (rest + value).split("\n\n");
      rest = messages.pop();
      for (const message of messages) {
        const frame = frameOf(message);
        if (frame) yield frame;
      }
    }
  } finally {
    left.removeEventListener("abort", leave);
    leave();
  }
}

function frameOf(message) {
  const fields = {};
  for (const line of message.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
  }
  return fields.data === undefined ? null : { id: fields.id, type: fields.event, data: parse(fields.data) };
}

const PROVISIONAL = ["turn.started", "turn.delta", "turn.status", "turn.failed"];
const LONGEST_PAUSE_MS = 5000;
// A browser opens six connections to a server at most: windows nobody looks at give theirs back.
const HIDDEN_MS = 60000;

/** A conversation's feed. The browser resumes it; where the browser gives up, we go on from the position. */
export class Feed {
  constructor(conversationId, { after, event, provisional, state }) {
    this.path = `v1/conversations/${encodeURIComponent(conversationId)}/feed`;
    this.after = after;
    this.on = { event, provisional, state };
    this.pause = 500;
    this.ended = new AbortController();
    document.addEventListener("visibilitychange", () => this.looked(), { signal: this.ended.signal });
    this.open();
  }

  looked() {
    clearTimeout(this.hiding);
    if (document.hidden) this.hiding = setTimeout(() => this.rest(), HIDDEN_MS);
    else if (!this.source) this.open();
  }

  rest() {
    this.on.state("reconnecting");
    this.stop();
  }

  open() {
    this.source = new EventSource(`${this.path}?after=${this.after()}`);
    this.source.onopen = () => {
      this.pause = 500;
      this.on.state("live");
    };
    this.source.onerror = () => this.broken();
    for (const type of EVENT_TYPES) {
      this.source.addEventListener(type, (message) => this.on.event({ type, ...parse(message.data) }));
    }
    for (const type of PROVISIONAL) {
      this.source.addEventListener(type, (message) => this.on.provisional({ type, data: parse(message.data) }));
    }
  }

  /** The browser tries again by itself unless the server refused; then somebody has to. */
  async broken() {
    const source = this.source;
    if (!source) return;
    this.on.state("reconnecting");
    if (source.readyState !== EventSource.CLOSED) return;
    this.timer = setTimeout(async () => {
      const isGone = await this.isGone();
      if (this.source !== source) return; // it was left meanwhile
      if (isGone) this.on.state("gone");
      else this.open();
    }, this.pause);
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
  }

  async isGone() {
    const aborter = new AbortController();
    try {
      return (await fetch(this.path, { signal: aborter.signal })).status === 404;
    } catch {
      return false;
    } finally {
      aborter.abort();
    }
  }

  stop() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  close() {
    clearTimeout(this.hiding);
    this.ended.abort();
    this.stop();
  }
}
