// Settings: what is sent with every question, how the page looks, and the key. All but the key live in localStorage.
import { setKey } from "./api.js";
import { button, find, make } from "./dom.js";
import { setLanguage, t } from "./words.js";
import { keyForm } from "./view.js";

const PLACE = "fromzero.settings";
const NUMBERS = { temperature: [0, 2, 0.05], top_p: [0.01, 1, 0.01], top_k: [0, 100000, 1], min_p: [0, 1, 0.01],
  max_tokens: [1, 1000000, 1], repetition_penalty: [0.1, 2, 0.01], seed: [0, 2147483647, 1] };

export const settings = { theme: "", language: "", model: "", system: "", probabilities: false, sampling: { temperature: 0.3 } }; // small models wander at 1
Object.assign(settings, JSON.parse(localStorage.getItem(PLACE) ?? "{}"));

export function keepSettings(change) {
  Object.assign(settings, change);
  localStorage.setItem(PLACE, JSON.stringify(settings));
}

export function applySettings() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
  setLanguage(settings.language);
}

// `changed` is called after each change that the page has to show; `transfer` has exportAll and importAll.
export function openSettings(changed, transfer) {
  const dialog = find("#settings");
  const apply = (change) => {
    keepSettings(change);
    applySettings();
    changed();
    openSettings(changed, transfer);
  };
  const languages = [["", t("auto")], ["en", "English"], ["zh", "中文"]];
  const themes = [["", t("auto")], ["light", t("light")], ["dark", t("dark")]];
  const giveKey = (key, keep) => {
    setKey(key, keep);
    changed();
    dialog.close();
  };
  dialog.replaceChildren(
    make("header", {}, make("h2", { id: "settings-title" }, t("settings")), button("close", t("close"), () => dialog.close())),
    section("sampling", make("p", {}, t("samplingHelp")), make("div", { class: "grid" }, ...Object.keys(NUMBERS).map(numberField)), stopField()),
    section("appearance", choice("language", languages, apply), choice("theme", themes, apply)),
    section("key", keyForm(giveKey)),
    section("conversations", make("div", { class: "choice" },
      make("button", { type: "button", click: transfer.exportAll }, t("exportAll")),
      make("button", { type: "button", click: transfer.importAll }, t("importAll")))));
  if (!dialog.open) dialog.showModal();
}

const section = (name, ...inside) => make("section", {}, make("h3", {}, t(name)), ...inside);

function sample(name, value) {
  const { [name]: _, ...sampling } = settings.sampling;
  keepSettings({ sampling: value === "" || value.length === 0 ? sampling : { ...sampling, [name]: value } });
}

function numberField(name) {
  const [min, max, step] = NUMBERS[name];
  const change = ({ target }) => target.reportValidity() && sample(name, target.value === "" ? "" : Number(target.value));
  const value = settings.sampling[name];
  return make("label", {}, t(name), make("input", { type: "number", min, max, step, value, change, inputmode: "decimal" }));
}

function stopField() {
  const change = ({ target }) => sample("stop", target.value.split("\n").filter(Boolean));
  return make("label", {}, t("stop"), make("textarea", { rows: 2, change }, (settings.sampling.stop ?? []).join("\n")));
}

function choice(name, options, apply) {
  const change = ({ target }) => apply({ [name]: target.value });
  const entries = options.map(([value, label]) => make("option", { value, selected: value === settings[name] }, label));
  return make("label", {}, t(name), make("select", { change }, ...entries));
}
