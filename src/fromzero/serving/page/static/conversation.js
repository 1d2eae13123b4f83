// A conversation is a tree: whoever asks again or edits gets a new branch beside the old one.
// Node: {id, parent, role, text, model, tokens, stats, reason, error}. `chosen` says by parent which child is shown.

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(9)), (b) => b.toString(36).padStart(2, "0")).join("");

export const create = (system = "") => ({ id: newId(), title: "", changed: Date.now(), system, nodes: [], chosen: {} });

export const children = (conversation, parent) => conversation.nodes.filter((node) => node.parent === parent);

// The messages that are shown, first to last.
export function path(conversation) {
  const shown = [];
  for (let at = ""; ; at = shown.at(-1).id) {
    const branches = children(conversation, at);
    if (!branches.length) return shown;
    shown.push(branches.find((node) => node.id === conversation.chosen[at]) ?? branches.at(-1));
  }
}

export function add(conversation, parent, role, text = "") {
  const node = { id: newId(), parent, role, text };
  conversation.nodes.push(node);
  conversation.chosen[parent] = node.id;
  conversation.changed = Date.now();
  if (!conversation.title) conversation.title = text.trim().replace(/\s+/g, " ").slice(0, 60);
  return node;
}

// What came before a node, as the API wants it; an answer that failed before its first word is left out.
export function messages(conversation, before) {
  const byId = new Map(conversation.nodes.map((node) => [node.id, node]));
  const said = [];
  for (let node = byId.get(before); node; node = byId.get(node.parent)) {
    if (node.text) said.unshift({ role: node.role, content: node.text });
  }
  return conversation.system ? [{ role: "system", content: conversation.system }, ...said] : said;
}

// For a model without a chat template, which goes on with a text.
export const asText = (said) => said.map(({ role, content }, i) => (i && role === "user" ? "\n" : "") + content).join("");

const string = (value, most = 1e6) => (typeof value === "string" ? value.slice(0, most) : "");

// A conversation of a file from anywhere, with only what belongs there; a new id, for it may be here already.
export function restore(foreign) {
  const restored = { ...create(string(foreign.system)), title: string(foreign.title, 200) || "–" };
  restored.changed = Number(foreign.changed) || Date.now();
  const seen = new Set([""]);
  for (const { id, parent, role, text, model, reason } of foreign.nodes) {
    const known = seen.has(parent) && typeof id === "string" && !seen.has(id) && ["user", "assistant"].includes(role);
    if (!known) throw new Error("format"); // parents come first, so there is no circle
    seen.add(id);
    restored.nodes.push({ id, parent, role, text: string(text), model: string(model, 200), reason: string(reason, 40) });
    restored.chosen[parent] = id;
  }
  return restored;
}
