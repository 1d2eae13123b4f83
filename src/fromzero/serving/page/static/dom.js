// Elements are made one by one and text is only ever set as text: what a model writes can never become markup.

export const find = (selector, root = document) => root.querySelector(selector);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  element.append(...children.filter((child) => child != null && child !== false));
  // After the children: with dir="auto" already there, every child that comes makes the browser look at all before it.
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export const button = (name, label, click, more = {}) =>
  make("button", { type: "button", class: "icon", "aria-label": label, title: label, click, ...more }, icon(name));

export async function copy(text, control) {
  await navigator.clipboard.writeText(text);
  control.classList.add("done");
  setTimeout(() => control.classList.remove("done"), 1500);
}
