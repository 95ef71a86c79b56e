// What stands beside the conversation: the list, the timeline, and what can be tried.

import { byId, h, since, time, words } from "./dom.js";
import { Minutes } from "./fold.js";
import { ask, pretty } from "./wire.js";

// --- what can be tried ---------------------------------------------------------------------------

export const TRY = [
  ["Talk", "The answer streams word by word.", ["help", "hello"]],
  ["Stream and stop", "Press Stop, or reload in the middle: nothing is lost.", ["slow 10", "long 500"]],
  ["Read", "A call that needs nobody's consent; you are the tool and send its result.",
    ["read README.md", "list", "search TODO"]],
  ["Change", "You approve, edit or reject; then you send the result.",
    ["write hello.txt", "edit hello.txt", "delete hello.txt", "run make test"]],
  ["Several calls", "Each is decided and answered by itself.", ["both", "three files"]],
  ["Plan", "Approve, send back with a wish, or reject.", ["plan a small web page"]],
  ["Agents", "One hands over to another; the history stays.", ["switch to coder", "ask: read NOTES.md"]],
  ["Refused", "Calls that cannot be carried out.", ["forbidden", "bad arguments"]],
  ["Failures", "The turn fails, nothing changes, and it can be tried again.",
    ["fail", "rate limit", "refuse", "timeout", "auth"]],
];

export function showTry(pane, welcome, say) {
  const word = (text) => h("button", { type: "button", class: "word", onclick: () => say(text) }, text);
  pane.append(h("p", { class: "hint" }, "These are words of the demo model, which needs no key. A click says it."),
    ...TRY.map(([name, about, texts]) => h("div", { class: "group" },
      h("h2", {}, name), h("p", { class: "aside" }, about), h("p", { class: "words" }, ...texts.map(word)))));
  welcome.append(...["help", "write hello.txt", "plan a small web page", "slow 10"].map(word));
}

// --- the timeline --------------------------------------------------------------------------------

export class Timeline {
  constructor() {
    this.list = byId("events");
    this.detail = byId("detail");
    this.events = [];
    this.list.addEventListener("keydown", (event) => this.move(event));
  }

  clear() {
    this.events = [];
    this.list.replaceChildren();
    this.close();
    byId("no-events").hidden = false;
  }

  add(events) {
    if (!events.length) return;
    byId("no-events").hidden = true;
    const isAtEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
    this.list.append(...events.map((event) => this.line(event)));
    this.events.push(...events);
    if (isAtEnd) this.list.scrollTop = this.list.scrollHeight;
  }

  line(event) {
    const [stream, name] = event.type.split(".");
    const button = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.open(event, button) },
      h("span", { class: "at-position" }, `#${event.position}`),
      h("span", { class: `name of-${stream}` }, words(name)),
      h("span", { class: "by" }, gist(event)), h("time", { class: "at", datetime: event.recorded_at }, time(event.recorded_at)));
    return h("li", {}, button);
  }

  /** Arrow keys go from event to event. */
  move(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (!step) return;
    event.preventDefault();
    event.target.closest("li")?.[step]?.querySelector("button").focus();
  }

  open(event, button) {
    this.list.querySelector('[aria-pressed="true"]')?.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    this.opened = button;
    const then = new Minutes(this.events.filter((one) => one.position <= event.position));
    this.detail.replaceChildren(
      h("p", { class: "card-head" }, h("strong", {}, `Event ${event.position}`), h("span", { class: "grow" }),
        h("button", { type: "button", class: "quiet small", onclick: () => this.close() }, "Close")),
      h("h2", {}, "State at this point"), stateTable(then),
      h("h2", {}, "Event"), h("pre", { class: "json", tabindex: "0", "aria-label": "The event as JSON" }, pretty(event)));
    this.detail.hidden = false;
    this.detail.scrollTop = 0;
    button.scrollIntoView({ block: "nearest" });
  }

  close() {
    this.detail.hidden = true;
    this.opened?.setAttribute("aria-pressed", "false");
    if (this.opened?.isConnected && this.detail.contains(document.activeElement)) this.opened.focus();
    this.opened = null;
  }
}

function gist({ type, data }) {
  if (type === "agent.switched") return `${data.from} → ${data.to}`;
  return data.tool ?? data.title ?? data.goal ?? data.description ?? data.content?.slice(0, 60) ?? data.agent ?? data.model ?? "";
}

function stateTable(minutes) {
  const calls = [...minutes.calls.values()].map((call) => `${call.tool} (${call.status === "waiting" ? "undecided" : "may run"})`);
  const plan = minutes.plan;
  const rows = [
    ["State", words(minutes.state)], ["Agent", minutes.agent ?? "none"], ["Title", minutes.title ?? "none"],
    ["Open calls", calls.join(", ") || "none"],
    ["Plan", plan ? `${plan.goal}, version ${plan.version}, in ${plan.status}, ${plan.subtasks.filter((one) => one.status === "done").length} of ${plan.subtasks.length} done` : "none"],
    ["Messages", minutes.messages], ["Events", minutes.events.length], ["Tokens", minutes.tokens],
  ];
  return h("dl", { class: "facts-list" }, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}

// --- the conversations ---------------------------------------------------------------------------

const KEPT = "minutebook.conversations";

/** The conversations begun in this browser: shown until the server's own list has them. */
export const kept = {
  read() {
    try {
      return JSON.parse(localStorage.getItem(KEPT)) ?? [];
    } catch {
      return [];
    }
  },
  write(all) {
    try {
      localStorage.setItem(KEPT, JSON.stringify(all.slice(0, 50)));
    } catch {
      // The server's list is the one that counts.
    }
  },
  put(one) {
    const rest = this.read().filter((other) => other.id !== one.id);
    this.write([one, ...rest]);
  },
  drop(ids) {
    this.write(this.read().filter((one) => !ids.includes(one.id)));
  },
};

export class ConversationList {
  constructor(open) {
    this.open = open;
    this.list = byId("conversations");
    this.items = [];
    this.pages = 1;
    this.next = null;
    this.reached = 0; // the position that the next look has to have reached
    byId("more").addEventListener("click", () => this.load(this.pages + 1));
    byId("search").addEventListener("input", () => this.soon());
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(this.pages), 300);
  }

  /** Read the first pages anew. */
  async load(pages = 1) {
    const search = byId("search").value.trim();
    const items = [];
    let cursor = null;
    try {
      for (let page = 0; page < pages && (page === 0 || cursor); page += 1) {
        const query = new URLSearchParams({ limit: "50", ...(search && { search }), ...(cursor && { cursor }), ...(this.reached && { min_position: this.reached }) });
        const body = await ask(`v1/conversations?${query}`);
        items.push(...body.conversations);
        cursor = body.next;
      }
    } catch {
      return this.show(this.current); // the server is away: what was known stays, and the next look is soon
    }
    [this.items, this.pages, this.next, this.reached, this.isLoaded] = [items, pages, cursor, 0, true];
    this.show(this.current);
  }

  show(current) {
    this.current = current;
    const search = byId("search").value.trim().toLowerCase();
    const known = this.items.map((one) => one.conversation_id);
    if (!search) kept.drop(known);
    const mine = kept.read().filter((one) => (one.title ?? "").toLowerCase().includes(search));
    const lines = [...mine.filter((one) => !known.includes(one.id)), ...this.items.map(summary)];
    this.list.replaceChildren(...lines.map((one) => this.line(one)));
    byId("no-conversations").hidden = lines.length > 0 || !this.isLoaded;
    byId("no-conversations").textContent = search ? "No title has these words." : "No conversations yet.";
    byId("more").hidden = !this.next;
  }

  line(one) {
    const waits = one.waits ? h("span", { class: "chip ask" }, `${one.waits} to decide`) : null;
    const state = waits || one.state === "idle" ? null : one.state; // what there is to decide says it already
    const about = [one.agent, state ? words(state) : null, one.at ? since(one.at) : null];
    return h("li", {}, h("a", {
      href: `#/c/${encodeURIComponent(one.id)}`, "aria-current": one.id === this.current ? "page" : null,
    }, h("span", { class: "name" }, one.title || "Untitled"), h("span", { class: "by" }, about.filter(Boolean).join(" · ")), waits));
  }
}

const summary = (one) => ({
  id: one.conversation_id, title: one.title, state: one.state, agent: one.agent, at: one.last_activity_at,
  waits: (one.waiting_for?.decisions?.length ?? 0) + (one.waiting_for?.plan ? 1 : 0),
});
