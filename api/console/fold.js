// What a conversation's events say together: its transcript, and its state at any position.

export const EVENT_TYPES = [
  "conversation.started", "conversation.renamed", "conversation.archived", "conversation.reopened",
  "conversation.erased",
  "conversation.user_message_received", "conversation.assistant_message_sent",
  "conversation.tool_call_requested", "conversation.tool_call_approved", "conversation.tool_call_edited",
  "conversation.tool_call_rejected", "conversation.tool_call_closed", "conversation.tool_result_received",
  "conversation.plan_proposed", "conversation.plan_approved", "conversation.plan_modification_requested",
  "conversation.plan_rejected", "conversation.plan_superseded", "conversation.subtask_started",
  "conversation.subtask_completed", "conversation.subtask_failed", "conversation.plan_completed",
  "conversation.plan_cancelled", "conversation.plan_failed", "conversation.turn_cancelled",
  "agent.assigned", "agent.switched", "agent.model_called",
];

export class Minutes {
  constructor(events = []) {
    this.events = [];
    this.entries = new Map();
    this.position = 0;
    this.title = null;
    this.agent = null;
    this.archived = false;
    this.erased = false;
    this.exists = false;
    this.calls = new Map(); // the open ones
    this.plan = null; // the entry of the one in review, revision or execution
    this.messages = 0;
    this.tokens = 0;
    for (const event of events) this.apply(event);
  }

  /** The conversation's state by its name on the wire. */
  get state() {
    if (this.erased) return "erased";
    if (this.archived) return "archived";
    if (this.plan?.status === "execution") return "plan_in_execution";
    if (this.plan?.status === "review") return "plan_in_review";
    const open = [...this.calls.values()];
    if (open.some((call) => call.status === "waiting")) return "awaiting_decision";
    return open.length ? "awaiting_tool_results" : "idle";
  }

  /** Take in the next event; one that was seen before changes nothing. */
  apply(event) {
    if (event.position <= this.position) return false;
    this.position = event.position;
    this.events.push(event);
    this.exists = true;
    // What was erased says nothing any more; the receipt that comes after it says so.
    if (event.data.unreadable === true) this.note(event, `Event ${event.position} cannot be read`);
    else if (event.data.erased !== true) CONSEQUENCES[event.type]?.(this, event.data, event);
    return true;
  }

  put(key, kind, event, fields) {
    const entry = { key, kind, rev: event.position, position: event.position, at: event.recorded_at, ...fields };
    this.entries.set(key, entry);
    return entry;
  }

  note(event, text) {
    this.put(`e:${event.position}`, "note", event, { text });
  }

  call(event, change) {
    const entry = this.entries.get(`c:${event.data.call_id}`);
    if (!entry) return;
    Object.assign(entry, change, { rev: event.position });
    if (!["waiting", "runnable"].includes(entry.status)) this.calls.delete(event.data.call_id);
  }

  planned(event, change) {
    const { plan_id: id, plan_version: version } = event.data;
    const entry = version === undefined ? this.plan : this.entries.get(`p:${id}:${version}`);
    if (!entry) return;
    Object.assign(entry, change, { rev: event.position });
    if (this.plan === entry && !["review", "revision", "execution"].includes(entry.status)) this.plan = null;
  }

  subtask(event, status, reason = null) {
    const subtasks = this.plan?.subtasks.map((one) =>
      one.id === event.data.subtask_id ? { ...one, status, reason } : one);
    if (subtasks) this.planned({ ...event, data: {} }, { subtasks });
  }
}

const who = (actor) => actor.replace(/^(user|agent):/, "");

const CONSEQUENCES = {
  "conversation.started": (m, d, e) => m.note(e, `Started by ${who(e.actor)}`),
  "conversation.renamed": (m, d, e) => {
    m.title = d.title;
    m.note(e, `Renamed to “${d.title}”`);
  },
  "conversation.archived": (m, d, e) => {
    m.archived = true;
    m.note(e, "Archived");
  },
  "conversation.reopened": (m, d, e) => {
    m.archived = false;
    m.note(e, "Reopened");
  },
  "conversation.erased": (m, d, e) => {
    m.erased = true;
    m.title = m.plan = null;
    m.entries.clear();
    m.calls.clear();
    for (const one of m.events) if (one !== e) one.data = { erased: true };
    m.note(e, `The contents were erased by ${who(e.actor)}${d.reason ? `: ${d.reason}` : ""}`);
  },
  "conversation.user_message_received": (m, d, e) => {
    m.messages += 1;
    m.title ??= d.content.trim().split("\n")[0].slice(0, 80);
    m.put(`u:${e.turn_id}`, "user", e, { text: d.content, who: who(e.actor) });
  },
  "conversation.assistant_message_sent": (m, d, e) => {
    m.messages += 1;
    m.put(`m:${d.message_id}`, "agent", e, { text: d.content, who: d.agent, truncated: d.truncated });
  },
  "conversation.tool_call_requested": (m, d, e) => {
    const status = d.requires_decision ? "waiting" : "runnable";
    const call = m.put(`c:${d.call_id}`, "call", e, {
      call_id: d.call_id, tool: d.tool, arguments: d.arguments, who: d.agent, rule: d.rule, status,
    });
    m.calls.set(d.call_id, call);
  },
  "conversation.tool_call_approved": (m, d, e) =>
    m.call(e, { status: "runnable", decision: "approved", by: who(e.actor), feedback: d.feedback }),
  "conversation.tool_call_edited": (m, d, e) =>
    m.call(e, {
      status: "runnable", decision: "edited", by: who(e.actor), feedback: d.feedback,
      before: d.arguments_before, arguments: d.arguments_after,
    }),
  "conversation.tool_call_rejected": (m, d, e) =>
    m.call(e, { status: "rejected", decision: "rejected", by: who(e.actor), feedback: d.feedback }),
  "conversation.tool_call_closed": (m, d, e) => m.call(e, { status: d.reason, detail: d.detail }),
  "conversation.tool_result_received": (m, d, e) =>
    m.call(e, { status: d.error === null ? "answered" : "failed", result: d.result, error: d.error }),
  "conversation.plan_proposed": (m, d, e) => {
    const subtasks = d.subtasks.map((one) => ({ ...one, status: "open" }));
    m.plan = m.put(`p:${d.plan_id}:${d.plan_version}`, "plan", e, {
      plan_id: d.plan_id, version: d.plan_version, goal: d.goal, who: d.agent, subtasks, status: "review",
    });
  },
  "conversation.plan_approved": (m, d, e) =>
    m.planned(e, { status: "execution", by: who(e.actor), feedback: d.feedback }),
  "conversation.plan_modification_requested": (m, d, e) =>
    m.planned(e, { status: "revision", by: who(e.actor), feedback: d.feedback }),
  "conversation.plan_rejected": (m, d, e) =>
    m.planned(e, { status: "rejected", by: who(e.actor), feedback: d.feedback }),
  "conversation.plan_superseded": (m, d, e) => m.planned(e, { status: "superseded" }),
  "conversation.subtask_started": (m, d, e) => m.subtask(e, "running"),
  "conversation.subtask_completed": (m, d, e) => m.subtask(e, "done"),
  "conversation.subtask_failed": (m, d, e) => m.subtask(e, "failed", d.reason),
  "conversation.plan_completed": (m, d, e) => m.planned(e, { status: "completed" }),
  "conversation.plan_cancelled": (m, d, e) => m.planned(e, { status: "cancelled", reason: d.reason }),
  "conversation.plan_failed": (m, d, e) => m.planned(e, { status: "failed", reason: d.reason }),
  "conversation.turn_cancelled": (m, d, e) => m.note(e, `Stopped by ${who(e.actor)}`),
  "agent.assigned": (m, d, e) => {
    m.agent = d.agent;
    m.note(e, `${d.agent} is on`);
  },
  "agent.switched": (m, d, e) => {
    m.agent = d.to;
    m.note(e, `${d.from} hands over to ${d.to}${d.reason ? `: ${d.reason}` : ""}`);
  },
  "agent.model_called": (m, d) => {
    m.tokens += (d.input_tokens ?? 0) + (d.output_tokens ?? 0);
  },
};
