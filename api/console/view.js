// The transcript: one element for each entry, made anew only when the entry has changed.

import { callCard, planCard } from "./cards.js";
import { h, sentence, time } from "./dom.js";

const same = (node, entry) => node?.dataset.rev === revOf(entry);
const revOf = (entry) => `${entry.kind}${entry.rev}${entry.isPending ? "p" : ""}`;

export class Transcript {
  constructor(list, scroll, acts) {
    this.list = list;
    this.scroll = scroll;
    this.acts = acts;
    this.nodes = new Map();
  }

  clear() {
    this.nodes.clear();
    this.list.replaceChildren();
  }

  /** Show these entries, in order; stays at the end where the reader is at the end. */
  show(entries) {
    const isAtEnd = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < 80;
    const keys = new Set(entries.map((entry) => entry.key));
    for (const [key, node] of this.nodes) if (!keys.has(key)) this.forget(key, node);
    let before = null;
    for (const entry of entries) {
      const node = this.node(entry);
      const place = before ? before.nextSibling : this.list.firstChild;
      if (place !== node) this.list.insertBefore(node, place);
      before = node;
    }
    if (isAtEnd) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  forget(key, node) {
    node.remove();
    this.nodes.delete(key);
  }

  node(entry) {
    const known = this.nodes.get(entry.key);
    if (entry.kind === "draft" && known?.dataset.rev === "draft") return grown(known, entry);
    if (entry.kind !== "draft" && same(known, entry)) return known;
    const made = MADE[entry.kind](entry, this.acts);
    made.dataset.key = entry.key;
    made.dataset.rev = entry.kind === "draft" ? "draft" : revOf(entry);
    if (known) keepFocus(known, made);
    this.nodes.set(entry.key, made);
    return made;
  }
}

/** Put the new element in the old one's place; who was working in it stays there. */
function keepFocus(known, made) {
  const hadFocus = known.contains(document.activeElement);
  known.replaceWith(made);
  if (!hadFocus) return;
  const next = made.querySelector("button, textarea, input") ?? made;
  if (next === made) made.tabIndex = -1;
  next.focus({ preventScroll: true });
}

function grown(node, entry) {
  const text = node.querySelector(".text").firstChild;
  if (entry.text.startsWith(text.data)) text.appendData(entry.text.slice(text.data.length));
  else text.data = entry.text;
  return node;
}

function message(entry, side, ...more) {
  const at = entry.at ? h("time", { class: "at", datetime: entry.at }, time(entry.at)) : null;
  return h("li", { class: `message ${side}${entry.isPending ? " pending" : ""}` },
    h("p", { class: "by" }, h("span", { class: "who" }, entry.who), at, ...more),
    h("div", { class: "text" }, document.createTextNode(entry.text)));
}

const MADE = {
  user: (entry) => message(entry, "from-user", entry.isPending ? h("span", { class: "at" }, "not stored yet") : null),
  agent: (entry) =>
    message(entry, "from-agent", entry.truncated ? h("span", { class: "cut" }, "stopped here") : null),
  draft: (entry) => message(entry, "from-agent draft", h("span", { class: "at" }, "speaking")),
  status: (entry) => h("li", { class: "note busy" }, h("span", { class: "dots", "aria-hidden": "true" }), entry.text),
  note: (entry) => h("li", { class: "note" }, entry.text),
  failure: (entry, acts) =>
    h("li", { class: "card failure" },
      h("p", { class: "card-head" }, h("strong", {}, entry.title), h("span", { class: "chip bad" }, entry.code || "unsent")),
      h("p", {}, entry.text),
      h("p", { class: "buttons" },
        h("button", { type: "button", class: "primary", onclick: () => acts.again(entry.turn) }, "Try again"),
        h("button", { type: "button", class: "quiet", onclick: () => acts.discard(entry.turn) }, "Dismiss"))),
  call: callCard,
  plan: planCard,
};

/** What a turn adds to the transcript before it is stored. */
export function meanwhile(turn, stored) {
  const entries = [];
  if (turn.message?.type === "user_message") {
    entries.push({ key: `u:${turn.id}`, kind: "user", rev: 0, isPending: true, who: "you", text: turn.message.content });
  }
  for (const [id, draft] of turn.drafts) entries.push({ key: `m:${id}`, kind: "draft", who: draft.agent, text: draft.text });
  if (turn.failure) {
    const title = turn.phase === "unsent" ? "Not sent" : `${sentence(turn.message?.type ?? turn.kind ?? "turn")} failed, nothing was changed`;
    entries.push({ key: `f:${turn.id}`, kind: "failure", rev: `${turn.tries ?? 1} ${turn.failure.message}`, turn, title, code: turn.failure.code, text: turn.failure.message });
  } else if (["sending", "asking", "running"].includes(turn.phase)) {
    const text = turn.status || (turn.drafts.size ? "" : "working");
    if (text) entries.push({ key: `s:${turn.id}`, kind: "status", rev: text, text });
  }
  return entries.filter((entry) => !stored.has(entry.key));
}
