// A small, safe Markdown: text to DOM nodes, without HTML. What it does not know stays as it was written.

import { copyText, h, iconButton } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.+?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+)(.*)$/;
const QUOTE = /^ {0,3}>\s?/;
const TABLE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$|^\s*\|\s*:?-+:?\s*\|\s*$/;
const INLINE =
  /(?<ticks>`+)(?<code>[^`]|[^`][\s\S]*?[^`])\k<ticks>(?!`)|\*\*(?=\S)(?<bold>[\s\S]*?\S)\*\*|__(?=\S)(?<bold2>[\s\S]*?\S)__(?!\w)|(?<![\w*])\*(?=[^\s*])(?<italic>[^*\n]*?[^\s*])\*(?!\*)|(?<![\w_])_(?=[^\s_])(?<italic2>[^_\n]*?[^\s_])_(?!\w)|~~(?=\S)(?<struck>.*?\S)~~|\[(?<label>[^\]\n]+)\]\((?<target>[^\s()]+(?:\([^\s()]*\)[^\s()]*)*)\)|(?<url>https?:\/\/[^\s<>"'`)\]]*[^\s<>"'`)\].,;:!?])|\\(?<escaped>[\\`*_{}[\]()#+\-.!|>~])/gu;

/** Markdown in an element. `update` keeps the nodes of all blocks that did not change: while text streams in, all but the last. */
export class Markdown {
  #blocks = [];

  constructor(element) {
    this.element = element;
  }

  update(text) {
    const blocks = split(text);
    for (const [index, block] of blocks.entries()) {
      const old = this.#blocks[index];
      if (old?.kind === block.kind && old.source === block.source) {
        block.node = old.node;
        continue;
      }
      if (old?.kind === "code" && block.kind === "code" && old.language === block.language) {
        block.node = old.node;
        block.node.querySelector("code").textContent = block.body;
        continue;
      }
      block.node = BUILD[block.kind](block);
      if (old) old.node.replaceWith(block.node);
      else this.element.append(block.node);
    }
    for (const old of this.#blocks.slice(blocks.length)) old.node.remove();
    this.#blocks = blocks;
  }
}

function render(text) {
  const part = new Markdown(document.createDocumentFragment());
  part.update(text);
  return part.element;
}

/** The blocks of a text, each with its source lines. */
function split(text) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  const takeWhile = (test) => {
    const start = at;
    at += 1;
    while (at < lines.length && test(lines[at], at)) at += 1;
    return lines.slice(start, at).join("\n");
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      const end = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
      let source = takeWhile((next) => !end.test(next));
      const body = source.slice(line.length + 1);
      if (at < lines.length) source += `\n${lines[at++]}`;
      blocks.push({ kind: "code", source, body, language: fence[2] });
    } else if (HEADING.test(line)) {
      blocks.push({ kind: "heading", source: takeWhile(() => false) });
    } else if (RULE.test(line)) {
      blocks.push({ kind: "rule", source: takeWhile(() => false) });
    } else if (QUOTE.test(line)) {
      blocks.push({ kind: "quote", source: takeWhile((next) => QUOTE.test(next)) });
    } else if (line.includes("|") && TABLE.test(lines[at + 1] ?? "")) {
      blocks.push({ kind: "table", source: takeWhile((next) => next.includes("|")) });
    } else if (ITEM.test(line)) {
      blocks.push({
        kind: "list",
        source: takeWhile((next, i) =>
          next.trim() ? ITEM.test(next) || /^\s{2,}/.test(next) : /^\s{2,}\S/.test(lines[i + 1] ?? "") || ITEM.test(lines[i + 1] ?? ""),
        ),
      });
    } else {
      blocks.push({ kind: "paragraph", source: takeWhile((next) => next.trim() && !startsBlock(next)) });
    }
  }
  return blocks;
}

const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

const BUILD = {
  paragraph: ({ source }) => h("p", {}, inline(source)),
  rule: () => h("hr"),
  heading({ source }) {
    const [, marks, text] = HEADING.exec(source);
    // The page has headings of its own above these.
    return h(`h${Math.min(6, marks.length + 2)}`, {}, inline(text));
  },
  quote: ({ source }) => h("blockquote", {}, render(source.replace(new RegExp(QUOTE, "gm"), ""))),
  list: ({ source }) => list(source.split("\n")),
  table({ source }) {
    const [head, , ...rows] = source.split("\n").map(cells);
    return h(
      "div",
      { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ...head.map((cell) => h("th", { scope: "col" }, inline(cell))))),
        h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, inline(cell)))))),
      ),
    );
  },
  code({ body, language }) {
    const code = h("code", {}, body);
    const copy = iconButton("copy", "Copy code", () => copyText(code.textContent, copy));
    return h(
      "figure",
      { class: "code" },
      h("figcaption", {}, h("span", {}, language || "code"), copy),
      h("pre", { tabindex: "0" }, code),
    );
  },
};

const cells = (line) =>
  line
    .trim()
    .replace(/^\||\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));

/** A list of the first line's depth; what is indented further belongs to the item above it. */
function list(lines) {
  const [, indent, marker] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(marker);
  const items = [];
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= indent.length + 1) {
      items.push({ width: found[1].length + found[2].length + found[3].length, lines: [found[4]] });
    } else {
      const item = items.at(-1);
      item.lines.push(line.slice(Math.min(item.width, line.search(/\S|$/))));
    }
  }
  const start = ordered && parseInt(marker, 10) !== 1 ? parseInt(marker, 10) : null;
  return h(ordered ? "ol" : "ul", { start }, ...items.map((item) => h("li", {}, tight(render(item.lines.join("\n"))))));
}

/** An item of one paragraph, with or without a list below it, stands without the paragraph's distances. */
function tight(fragment) {
  const first = fragment.firstElementChild;
  const paragraphs = [...fragment.children].filter((child) => child.tagName === "P");
  if (first && first === paragraphs[0] && paragraphs.length === 1) first.replaceWith(...first.childNodes);
  return fragment;
}

function inline(text) {
  const nodes = document.createDocumentFragment();
  let done = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.append(text.slice(done, match.index), span(match));
    done = match.index + match[0].length;
  }
  nodes.append(text.slice(done));
  return nodes;
}

function span(match) {
  const { code, bold, bold2, italic, italic2, struck, label, target, url, escaped } = match.groups;
  if (code !== undefined) return h("code", {}, code.replace(/^ (.*\S.*) $/s, "$1"));
  if (bold ?? bold2) return h("strong", {}, inline(bold ?? bold2));
  if (italic ?? italic2) return h("em", {}, inline(italic ?? italic2));
  if (struck) return h("del", {}, inline(struck));
  if (label) return link(target, inline(label)) ?? match[0];
  if (url) return link(url, url) ?? url;
  return escaped;
}

function link(target, content) {
  if (!/^(https?:|mailto:)/i.test(target) || !URL.canParse(target)) return null;
  return h("a", { href: target, target: "_blank", rel: "noopener noreferrer" }, content);
}
