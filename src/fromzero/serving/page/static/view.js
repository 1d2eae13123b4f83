// Messages on the page. `actions`: edit, again, retry, choose, keyGiven, each told the node.
import { keyIsKept, getKey } from "./api.js";
import { children } from "./conversation.js";
import { button, copy, icon, make } from "./dom.js";
import { showMarkdown } from "./markdown.js";
import { showTokens } from "./tokens.js";
import { number, t } from "./words.js";

export function messageView(conversation, node, actions) {
  const [body, more] = [make("div", { class: "body" }), make("div", { class: "more" })];
  const name = t(node.role === "user" ? "account" : "assistant");
  const article = make("article", { class: `message ${node.role}`, "aria-label": name }, body, more);
  const show = ({ running = false, probabilities = false } = {}) => {
    article.classList.toggle("running", running);
    showBody(body, node, probabilities && node.tokens?.length);
    if (running) more.replaceChildren();
    else more.replaceChildren(...[node.error && problem(node, actions), foot(conversation, node, actions)].filter(Boolean));
  };
  return { article, body, show };
}

function showBody(body, node, withTokens) {
  const kind = node.role === "user" ? "plain" : withTokens ? "tokens" : "markdown";
  if (body.dataset.kind !== kind) body.replaceChildren(make("div", { class: kind, dir: kind === "plain" && "auto" }));
  body.dataset.kind = kind;
  if (kind === "plain") body.firstChild.textContent = node.text;
  else if (kind === "tokens") showTokens(body.firstChild, node.tokens);
  else showMarkdown(body.firstChild, node.text);
}

function foot(conversation, node, { edit, again, choose }) {
  const copying = button("copy", t("copyText"), () => copy(node.text, copying));
  return make("div", { class: "foot" },
    versions(conversation, node, choose),
    node.text && copying,
    node.role === "user" ? button("edit", t("edit"), () => edit(node)) : !node.error && button("again", t("again"), () => again(node)),
    node.role === "assistant" && !node.error && make("span", { class: "stats" }, statistics(node)));
}

function versions(conversation, node, choose) {
  const all = children(conversation, node.parent);
  const at = all.indexOf(node);
  if (all.length < 2) return null;
  return make("span", { class: "versions" },
    button("left", t("older"), () => choose(all[at - 1]), { disabled: at === 0 }),
    make("span", {}, t("version", { n: number(at + 1), all: number(all.length) })),
    button("right", t("newer"), () => choose(all[at + 1]), { disabled: at === all.length - 1 }));
}

function statistics({ stats, reason, model }) {
  const ended = { length: "length", stopped: "stopped", "": "interrupted" }[reason ?? ""];
  const { tokens, rate, first } = stats ?? {};
  return [
    model,
    tokens && t("tokens", { n: number(tokens) }),
    rate && t("speed", { n: number(rate, 1) }),
    first && t("first", { s: number(first, 2) }),
    ended && t(ended),
  ].filter(Boolean).join(" · ");
}

export const explain = ({ kind, message }) =>
  kind === "key" ? t(getKey() ? "keyWrong" : "keyWanted") : kind === "refused" ? t("failed", { message }) : t(kind);

// What went wrong, and what can be done about it, in the message's place.
function problem(node, { retry, keyGiven }) {
  const error = make("div", { class: "problem" }, make("p", { role: "alert" }, explain(node.error)));
  if (node.error.kind === "key") error.append(keyForm((key, keep) => keyGiven(node, key, keep)));
  else error.append(retryButton(node.error.wait, () => retry(node)));
  return error;
}

function retryButton(wait, click) {
  const [label, until] = [make("span"), Date.now() + 1000 * wait];
  const control = make("button", { type: "button", click }, icon("again"), label);
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    control.disabled = left > 0;
    label.textContent = left > 0 ? t("retryIn", { s: left }) : t("retry");
    if (left > 0) setTimeout(tick, 250);
  };
  tick();
  return control;
}

export function keyForm(given) {
  const key = make("input", { type: "password", autocomplete: "off", "aria-label": t("key"), placeholder: t("key"), value: getKey() });
  const keep = make("input", { type: "checkbox", checked: keyIsKept() });
  const submit = (event) => {
    event.preventDefault();
    given(key.value.trim(), keep.checked);
  };
  return make("form", { class: "key", submit }, key, make("button", { type: "submit", class: "strong" }, t("save")),
    make("label", {}, keep, t("keepKey")));
}

// The message as a field; `done` is told the new text, or null.
export function editMessage({ article, body }, node, done) {
  const text = make("textarea", { "aria-label": t("edit"), rows: Math.min(12, node.text.split("\n").length + 1), dir: "auto" });
  const end = (value) => done(value?.trim() ? value.trim() : null);
  text.value = node.text;
  text.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Escape") end(null);
    else if (event.key === "Enter" && !event.shiftKey) end(text.value);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  article.classList.add("editing");
  body.replaceChildren(text, make("div", { class: "choice" },
    make("button", { type: "button", click: () => end(null) }, t("cancel")),
    make("button", { type: "button", class: "strong", click: () => end(text.value) }, t("send"))));
  text.focus();
}
