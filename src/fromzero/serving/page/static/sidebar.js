// The list of conversations: open, search, rename, delete. `actions`: open, rename, remove, each told an entry.
import { button, find, make } from "./dom.js";
import * as store from "./store.js";
import { t } from "./words.js";

export async function showList(current, actions) {
  const wanted = find("#search").value.trim();
  const [entries, found] = [await store.list(), wanted && (await store.search(wanted))];
  if (wanted !== find("#search").value.trim()) return; // typed on meanwhile
  const shown = found ? entries.filter(({ id }) => found.has(id)) : entries;
  find("#list").replaceChildren(...shown.map((entry) => row(entry, entry.id === current, actions)));
  find("#empty").hidden = shown.length > 0;
  find("#empty").textContent = t(wanted ? "nothingFound" : "none");
}

function row(entry, current, { open, rename, remove }) {
  const { id, title } = entry;
  const link = make("a", { href: `#${id}`, "aria-current": current && "true", dir: "auto", title, click: () => open(id) }, title);
  const item = make("li", {}, link,
    button("edit", t("rename", { title }), () => renameInPlace(link, title, (name) => rename(id, name))),
    button("trash", t("deleteOne", { title }), () => remove(id)));
  return item;
}

function renameInPlace(link, title, done) {
  const field = make("input", { value: title, maxlength: 200, "aria-label": t("rename", { title }) });
  const end = (name) => {
    field.onblur = null;
    field.replaceWith(link);
    link.focus();
    if (name && name !== title) done(name);
  };
  field.onkeydown = ({ key, isComposing }) => {
    if (!isComposing && (key === "Enter" || key === "Escape")) end(key === "Enter" && field.value.trim());
  };
  field.onblur = () => end(field.value.trim());
  link.replaceWith(field);
  field.select();
}

// On a phone the list is a drawer over the rest.
export function showDrawer(open) {
  document.body.classList.toggle("drawer", open);
  find("main").inert = open;
  find("#menu").setAttribute("aria-expanded", open);
  if (open) find("#new").focus();
}

// Something happened; `undo` takes it back.
export function toast(text, undo) {
  const line = make("p", {}, text, undo && make("button", { type: "button", click: () => end(undo()) }, t("undo")));
  const end = () => line.remove();
  find("#toast").replaceChildren(line);
  setTimeout(end, 8000);
}
