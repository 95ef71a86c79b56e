// What the page itself does: its colours, its drawers on narrow screens, its tabs and dialogs.

import { byId } from "./dom.js";

/** Bring the frame to life; returns how to close its drawers. */
export function prepareFrame() {
  colours();
  tabs();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names the conversation and stays
    byId("say").focus();
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  }
  return drawers();
}

function colours() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const button = byId("theme");
  const say = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("minutebook.theme", root.dataset.theme);
    } catch {
      // Then it is chosen for this visit only.
    }
    say();
  });
  dark.addEventListener("change", say);
  say();
}

function tabs() {
  const all = [...document.querySelectorAll('[role="tab"]')];
  const choose = (chosen) => {
    for (const tab of all) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
    }
  };
  for (const [place, tab] of all.entries()) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = all[(place + step + all.length) % all.length];
      choose(next);
      next.focus();
    });
  }
}

function drawers() {
  const both = [["list", "open-list"], ["side", "open-side"]];
  const close = () => {
    for (const [drawer, opener] of both) {
      if (byId(drawer).contains(document.activeElement) && byId(drawer).classList.contains("is-open")) byId(opener).focus();
      byId(drawer).classList.remove("is-open");
      byId(opener).setAttribute("aria-expanded", "false");
    }
    byId("shade").hidden = true;
  };
  for (const [drawer, opener] of both) {
    byId(opener).addEventListener("click", () => {
      const isOpen = byId(drawer).classList.contains("is-open");
      close();
      if (isOpen) return;
      byId(drawer).classList.add("is-open");
      byId(opener).setAttribute("aria-expanded", "true");
      byId("shade").hidden = false;
      byId(drawer).querySelector("button, a, input").focus();
    });
  }
  byId("shade").addEventListener("click", close);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  return { close };
}
