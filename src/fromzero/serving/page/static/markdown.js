// Markdown to elements. What is written is hostile: only the elements below are made, all text is set as text, links
// go to http(s) and mail only, a picture becomes a link (fetching it would tell where the reader is), and no pattern
// takes more than linear time. Blocks that are as they were are kept, so that a growing answer is cheap to show.
import { button, copy, make } from "./dom.js";
import { t } from "./words.js";

const TAGS = { "**": "strong", __: "strong", "~~": "del" };
const DEEPEST = 8; // quotes in lists in quotes ..., emphasis in emphasis
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3}(?:[-*+]|(\d{1,9})[.)])(?: {1,4}|$))(.*)$/;
const INLINE = /\\([!-/:-@[-`{-~])|(`+)|(\*\*\*|\*\*|\*|__|_|~~)|(!?\[)|(https?:\/\/[^\s<>()"'，。；、）]+)|(\n)/g;
const LINK = /!?\[([^[\]]*)\]\(\s*<?((?:[^\s<>()]|\([^\s<>()]*\))*)>?[^()\n]*\)/y;
export function showMarkdown(container, text) {
  const blocks = parse(text.split("\n"), 0);
  const same = blocks.findIndex(({ source }, at) => source !== container.sources?.[at]);
  const kept = same < 0 ? blocks.length : same;
  while (container.childNodes.length > kept) container.lastChild.remove();
  container.append(...blocks.slice(kept).map(({ build }) => build()));
  container.sources = blocks.map((block) => block.source);
}

// The blocks of some lines: what each is made from, and how.
function parse(lines, depth) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    const [end, build] = depth < DEEPEST ? nextBlock(lines, at, depth) : paragraph(lines, at, lines.length);
    if (lines[at].trim()) blocks.push({ source: lines.slice(at, end).join("\n"), build });
    at = end;
  }
  return blocks;
}

function nextBlock(lines, at, depth) {
  const [line, fence, heading] = [lines[at], FENCE.exec(lines[at]), HEADING.exec(lines[at])];
  if (!line.trim()) return [at + 1];
  if (fence) return fenced(lines, at, fence);
  // The page has a heading of its own above these.
  if (heading) return [at + 1, () => make(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2]))];
  if (RULE.test(line)) return [at + 1, () => make("hr")];
  if (QUOTE.test(line)) {
    const end = whileTrue(lines, at, (l) => QUOTE.test(l));
    const inner = lines.slice(at, end).map((l) => l.replace(QUOTE, ""));
    return [end, () => make("blockquote", {}, ...built(inner, depth))];
  }
  if (ITEM.test(line)) return listed(lines, at, depth);
  if (line.includes("|") && isTableRule(lines[at + 1])) return table(lines, at);
  return paragraph(lines, at, whileTrue(lines, at + 1, (l, i) => l.trim() && !begins(l) && !isTableRule(lines[i + 1])));
}

const built = (lines, depth) => parse(lines, depth + 1).map(({ build }) => build());
const begins = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));
const paragraph = (lines, at, end) => [end, () => make("p", { dir: "auto" }, ...inline(lines.slice(at, end).join("\n")))];

function whileTrue(lines, at, holds) {
  while (at < lines.length && holds(lines[at], at)) at += 1;
  return at;
}

function fenced(lines, at, [, mark, language]) {
  const closing = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  const end = whileTrue(lines, at + 1, (line) => !closing(line));
  const code = lines.slice(at + 1, end).join("\n");
  return [Math.min(end + 1, lines.length), () => codeBlock(code, language)];
}

function codeBlock(code, language) {
  const control = button("copy", t("copyCode"), () => copy(code, control));
  const head = make("div", { class: "code-head" }, make("span", {}, language || t("code")), control);
  const body = make("pre", { tabindex: "0", "aria-label": t("code") }, make("code", {}, code));
  return make("div", { class: "code", dir: "ltr" }, head, body);
}

function listed(lines, at, depth) {
  const [items, first] = [[], ITEM.exec(lines[at])];
  let width = 0;
  const belongs = (line, i) => {
    const item = ITEM.exec(line);
    const inside = !line.trim() || line.search(/\S/) >= width;
    if (item && !(inside && width) && !item[2] === !first[2]) {
      width = item[1].length;
      items.push([item[3]]);
      return true;
    }
    const goesOn = inside || (lines[i - 1].trim() && !begins(line));
    if (goesOn) items.at(-1).push(line.slice(Math.min(width, line.search(/\S|$/))));
    return goesOn;
  };
  const end = whileTrue(lines, at, belongs);
  const start = first[2] && first[2] !== "1" ? Number(first[2]) : null;
  const row = (item) => make("li", { dir: "auto" }, ...tight(built(item, depth)));
  return [end, () => make(first[2] ? "ol" : "ul", { start }, ...items.map(row))];
}

// The first paragraph of an item needs no room of its own.
const tight = ([head, ...rest]) => (head?.tagName === "P" ? [...head.childNodes, ...rest] : head ? [head, ...rest] : []);

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
const isTableRule = (line) => line?.includes("-") && line.includes("|") && cells(line).every((cell) => /^:?-+:?$/.test(cell));

function table(lines, at) {
  const end = whileTrue(lines, at + 2, (line) => line.includes("|"));
  const sides = cells(lines[at + 1]).map((c) => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : null));
  const cell = (tag) => (c, i) => make(tag, { class: sides[i] }, ...inline(c));
  const row = (tag, line) => make("tr", {}, ...cells(line).slice(0, sides.length).map(cell(tag)));
  const body = () => lines.slice(at + 2, end).map((line) => row("td", line));
  const build = () => make("table", {}, make("thead", {}, row("th", lines[at])), make("tbody", {}, ...body()));
  return [end, () => make("div", { class: "scroll", tabindex: "0" }, build())];
}

// Nodes of a run of text. `missing` holds marks that have no closing one any more: each is looked for once.
function inline(text, depth = 0) {
  const [nodes, missing] = [[], new Set()];
  let from = 0;
  const pattern = new RegExp(INLINE);
  for (let found; (found = pattern.exec(text)); ) {
    const [made, end] = span(text, found, missing, depth) ?? [];
    if (made == null) continue;
    nodes.push(text.slice(from, found.index), made);
    from = pattern.lastIndex = end;
  }
  return [...nodes, text.slice(from)];
}

// What begins at a mark, and where it ends; nothing where the mark is only a character.
function span(text, found, missing, depth) {
  const [whole, escaped, ticks, mark, bracket, address, line] = found;
  const start = found.index + whole.length;
  if (escaped) return [escaped, start];
  if (line) return [make("br"), start];
  if (address) {
    const trimmed = address.replace(/[.,;:!?*_~]+$/, "");
    return [link(trimmed, [trimmed]), found.index + trimmed.length];
  }
  if (bracket) {
    LINK.lastIndex = found.index;
    const [all, label, target] = LINK.exec(text) ?? [];
    return all && [link(target, depth < DEEPEST ? inline(label || target, depth + 1) : [label]), found.index + all.length];
  }
  const inWord = mark?.[0] === "_" && /[\p{L}\p{N}]/u.test(text[found.index - 1] ?? "");
  if (depth >= DEEPEST || missing.has(whole) || (mark && (inWord || !/\S/.test(text[start])))) return undefined;
  const end = closing(text, whole, start);
  if (end < 0) return void missing.add(whole);
  if (ticks) return [make("code", {}, text.slice(start, end).replace(/^ (.+) $/, "$1")), end + whole.length];
  return [emphasis(mark, inline(text.slice(start, end), depth + 1)), end + whole.length];
}

function closing(text, mark, from) {
  const fits = (at) => mark[0] === "`" || /\S/.test(text[at - 1]);
  const alone = (at) => text[at + mark.length] !== mark[0] && (text[at - 1] !== mark[0] || mark.length > 1);
  let at = text.indexOf(mark, from + 1);
  while (at >= 0 && !(fits(at) && alone(at))) at = text.indexOf(mark, at + 1);
  return at;
}

const emphasis = (mark, inner) =>
  mark === "***" ? make("strong", {}, make("em", {}, ...inner)) : make(TAGS[mark] ?? "em", {}, ...inner);

function link(target, label) {
  const safe = /^(https?:\/\/|mailto:)/i.test(target) && URL.canParse(target);
  if (!safe) return make("span", { title: target }, ...label);
  return make("a", { href: target, title: target, target: "_blank", rel: "noopener noreferrer nofollow" }, ...label);
}
