// The line a person writes in: what they type stays theirs until it is sent.

import { byId } from "./dom.js";

const OPEN = new Set(["awaiting_decision", "awaiting_tool_results", "plan_in_review", "plan_in_execution"]);

export class Composer {
  /** `send` gets the text that was written, `stop` is called where a running turn is to end. */
  constructor({ send, stop }) {
    this.field = byId("say");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      send(this.field.value);
    });
    this.field.addEventListener("input", () => this.grow());
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send(this.field.value);
      } else if (event.key === "Escape") stop();
    });
    byId("stop").addEventListener("click", stop);
  }

  focus() {
    this.field.focus();
  }

  clear() {
    this.field.value = "";
    this.grow();
  }

  /** Give back what was refused, unless something else was written meanwhile. */
  giveBack(text) {
    if (!this.field.value) this.field.value = text;
    this.grow();
  }

  grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight + 2, 200)}px`;
  }

  /** Show what can be done now: send or stop, and what a new message would drop. */
  show(minutes, state, isRunning) {
    byId("stop").hidden = !isRunning;
    byId("send").hidden = isRunning;
    this.field.disabled = byId("send").disabled = minutes.erased;
    const drops = !isRunning && OPEN.has(state);
    byId("drops").hidden = !drops;
    byId("keys").hidden = drops;
    const ended = minutes.erased ? "Erased: begin a new one" : "Archived: reopen it";
    this.field.placeholder = minutes.erased || minutes.archived ? ended : "Message";
  }
}
