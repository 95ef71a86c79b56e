// Calls and plans as cards: what is asked for, what a person can decide, and what came of it.

import { h, labelled, words } from "./dom.js";
import { parse, pretty } from "./wire.js";

const CALL_SAYS = {
  waiting: ["needs your decision", "ask"], runnable: ["waits for its result", "open"], answered: ["answered", "good"],
  failed: ["answered with an error", "bad"], rejected: ["rejected", "bad"], superseded: ["superseded", "off"],
  forbidden: ["forbidden by the policy", "bad"], cancelled: ["cancelled", "off"], expired: ["expired", "off"],
};
const PLAN_SAYS = {
  review: ["needs your decision", "ask"], execution: ["being carried out", "open"], revision: ["sent back", "off"],
  completed: ["completed", "good"], rejected: ["rejected", "bad"], superseded: ["superseded", "off"],
  cancelled: ["cancelled", "off"], failed: ["failed", "bad"],
};
const STEP_SIGNS = { open: "○", running: "◐", done: "●", failed: "✕" };
const SAMPLES = {
  read_file: "# Read me\nA small file, said by you.", list_files: '["README.md", "hello.txt"]',
  search_files: '[{"path": "README.md", "line": 1}]', execute_command: '{"exit_code": 0, "output": "ok"}',
};

const chip = ([text, tone]) => h("span", { class: `chip ${tone}` }, text);
const button = (kind, text, onclick) => h("button", { type: "button", class: kind, onclick }, text);

export function callCard(entry, acts) {
  const body = h("div", { class: "card-body" });
  const card = h("li", { class: "card call", "data-status": entry.status },
    h("p", { class: "card-head" },
      h("code", { class: "tool" }, entry.tool), h("span", { class: "by" }, `asked for by ${entry.who}`),
      chip(CALL_SAYS[entry.status] ?? [entry.status, "off"])),
    h("pre", { class: "json", tabindex: "0", "aria-label": `Arguments of ${entry.tool}` }, pretty(entry.arguments)),
    decided(entry), outcome(entry), body);
  if (entry.status === "waiting") decisions(card, body, entry, acts);
  if (entry.status === "runnable") resultForm(card, body, entry, acts);
  return card;
}

function decided(entry) {
  if (!entry.decision) return entry.rule ? h("p", { class: "aside" }, `Rule: ${entry.rule}`) : null;
  const said = entry.feedback ? `: “${entry.feedback}”` : "";
  const line = h("p", { class: "aside" }, `${entry.decision} by ${entry.by}${said}`);
  if (entry.before === undefined) return line;
  return h("div", {}, line, h("details", {}, h("summary", {}, "Arguments before"),
    h("pre", { class: "json" }, pretty(entry.before))));
}

function outcome(entry) {
  if (entry.status === "answered") {
    const said = typeof entry.result === "string" ? entry.result : pretty(entry.result);
    return h("div", { class: "outcome" }, h("p", { class: "aside" }, "Result"), h("pre", {}, said));
  }
  if (entry.status === "failed") return h("div", { class: "outcome" }, h("p", { class: "aside" }, "Error"), h("pre", {}, entry.error));
  return entry.detail ? h("p", { class: "aside" }, entry.detail) : null;
}

/** Send what the card decided; the card says so meanwhile, and what went wrong. */
async function sent(card, act) {
  if (card.hasAttribute("aria-busy")) return;
  card.setAttribute("aria-busy", "true");
  card.querySelector(".card-problem")?.remove();
  try {
    await act();
  } catch (error) {
    const wrong = h("p", { class: "card-problem problem", role: "alert" }, error.message);
    card.append(wrong);
    wrong.scrollIntoView({ block: "nearest" });
  } finally {
    card.removeAttribute("aria-busy");
  }
}

/** A form inside a card; `go` gets the field's text and returns what to send, or throws what is wrong with it. */
function form(card, body, { title, field, hint, text, tone = "primary", go, back }) {
  const wrong = h("p", { class: "problem", role: "alert" });
  const filled = h("form", { class: "inner", onsubmit: (event) => {
    event.preventDefault();
    let act;
    try {
      act = go(field.value);
    } catch (error) {
      wrong.textContent = error.message;
      field.setAttribute("aria-invalid", "true");
      show();
      return;
    }
    sent(card, act);
  } },
  ...labelled(title, field), hint, wrong,
  h("p", { class: "buttons" }, h("button", { type: "submit", class: tone }, text), button("quiet", "Back", back)));
  filled.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      back();
    }
  });
  const show = () => {
    field.focus({ preventScroll: true });
    filled.scrollIntoView({ block: "nearest" }); // its buttons, too
  };
  body.replaceChildren(filled);
  show();
}

function decisions(card, body, entry, acts) {
  const decide = (decision, more) => () => acts.send({ type: "hitl_decision", call_id: entry.call_id, decision, ...more });
  const back = () => {
    body.replaceChildren(h("p", { class: "buttons" },
      button("primary", "Approve", () => sent(card, decide("approve"))),
      button("quiet", "Edit…", edit), button("quiet danger", "Reject…", reject)));
    if (back.isUsed) body.querySelector("button").focus();
    back.isUsed = true;
  };
  const edit = () => form(card, body, {
    title: `New arguments for ${entry.tool} (JSON, whole)`, field: area(pretty(entry.arguments)), back,
    text: "Approve with these", go: (text) => decide("edit", { arguments: asObject(text) }),
  });
  const reject = () => form(card, body, {
    title: "Why not? The agent reads this (optional)", field: area(""), back, text: "Reject", tone: "danger-full",
    go: (text) => decide("reject", text.trim() ? { feedback: text.trim() } : {}),
  });
  back();
}

function area(value) {
  const field = h("textarea", { rows: Math.min(14, value.split("\n").length + 1), spellcheck: "false" });
  field.value = value;
  return field;
}

function asObject(text) {
  let value;
  try {
    value = parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value) || JSON.isRawJSON?.(value)) {
    throw new Error("Arguments are a JSON object, as {\"path\": \"a.txt\"}.");
  }
  return value;
}

function resultForm(card, body, entry, acts) {
  const sample = SAMPLES[entry.tool] ?? "done";
  const start = () => {
    body.replaceChildren(
      h("p", { class: "aside" }, "Tools run in the client, and here the client is you."),
      h("p", { class: "buttons" }, button("primary", "Send result…", give), button("quiet", "Report an error…", fail)));
    if (start.isUsed) body.querySelector("button").focus();
    start.isUsed = true;
  };
  const send = (answer) => () => acts.send({ type: "tool_result", call_id: entry.call_id, ...answer });
  const give = () => form(card, body, {
    title: `Result of ${entry.tool}`, field: area(sample), text: "Send result", back: start,
    hint: h("p", { class: "aside" }, "Valid JSON is sent as JSON, everything else as text."),
    go: (text) => send({ result: jsonOrText(text) }),
  });
  const fail = () => form(card, body, {
    title: `Why ${entry.tool} did not work`, field: area("The tool is not available."), text: "Send error",
    back: start, tone: "danger-full", go: (text) => {
      if (!text.trim()) throw new Error("Say in a few words what went wrong.");
      return send({ error: text.trim() });
    },
  });
  start();
}

function jsonOrText(text) {
  try {
    return parse(text);
  } catch {
    return text;
  }
}

export function planCard(entry, acts) {
  const done = entry.subtasks.filter((one) => one.status === "done").length;
  const body = h("div", { class: "card-body" });
  const card = h("li", { class: "card plan", "data-status": entry.status },
    h("p", { class: "card-head" },
      h("strong", {}, `Plan, version ${entry.version}`), h("span", { class: "by" }, `proposed by ${entry.who}`),
      chip(PLAN_SAYS[entry.status])),
    h("p", { class: "goal" }, entry.goal),
    h("progress", { max: entry.subtasks.length, value: done, "aria-label": `${done} of ${entry.subtasks.length} subtasks done` }),
    h("ol", { class: "steps" }, ...entry.subtasks.map(step)),
    entry.feedback ? h("p", { class: "aside" }, `Feedback: “${entry.feedback}”`) : null,
    entry.reason ? h("p", { class: "aside" }, `Reason: ${entry.reason}`) : null, body);
  if (entry.status === "review") planDecisions(card, body, entry, acts);
  return card;
}

function step(one) {
  const after = one.depends_on?.length ? `, after ${one.depends_on.join(", ")}` : "";
  return h("li", { "data-status": one.status },
    h("span", { class: "sign", "aria-hidden": "true" }, STEP_SIGNS[one.status]),
    h("span", {}, h("span", { class: "vh" }, `${words(one.status)}: `), one.description,
      h("span", { class: "by" }, ` ${one.agent}${after}`), one.reason ? h("span", { class: "cut" }, ` ${one.reason}`) : null));
}

function planDecisions(card, body, entry, acts) {
  const decide = (decision, more) => () => acts.send({
    type: "plan_decision", plan_id: entry.plan_id, plan_version: entry.version, decision, ...more,
  });
  const back = () => {
    body.replaceChildren(h("p", { class: "buttons" },
      button("primary", "Approve the plan", () => sent(card, decide("approve"))),
      button("quiet", "Modify…", modify), button("quiet danger", "Reject the plan", () => sent(card, decide("reject")))));
    if (back.isUsed) body.querySelector("button").focus();
    back.isUsed = true;
  };
  const modify = () => form(card, body, {
    title: "What should change? (required)", field: area(""), text: "Send back", back, go: (text) => {
      if (!text.trim()) throw new Error("Say what should change.");
      return decide("modify", { feedback: text.trim() });
    },
  });
  back();
}
