// The tokens of an answer and how likely each was. A token: [text, log-probability, [[text, log-probability], ...]].
import { find, make } from "./dom.js";
import { number, t } from "./words.js";

// From the log-probabilities of a chunk, of a chat or of a completion. A character may take several tokens: it shows
// with the last of them.
export function readTokens(logprobs, decoder) {
  if (logprobs?.content) {
    const text = ({ token, bytes }) => (bytes ? decoder.decode(Uint8Array.from(bytes), { stream: true }) : token);
    const tops = (token) => (token.top_logprobs ?? []).map((top) => [top.token, top.logprob]);
    return logprobs.content.map((token) => [text(token), token.logprob, tops(token)]);
  }
  return (logprobs?.tokens ?? []).map((text, i) => [text, logprobs.token_logprobs[i], Object.entries(logprobs.top_logprobs?.[i] ?? {})]);
}

const level = (logprob) => [0.9, 0.6, 0.3, 0.1, 0].findIndex((least) => Math.exp(logprob) >= least);

// Adds what is new; the container is emptied when another answer is shown in it.
export function showTokens(container, tokens) {
  if (container.tokens !== tokens) prepare(container, tokens);
  for (let at = container.childNodes.length; at < tokens.length; at += 1) {
    const [text, logprob] = tokens[at];
    container.append(make("span", { class: `p${level(logprob)}`, "data-at": at }, text || "·"));
  }
}

function prepare(container, tokens) {
  Object.assign(container, { tokens, tabIndex: 0 });
  container.replaceChildren();
  container.setAttribute("role", "group");
  container.setAttribute("aria-label", t("probabilityHelp"));
  let at = -1;
  const go = (to) => {
    container.children[at]?.classList.remove("here");
    at = Math.max(0, Math.min(to, container.children.length - 1));
    container.children[at].classList.add("here");
    tell(container.children[at], container.tokens[at]);
    find("#live").textContent = `${container.tokens[at][0]} ${percent(container.tokens[at][1])}`;
  };
  container.onkeydown = ({ key }) => key === "ArrowRight" ? go(at + 1) : key === "ArrowLeft" ? go(at - 1) : null;
  container.onpointerover = ({ target }) => target.dataset.at && tell(target, container.tokens[target.dataset.at]);
  container.onpointerleave = container.onblur = hideTip;
}

export const hideTip = () => find("#tip").hidePopover();
const percent = (logprob) => `${number(100 * Math.exp(logprob), 1)} %`;
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "␣") || "·";

function tell(element, [text, logprob, tops]) {
  const rows = tops.some(([top]) => top === text) ? tops : [[text, logprob], ...tops];
  const row = ([top, value]) => make("tr", { class: top === text && "chosen" }, make("td", {}, visible(top)),
    make("td", {}, make("meter", { value: Math.exp(value), "aria-hidden": "true" })), make("td", {}, percent(value)));
  const [tip, box] = [find("#tip"), element.getBoundingClientRect()];
  tip.replaceChildren(make("table", {}, ...rows.map(row)));
  tip.showPopover();
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${box.bottom + tip.offsetHeight + 8 < innerHeight ? box.bottom + 6 : box.top - tip.offsetHeight - 6}px`;
}
