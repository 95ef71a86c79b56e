// Making elements without markup in strings: nothing anybody says can become part of the page.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

const CLOCK = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
export const time = (iso) => CLOCK.format(new Date(iso));

export function since(iso) {
  const minutes = Math.floor((Date.now() - new Date(iso)) / 60000);
  if (minutes < 1) return "now";
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h`;
  return new Date(iso).toLocaleDateString();
}

export const words = (name) => name.replaceAll("_", " ");
export const sentence = (name) => words(name.charAt(0).toUpperCase() + name.slice(1));

let count = 0;
/** A labelled control; the label and the control find each other by an id. */
export function labelled(text, control, hint) {
  control.id = `field-${(count += 1)}`;
  return [h("label", { for: control.id }, text), control, hint];
}
