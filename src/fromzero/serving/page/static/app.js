// The chat page. Read on in: conversation.js (what is kept), api.js (what is asked), answer.js (one answer as it comes),
// view.js (how it looks), markdown.js and tokens.js (how its text looks).
import { ask } from "./answer.js";
import { countTokens, listModels, setKey } from "./api.js";
import { add, asText, create, messages, path } from "./conversation.js";
import { find } from "./dom.js";
import { applySettings, keepSettings, openSettings, settings } from "./settings.js";
import { showDrawer, showList, toast } from "./sidebar.js";
import * as store from "./store.js";
import { hideTip } from "./tokens.js";
import { editMessage, explain, messageView } from "./view.js";
import { number, t } from "./words.js";

let conversation = create(settings.system);
let models = [];
const views = new Map(); // of the nodes that are shown, by id
const running = new Map(); // AbortController of the answer in the making, by conversation id

const model = () => models.find(({ id }) => id === settings.model) ?? models[0];
const chats = () => model()?.capabilities?.includes("chat") ?? true;
const question = (said) => (chats() ? { messages: said } : { prompt: asText(said), max_tokens: settings.sampling.max_tokens ?? 256 });
const stop = () => running.get(conversation.id)?.abort();

// ---- What is shown

function show() {
  const nodes = path(conversation);
  views.clear();
  for (const node of nodes) views.set(node.id, messageView(conversation, node, actions));
  find("#messages").replaceChildren(...nodes.map((node) => views.get(node.id).article));
  nodes.forEach(showNode);
  find("#greeting").hidden = nodes.length > 0;
  find("#system-text").value = conversation.system;
  find("#title").textContent = conversation.title || t("newOne");
  document.title = `${conversation.title || t("newOne")} · fromzero`;
  showState();
}

function showState() {
  find("#send").hidden = running.has(conversation.id);
  find("#stop").hidden = !find("#send").hidden;
  find("#bars").setAttribute("aria-pressed", settings.probabilities);
  find("#gist").textContent = conversation.system;
  find("#system").hidden = !chats();
  find("#note").hidden = chats();
  count();
}

function showNode(node) {
  const here = running.get(conversation.id)?.node === node;
  views.get(node.id)?.show({ running: here, probabilities: settings.probabilities });
}

const listed = () => showList(conversation.id, { open, rename, remove });

function scrollDown(always) {
  const area = find("#scroll");
  if (always || follows) area.scrollTop = area.scrollHeight;
}
let follows = true; // whether the end is in sight, and shall stay there
find("#scroll").addEventListener("scroll", ({ target }) => {
  follows = target.scrollHeight - target.scrollTop - target.clientHeight < 60;
  find("#latest").hidden = follows;
  hideTip();
});

// ---- Conversations

async function keep(changed = conversation) {
  await store.save(changed).catch(({ message }) => toast(t("notKept", { message })));
  await listed();
}

async function open(id) {
  const found = id === conversation.id ? conversation : id && (running.get(id)?.conversation ?? (await store.load(id)));
  conversation = found || create(settings.system);
  if (location.hash.slice(1) !== (found ? id : "")) history.pushState(null, "", found ? `#${id}` : location.pathname);
  showDrawer(false);
  show();
  scrollDown(true);
  await listed();
}

const begin = () => open("").then(() => find("#text").focus());

async function rename(id, title) {
  const changed = id === conversation.id ? conversation : await store.load(id);
  changed.title = title;
  await keep(changed);
  show();
}

async function remove(id) {
  running.get(id)?.abort();
  const gone = await store.load(id);
  await store.remove(id);
  if (id === conversation.id) await begin();
  await listed();
  toast(t("deleted", { title: gone.title }), () => keep(gone));
}

// ---- Questions and answers

async function send(text) {
  const shown = path(conversation);
  if (running.has(conversation.id) || (!text && (chats() || !shown.length))) return;
  if (!shown.length && (await store.list()).length >= store.MOST) return toast(t("full", { n: store.MOST }));
  find("#text").value = "";
  grow();
  const last = shown.at(-1)?.id ?? "";
  if (!shown.length) history.pushState(null, "", `#${conversation.id}`);
  await answer(text ? add(conversation, last, "user", text).id : last);
}

const answer = (parent) => run(add(conversation, parent, "assistant"));

async function run(node) {
  const its = conversation; // another may be open by the time the answer comes
  const asking = Object.assign(new AbortController(), { node, conversation: its });
  running.set(its.id, asking);
  show();
  scrollDown(true);
  await keep(its);
  const body = { model: model()?.id ?? "", ...settings.sampling, ...question(messages(its, node.parent)) };
  await ask(body, node, settings.probabilities, asking.signal, () => {
    showNode(node);
    scrollDown();
  });
  running.delete(its.id);
  showNode(node);
  scrollDown();
  showState();
  await keep(its);
}

const actions = {
  again: (node) => !running.has(conversation.id) && answer(node.parent),
  retry: (node) => !running.has(conversation.id) && run(node),
  choose(node) {
    conversation.chosen[node.parent] = node.id;
    show();
    views.get(node.id).article.querySelector(".versions button:enabled")?.focus();
    keep();
  },
  edit(node) {
    if (running.has(conversation.id)) return;
    editMessage(views.get(node.id), node, async (text) => {
      if (text && text !== node.text) await answer(add(conversation, node.parent, "user", text).id);
      else show();
      find("#text").focus();
    });
  },
  async keyGiven(node, key, kept) {
    setKey(key, kept);
    await findModels();
    await run(node);
  },
};

// ---- The server's models, and how many tokens a question has

async function findModels() {
  try {
    models = await listModels();
  } catch (error) {
    if (error.kind === "loading" || error.kind === "offline") setTimeout(findModels, 3000);
    find("#count").textContent = explain(error);
    return;
  }
  const options = models.map(({ id }) => new Option(id, id, false, id === model().id));
  find("#model").replaceChildren(...options);
  showState();
}

let counting = new AbortController();
function count() {
  counting.abort();
  const { signal } = (counting = new AbortController());
  const [typed, shown] = [find("#text").value, path(conversation)];
  if (!models.length || (!typed && !shown.length)) return void (find("#count").textContent = "");
  setTimeout(async () => {
    if (signal.aborted || running.has(conversation.id)) return;
    const said = messages(conversation, shown.at(-1)?.id);
    if (typed) said.push({ role: "user", content: typed });
    const { max_tokens, ...asked } = question(said);
    const counted = await countTokens({ model: model().id, ...asked }, signal).catch(() => null);
    if (signal.aborted || counted === null) return;
    const most = model().max_model_len;
    const line = most ? t("tokensOf", { n: number(counted), most: number(most) }) : t("tokens", { n: number(counted) });
    find("#count").textContent = counted >= most ? `${line}: ${t("contextFull")}` : line;
    find("#count").classList.toggle("over", counted >= most);
  }, 400);
}

// ---- Keys, clicks and the rest

function grow() {
  const text = find("#text");
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight, innerHeight / 3)}px`;
}

async function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await store.exportAll());
  link.download = `fromzero-${new Date().toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function bring() {
  const field = Object.assign(document.createElement("input"), { type: "file", accept: "application/json" });
  field.addEventListener("change", async () => {
    const failed = { size: "tooBig", room: "full" };
    await store.importAll(field.files[0]).then(
      (n) => toast(t("imported", { n: number(n) })),
      ({ message }) => toast(t(failed[message] ?? "notOurs", { n: store.MOST })),
    );
    find("#settings").close();
    await listed();
  });
  field.click();
}

const typed = (event) => event.isComposing || event.keyCode === 229; // by an input method, which is not done yet

find("#text").addEventListener("keydown", (event) => {
  const last = path(conversation).findLast(({ role }) => role === "user");
  if (typed(event)) return;
  if (event.key === "Enter" && !event.shiftKey) find("#composer").requestSubmit();
  else if (event.key === "ArrowUp" && !event.target.value && last) actions.edit(last);
  else return;
  event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (typed(event)) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    if (!find("#settings").open) begin();
  } else if (event.key === "Escape" && !find("#settings").open) {
    hideTip();
    if (document.body.classList.contains("drawer")) showDrawer(false);
    else stop();
  }
});

const on = (selector, event, call) => find(selector).addEventListener(event, call);
on("#text", "input", () => (grow(), count()));
on("#composer", "submit", (event) => (event.preventDefault(), send(find("#text").value.trim())));
on("#stop", "click", () => (stop(), find("#text").focus()));
on("#new", "click", begin);
on("#menu", "click", () => showDrawer(true));
for (const away of ["#hide", "#shade"]) on(away, "click", () => showDrawer(false));
on("#search", "input", listed);
on("#latest", "click", () => scrollDown(true));
on("#bars", "click", () => (keepSettings({ probabilities: !settings.probabilities }), show()));
on("#tune", "click", () => openSettings(refresh, { exportAll: save, importAll: bring }));
on("#model", "change", ({ target }) => (keepSettings({ model: target.value }), showState()));
on("#system-text", "input", ({ target }) => {
  conversation.system = target.value.trim();
  keepSettings({ system: conversation.system });
  showState();
  if (conversation.nodes.length) keep();
});
window.addEventListener("popstate", () => open(location.hash.slice(1)));
store.whenChangedElsewhere(listed);

const refresh = () => (show(), listed(), findModels());

applySettings();
await Promise.all([open(location.hash.slice(1)), findModels()]);
