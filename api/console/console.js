// The page: one conversation at a time, told by its feed alone; what is sent goes out as turns.

import { Composer } from "./composer.js";
import { byId, h, words } from "./dom.js";
import { Minutes } from "./fold.js";
import { ConversationList, kept, showTry, Timeline } from "./panels.js";
import { prepareFrame } from "./frame.js";
import { Turns } from "./turns.js";
import { meanwhile, Transcript } from "./view.js";
import { ask, change, decoded, Feed, newId } from "./wire.js";

const AGENTS = ["orchestrator", "coder", "architect", "debug", "ask", "universal"];
const LINK_SAYS = { idle: "Ready", live: "Live", connecting: "Connecting…", reconnecting: "Reconnecting…", gone: "Not found" };

const page = { id: null, minutes: new Minutes(), turns: null, feed: null, agents: [], wanted: null, fresh: [] };
const acts = {
  send: (message) => page.turns.send(message),
  again: (turn) => page.turns.again(turn),
  discard: (turn) => page.turns.drop(turn),
};
const transcript = new Transcript(byId("transcript"), byId("scroll"), acts);
const timeline = new Timeline();
const list = new ConversationList();
const composer = new Composer({ send, stop });

// --- one conversation ----------------------------------------------------------------------------

function open(id) {
  page.feed?.close();
  page.turns?.close();
  Object.assign(page, { id, minutes: new Minutes(), feed: null, wanted: null, fresh: [], isNew: !id });
  page.id ??= newId();
  page.isBeginning = isKeptAsBeginning();
  page.turns = new Turns(page.id, { changed: render, stored: () => page.feed ?? watch() });
  transcript.clear();
  timeline.clear();
  problem("");
  link(id ? "connecting" : "idle");
  if (id && !(page.isBeginning && page.turns.running)) watch();
  render();
  list.show(id);
}

/** A conversation has no feed before the server has accepted its first turn. */
const isKeptAsBeginning = () => kept.read().some((one) => one.id === page.id && one.isBeginning);

function watch() {
  const { id } = page;
  page.feed = new Feed(id, {
    after: () => page.minutes.position,
    event: (event) => id === page.id && take(event),
    provisional: (frame) => id === page.id && page.turns.fromFeed(frame),
    state: (state) => id === page.id && linked(state),
  });
}

function linked(state) {
  if (state === "live" && page.link === "reconnecting") page.turns.check();
  if (state === "live") page.turns.join();
  link(state);
  if (state !== "gone") return;
  page.feed.close();
  page.feed = null; // a turn that is stored here begins another one
  kept.drop([page.id]);
  problem("There is no conversation with this id.");
  render();
}

function link(state) {
  page.link = state;
  const shown = byId("link");
  shown.dataset.link = state;
  const after = state === "reconnecting" && page.minutes.position ? ` after position ${page.minutes.position}` : "";
  if (shown.textContent !== LINK_SAYS[state] + after) shown.textContent = LINK_SAYS[state] + after;
}

function take(event) {
  if (!page.minutes.apply(event)) return;
  page.fresh.push(event);
  page.turns.seen(event.turn_id);
  if (page.isBeginning) begun();
  if (event.type === "conversation.erased") erased(event);
  if (!event.data.unreadable) announce(event);
  list.soon();
  render();
}

function announce(event) {
  if (event.type === "conversation.assistant_message_sent") say(`${event.data.agent}: ${event.data.content}`);
  if (event.type === "conversation.tool_call_requested" && event.data.requires_decision) say(`${event.data.tool} needs your decision.`);
  if (event.type === "conversation.plan_proposed") say("A plan needs your decision.");
}

/** Show nothing any more of what was said: not in the timeline, not in the list, not in this browser. */
function erased(event) {
  timeline.clear();
  page.fresh = [...page.minutes.events];
  kept.drop([page.id]);
  list.reached = event.position;
}

function begun() {
  page.isBeginning = false;
  const known = kept.read().find((one) => one.id === page.id);
  kept.put({ id: page.id, title: page.minutes.title ?? known?.title, agent: page.minutes.agent });
}

/** Tell those who hear the page, but not what was said before they came. */
function say(text) {
  if (page.link === "live" && page.turns.all.size) byId("announcer").textContent = text.slice(0, 1000);
}

// --- showing -------------------------------------------------------------------------------------

let isDue = false;
function render() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    show();
  });
}

function show() {
  const { minutes, turns } = page;
  for (const turn of [...turns.all.values()]) {
    if (turn.phase === "committed" && turn.lastPosition <= minutes.position) turns.all.delete(turn.id);
  }
  const entries = [...minutes.entries.values()].filter((entry) => entry.kind !== "agent" || entry.text || entry.truncated);
  const shown = [...entries, ...[...turns.all.values()].flatMap((turn) => meanwhile(turn, minutes.entries))];
  byId("welcome").hidden = shown.length > 0 || !page.isNew;
  showHead(minutes, turns.running); // it takes room, and the transcript's end is found in what is left
  transcript.show(shown);
  timeline.add(page.fresh.splice(0));
}

function showHead(minutes, running) {
  const isAhead = [...page.turns.all.values()].some((turn) => turn.phase === "committed");
  const absent = page.link === "gone" ? "not found" : "new";
  const state = running || isAhead ? "running" : minutes.exists ? minutes.state : absent;
  set("title", minutes.title ?? (minutes.erased ? "Erased" : absent === "new" ? "New conversation" : "No such conversation"));
  document.title = minutes.title ? `${minutes.title} · Minutebook` : "Minutebook";
  byId("state").dataset.state = state;
  set("state", words(state));
  set("agent-name", minutes.agent ?? page.wanted ?? page.agents[0]?.name ?? AGENTS[0]);
  byId("rename").hidden = byId("archive").hidden = !minutes.exists || minutes.erased;
  set("archive", minutes.archived ? "Reopen" : "Archive");
  byId("agent").disabled = minutes.erased;
  composer.show(minutes, state, Boolean(running));
}

function set(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function problem(text) {
  byId("problem").textContent = text;
}

/** Do something and show what the server refuses. */
async function attempt(act) {
  problem("");
  try {
    await act();
    return true;
  } catch (error) {
    problem(error instanceof TypeError ? "The server does not answer." : error.message);
    return false;
  }
}

// --- acting --------------------------------------------------------------------------------------

async function tell(text) {
  if (page.turns.running) return problem("A turn is running; wait for it, or stop it.");
  const { id, isNew } = page;
  const message = { type: "user_message", content: text, ...(isNew && page.wanted && { agent: page.wanted }) };
  if (isNew) {
    kept.put({ id, title: text.trim().split("\n")[0].slice(0, 80), isBeginning: true });
    Object.assign(page, { isNew: false, isBeginning: true });
    history.pushState(null, "", `#/c/${id}`);
    list.show(id);
  }
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
  if (await attempt(() => page.turns.send(message))) return;
  composer.giveBack(text);
}

function send(text) {
  if (!text.trim() || page.turns.running) return text.trim() && problem("A turn is running; wait for it, or stop it.");
  composer.clear();
  tell(text);
}

function stop() {
  if (page.turns.running) attempt(() => page.turns.cancel());
}

const amend = (body) => attempt(async () => {
  await change(`v1/conversations/${encodeURIComponent(page.id)}`, "PATCH", body);
  list.soon();
});

function chooseAgent() {
  const isBegun = page.minutes.exists;
  const now = byId("agent-name").textContent;
  set("switch-title", isBegun ? "Switch the agent" : "Who begins?");
  byId("reason").hidden = byId("reason-label").hidden = !isBegun;
  byId("reason").value = "";
  const profiles = page.agents.length ? page.agents : AGENTS.map((name) => ({ name, description: "" }));
  byId("agents").replaceChildren(h("legend", { class: "vh" }, "Agent"), ...profiles.map((one) =>
    h("label", { class: "choice" }, h("input", { type: "radio", name: "agent", value: one.name, checked: one.name === now }),
      h("span", {}, h("strong", {}, one.name), h("span", { class: "by" }, one.description)))));
  byId("switch").showModal();
}

function agentChosen() {
  const agent = byId("agents").querySelector("input:checked")?.value;
  const reason = byId("reason").value.trim();
  if (!agent) return;
  if (page.minutes.exists) attempt(() => acts.send({ type: "switch_agent", agent, ...(reason && { reason }) }));
  else page.wanted = agent;
  render();
}

// --- beginning -----------------------------------------------------------------------------------

function route() {
  const found = /^#\/c\/(.+)$/.exec(location.hash);
  const id = found ? decoded(found[1]) : null;
  if (id !== page.id || !page.turns) open(id);
}

function whenDone(id, act) {
  byId(id).addEventListener("close", () => {
    if (byId(id).returnValue === "ok") act();
    byId(id).returnValue = "";
  });
}

function listen() {
  const frame = prepareFrame();
  addEventListener("hashchange", () => {
    route();
    frame.close();
  });
  addEventListener("focus", () => list.soon());
  setInterval(() => document.hidden || list.soon(), 15000);
  byId("new").addEventListener("click", () => {
    if (location.hash) history.pushState(null, "", "#/");
    open(null);
    frame.close();
    composer.focus();
  });
  byId("agent").addEventListener("click", chooseAgent);
  byId("archive").addEventListener("click", () => amend({ archived: !page.minutes.archived }));
  byId("rename").addEventListener("click", () => {
    byId("name").value = page.minutes.title ?? "";
    byId("naming").showModal();
  });
  whenDone("switch", agentChosen);
  whenDone("naming", () => amend({ title: byId("name").value.trim() }));
  showTry(byId("try"), byId("first-words"), (text) => {
    frame.close();
    tell(text);
  });
}

listen();
route();
list.load();
ask("v1/agents").then(({ agents }) => {
  page.agents = agents;
  render();
}, () => {});
