// One answer as it comes: its text, its tokens, how fast it was, how it ended, and what a screen reader hears of it.
import { stream } from "./api.js";
import { find } from "./dom.js";
import { readTokens } from "./tokens.js";
import { t } from "./words.js";

const LIKELIEST = 5; // tokens of each place that are asked for
const HEARD_EVERY = 2500; // milliseconds: words that come one by one would be read one over the other

// Fills the node until the answer ends, fails or is stopped; `changed` is called at most once a frame.
export async function ask(body, node, probabilities, signal, changed) {
  const chat = "messages" in body;
  const wanted = chat ? { logprobs: true, top_logprobs: LIKELIEST } : { logprobs: LIKELIEST };
  Object.assign(node, { text: "", model: body.model, tokens: probabilities ? [] : undefined, stats: undefined });
  Object.assign(node, { error: undefined, reason: undefined });
  const [take, soon, say] = [taker(node), oncePerFrame(changed), speaker(node)];
  try {
    const path = chat ? "v1/chat/completions" : "v1/completions";
    for await (const chunk of stream(path, { ...body, ...(probabilities && wanted) }, signal)) {
      take(chunk);
      soon();
      say();
    }
    node.reason ??= "stop";
  } catch (error) {
    if (signal.aborted) node.reason = "stopped";
    else node.error = { kind: error.kind ?? "refused", message: error.message, wait: error.wait ?? 0 };
  }
  say(true);
}

// Takes chunks into the node, and measures: seconds to the first token, and tokens a second from there on.
function taker(node) {
  const [began, decoder] = [performance.now(), new TextDecoder()];
  let [first, count] = [0, 0];
  return ({ choices: [choice], usage }) => {
    const now = performance.now();
    const text = choice?.delta?.content ?? choice?.text ?? "";
    if (text) [first, count] = [first || now, count + 1];
    node.text += text;
    node.tokens?.push(...readTokens(choice?.logprobs, decoder));
    node.reason = choice?.finish_reason ?? node.reason;
    const tokens = usage?.completion_tokens ?? count;
    const rate = now > first && tokens > 1 ? (tokens - 1) / ((now - first) / 1000) : undefined;
    node.stats = { tokens, rate, first: first && (first - began) / 1000 };
  };
}

function oncePerFrame(call) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => ((waits = false), call()));
  };
}

// Says whole sentences, some at a time.
function speaker(node) {
  let [heard, last] = [0, performance.now()];
  return (done = false) => {
    if (!done && performance.now() - last < HEARD_EVERY) return;
    const fresh = node.text.slice(heard);
    const end = done ? fresh.length : Math.max(...[..."\n.!?。！？"].map((mark) => fresh.lastIndexOf(mark))) + 1;
    [heard, last] = [heard + end, performance.now()];
    if (end || done) find("#live").textContent = fresh.slice(0, end) + (done ? ` ${t("answerDone")}` : "");
  };
}
