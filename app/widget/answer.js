/**
 * An answer's Markdown as DOM nodes. What a model writes never becomes HTML: tags are shown as text, images as their description,
 * and links lead to web and mail addresses only. Nothing in an answer makes the browser fetch anything.
 */

import { announced } from "./announcement.js";
import { h } from "./dom.js";
import { icon, iconButton } from "./icons.js";
import { fill } from "./languages.js";
import { describe, markedAddress } from "./passage.js";
import { Lexer, Marked } from "./vendor/marked.js";

/** @import { MarkedToken, Token, Tokens } from "./vendor/marked.js" */
/** @import { Source } from "./service.js" */
/** @import { Words } from "./languages.js" */

/** @typedef {{ type: "math", raw: string, text: string, isDisplay: boolean }} MathToken */

const INLINE_MATH = [
  { pattern: /^\$\$((?:\\.|[^\\$])+?)\$\$/, isDisplay: true },
  { pattern: /^\\\[([\s\S]+?)\\\]/, isDisplay: true },
  { pattern: /^\\\(([\s\S]+?)\\\)/, isDisplay: false },
  // As in Pandoc: "$5 and $10" is money.
  { pattern: /^\$(?!\s)((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d)/, isDisplay: false },
];
// The end of a formula that is still being written is the end of the text.
const BLOCK_MATH = [
  /^ {0,3}\$\$((?:\\.|[^\\$])+?)(?:\$\$[ \t]*(?:\n+|$)|\\?$)/,
  /^ {0,3}\\\[([\s\S]+?)(?:\\\][ \t]*(?:\n+|$)|\\?$)/,
  /^ {0,3}(?:\$\$|\\\[)(\s*)$/,
];

const marked = new Marked({
  extensions: [
    {
      name: "math",
      level: "inline",
      start: (text) => text.match(/\$|\\[[(]/)?.index,
      tokenizer(text) {
        for (const { pattern, isDisplay } of INLINE_MATH) {
          const found = text.match(pattern);
          if (found) return { type: "math", raw: found[0], text: found[1], isDisplay };
        }
        return undefined;
      },
    },
    {
      name: "blockMath",
      level: "block",
      start: (text) => text.match(/(?<=\n) {0,3}(?:\$\$|\\\[)/)?.index,
      tokenizer(text) {
        for (const pattern of BLOCK_MATH) {
          const found = text.match(pattern);
          if (found) return { type: "math", raw: found[0], text: found[1], isDisplay: true };
        }
        return undefined;
      },
    },
  ],
});

/** @type {Record<string, string>} */
const ENTITIES = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
  hellip: "…",
  ndash: "–",
  mdash: "—",
  times: "×",
  deg: "°",
  middot: "·",
  copy: "©",
  rarr: "→",
  larr: "←",
  le: "≤",
  ge: "≥",
};

/** One block of the text, and its node on the page; a blank line has none. */
/** @typedef {{ token: Token, node: HTMLElement | null }} Block */

export class Answer {
  /** @type {Block[]} */
  #blocks = [];
  #text = "";
  /** @type {Map<number, Source>} */
  #sources = new Map();
  #links = "";

  /**
   * @param {HTMLElement} element  where the answer is shown
   * @param {{ words: Words, onVisit: (event: MouseEvent, url: URL) => void, keepLevels?: boolean }} options
   *   `onVisit` is called before a link is followed; the text's headings keep their levels with `keepLevels`;
   *   on a page that has others they are all of the third, since nobody knows with which level a text begins
   */
  constructor(element, { words, onVisit, keepLevels = false }) {
    this.element = element;
    this.words = words;
    this.onVisit = onVisit;
    this.keepLevels = keepLevels;
  }

  /** The text that is shown. */
  get text() {
    return this.#text;
  }

  /**
   * Sets what the `[n]` of the text lead to.
   * @param {Source[]} sources
   */
  cite(sources) {
    this.#sources = new Map(sources.filter(({ url }) => safeUrl(url)).map((source) => [source.number, source]));
    this.#reset();
  }

  /**
   * Shows this text. If it begins with what is shown already, only what has changed is drawn again.
   * @param {string} text
   * @returns {void}
   */
  show(text) {
    if (!text.startsWith(this.#text)) this.#reset();
    this.#text = text;
    // The last two blocks can still change with what follows, such as a line that becomes a heading. What is before them stays.
    let kept = this.#blocks.length;
    for (let changeable = 0; kept > 0 && changeable < 2; kept--) {
      if (this.#blocks[kept - 1].token.type !== "space") changeable++;
    }
    const offset = this.#blocks.slice(0, kept).reduce((sum, { token }) => sum + token.raw.length, 0);
    const tokens = new Lexer({ ...marked.defaults }).lex(text.slice(offset));
    // A definition of a link may change what is long before it.
    const links = JSON.stringify(tokens.links);
    if (links !== this.#links && links !== "{}" && offset > 0) {
      this.#links = links;
      this.#reset();
      return this.show(text);
    }
    this.#links = links;
    this.#replace(kept, tokens);
  }

  #reset() {
    this.#blocks = [];
    this.#text = "";
    this.element.replaceChildren();
  }

  /** @param {number} kept @param {Token[]} tokens */
  #replace(kept, tokens) {
    const old = this.#blocks.splice(kept);
    for (const [index, token] of tokens.entries()) {
      const before = old[index];
      const node = before && before.token.raw === token.raw ? before.node : this.#redraw(before, token);
      this.#blocks.push({ token, node });
      if (node !== before?.node) {
        if (before?.node && node) before.node.replaceWith(node);
        else if (node) this.element.insertBefore(node, nextNode(old, index + 1));
        else before?.node?.remove();
      }
    }
    for (const { node } of old.slice(tokens.length)) node?.remove();
  }

  /**
   * Returns the block's node: the old one, where only its end has changed.
   * @param {Block | undefined} before @param {Token} token
   */
  #redraw(before, token) {
    const [old, now] = [/** @type {MarkedToken | undefined} */ (before?.token), /** @type {MarkedToken} */ (token)];
    if (
      before?.node &&
      old?.type === "code" &&
      now.type === "code" &&
      old.lang === now.lang &&
      isFenced(old) === isFenced(now)
    ) {
      const code = /** @type {HTMLElement} */ (before.node.querySelector("code"));
      code.textContent = now.text;
      return before.node;
    }
    if (
      before?.node &&
      old?.type === "list" &&
      now.type === "list" &&
      old.ordered === now.ordered &&
      old.loose === now.loose
    ) {
      const items = [...before.node.children];
      const same = old.items.findIndex((item, index) => item.raw !== now.items[index]?.raw);
      const first = same === -1 ? old.items.length : same;
      for (const item of items.slice(first)) item.remove();
      before.node.append(...now.items.slice(first).map((item) => this.#item(item)));
      return before.node;
    }
    return this.#block(token);
  }

  /**
   * @param {Token} token
   * @returns {HTMLElement | null}
   */
  #block(token) {
    const known = /** @type {MarkedToken | MathToken} */ (token);
    switch (known.type) {
      case "heading": {
        const tag = /** @type {"h3"} */ (this.keepLevels ? `h${known.depth}` : "h3");
        return h(tag, { class: `depth${known.depth}`, dir: "auto" }, this.#inline(known.tokens));
      }
      case "paragraph":
        return h("p", { dir: "auto" }, this.#inline(known.tokens));
      case "text":
        return h("span", {}, this.#inline(known.tokens ?? [known]));
      case "code":
        return this.#code(known);
      case "blockquote":
        return h("blockquote", { dir: "auto" }, ...known.tokens.map((child) => this.#block(child)));
      case "list":
        return this.#list(known);
      case "table":
        return this.#table(known);
      case "hr":
        return h("hr");
      case "math":
        return formula(known, this.words);
      case "html":
        return known.raw.trim() ? h("p", { dir: "auto" }, known.raw.trim()) : null;
      case "space":
      case "def":
      case "checkbox":
        return null;
      default:
        return h("p", { dir: "auto" }, token.raw);
    }
  }

  /** @param {Tokens.Code} token */
  #code(token) {
    const code = h("code", {}, token.text);
    const pre = h("pre", { dir: "ltr", tabindex: 0, role: "region", "aria-label": this.words.code }, code);
    const language = token.lang?.match(/^[\w+#.-]+/)?.[0] ?? "";
    const copy = copyButton(() => code.textContent ?? "", this.words);
    return h(
      "div",
      { class: "code", dir: "ltr" },
      h("div", { class: "code-head" }, h("span", {}, language), copy),
      pre,
    );
  }

  /** @param {Tokens.List} token */
  #list(token) {
    const items = token.items.map((item) => this.#item(item));
    const start = token.ordered && token.start !== 1 ? token.start : undefined;
    return h(token.ordered ? "ol" : "ul", { dir: "auto", start }, ...items);
  }

  /** @param {Tokens.ListItem} item */
  #item(item) {
    const box = item.task ? `${item.checked ? "☑" : "☐"} ` : null;
    return h("li", { class: item.task ? "task" : undefined }, box, ...item.tokens.map((child) => this.#block(child)));
  }

  /** @param {Tokens.Table} token */
  #table({ header, rows }) {
    /** @param {Tokens.TableCell} cell @param {"td" | "th"} tag */
    const cellOf = (cell, tag) =>
      h(tag, { class: cell.align ?? undefined, scope: tag === "th" ? "col" : undefined }, this.#inline(cell.tokens));
    const head = h("tr", {}, ...header.map((cell) => cellOf(cell, "th")));
    const body = rows.map((row) => h("tr", {}, ...row.map((cell) => cellOf(cell, "td"))));
    const table = h("table", { dir: "auto" }, h("thead", {}, head), h("tbody", {}, ...body));
    return h("div", { class: "table", tabindex: 0, role: "region", "aria-label": this.words.table }, table);
  }

  /**
   * @param {Token[]} tokens
   * @returns {DocumentFragment}
   */
  #inline(tokens) {
    const fragment = document.createDocumentFragment();
    for (const token of tokens) fragment.append(this.#span(token));
    return fragment;
  }

  /**
   * @param {Token} token
   * @returns {Node}
   */
  #span(token) {
    const known = /** @type {MarkedToken | MathToken} */ (token);
    switch (known.type) {
      case "text":
        return "tokens" in known && known.tokens ? this.#inline(known.tokens) : this.#cited(decoded(known.text));
      case "escape":
        return new Text(known.text);
      case "strong":
      case "em":
      case "del":
        return h(known.type, {}, this.#inline(known.tokens));
      case "codespan":
        return h("code", { dir: "ltr" }, known.text);
      case "br":
        return h("br");
      case "image":
        return new Text(decoded(known.text));
      case "link":
        return this.#link(known);
      case "math":
        return formula(known, this.words);
      case "html":
        return /^<br\s*\/?>$/i.test(known.raw) ? h("br") : new Text(known.raw);
      default:
        return new Text(token.raw);
    }
  }

  /** @param {Tokens.Link} token */
  #link(token) {
    const number = Number(token.raw.match(/^\[(\d+)\]$/)?.[1]);
    const source = this.#sources.get(number);
    if (source) return this.#citation(source);
    const url = safeUrl(decoded(token.href));
    if (!url) return this.#inline(token.tokens);
    return link(url, { title: decoded(token.title ?? "") || undefined }, this.onVisit, this.#inline(token.tokens));
  }

  /**
   * Returns the text, in which `[n]` leads to the source of this number.
   * @param {string} text
   */
  #cited(text) {
    const fragment = document.createDocumentFragment();
    let end = 0;
    for (const found of text.matchAll(/\s?\[(\d{1,3})\]/g)) {
      const source = this.#sources.get(Number(found[1]));
      if (!source) continue;
      fragment.append(text.slice(end, found.index), this.#citation(source));
      end = found.index + found[0].length;
    }
    fragment.append(text.slice(end));
    return fragment;
  }

  /** @param {Source} source */
  #citation(source) {
    const { number, title } = source;
    const label = fill(this.words.source, { number, title });
    const properties = { class: "citation", "aria-label": label, title: source.snippet ? undefined : title };
    return sourceLink(source, properties, this.onVisit, String(number));
  }
}

/**
 * Returns a link to a source with a safe address. Its passage is shown beside it, and is marked on its page.
 * @param {Source} source @param {Record<string, unknown>} properties @param {(event: MouseEvent, url: URL) => void} onVisit
 * @param {...(Node | string)} children
 */
export function sourceLink({ url, title, snippet }, properties, onVisit, ...children) {
  const address = /** @type {URL} */ (safeUrl(url));
  const anchor = link(address, { ...properties, href: markedAddress(address, snippet) }, onVisit, ...children);
  if (snippet) describe(anchor, snippet, properties.class === "citation" ? title : null);
  return anchor;
}

/**
 * Returns a link. One to another site opens beside the book, and does not tell that site where it was.
 * @param {URL} url @param {Record<string, unknown>} properties @param {(event: MouseEvent, url: URL) => void} onVisit
 * @param {...(Node | string)} children
 */
export function link(url, properties, onVisit, ...children) {
  const elsewhere = url.origin === location.origin ? {} : { target: "_blank", rel: "noopener noreferrer nofollow" };
  /** @param {MouseEvent} event */
  const onclick = (event) => onVisit(event, url);
  return h("a", { href: url.href, ...elsewhere, ...properties, onclick }, ...children);
}

/**
 * Returns the address if it is one of the web or of mail.
 * @param {string} address
 */
export function safeUrl(address) {
  try {
    const url = new URL(address, document.baseURI);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url : null;
  } catch {
    return null;
  }
}

/**
 * Returns a button that copies a text. Pages without HTTPS have no clipboard.
 * @param {() => string} text @param {Words} words
 */
export function copyButton(text, words) {
  if (!navigator.clipboard) return null;
  const button = iconButton("copy", words.copy, async () => {
    const isCopied = await navigator.clipboard.writeText(text()).then(
      () => true,
      () => false,
    );
    const result = isCopied ? words.copied : words.notCopied;
    const told = announced(result, { class: isCopied ? "sr" : "not-copied" });
    button.classList.add(isCopied ? "done" : "refused");
    button.setAttribute("aria-label", result);
    button.after(told);
    setTimeout(() => {
      button.classList.remove("done", "refused");
      button.setAttribute("aria-label", words.copy);
      told.remove();
    }, 2500);
  });
  button.append(icon("check"), icon("close"));
  return button;
}

/** @param {Block[]} blocks @param {number} from */
function nextNode(blocks, from) {
  return blocks.slice(from).find(({ node }) => node?.isConnected)?.node ?? null;
}

/** @param {Tokens.Code} token */
function isFenced(token) {
  return token.codeBlockStyle !== "indented";
}

/**
 * Returns the text with its HTML entities as the characters that they mean.
 * @param {string} text
 */
function decoded(text) {
  if (!text.includes("&")) return text;
  return text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w+));/gi, (entity, decimal, hex, name) => {
    if (name) return ENTITIES[name] ?? entity;
    const code = decimal ? Number(decimal) : Number.parseInt(hex, 16);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : entity;
  });
}

/** @type {typeof import("./vendor/temml.js").default | undefined} */
let temml;
/** @type {Promise<void> | undefined} */
let loadingTemml;

/**
 * Returns the formula in MathML; until what makes it is loaded, and if it cannot be, its TeX.
 * @param {MathToken} token @param {Words} words
 */
function formula({ text, isDisplay }, words) {
  const element = h(
    "span",
    isDisplay
      ? { class: "formula display", dir: "ltr", tabindex: 0, role: "group", "aria-label": words.formula }
      : { class: "formula", dir: "ltr" },
  );
  if (temml) {
    draw(temml, element, text, isDisplay);
    return element;
  }
  showSource(element, text);
  loadingTemml ??= import("./vendor/temml.js").then(
    (module) => {
      temml = module.default;
    },
    () => {
      loadingTemml = undefined;
    },
  );
  loadingTemml.then(() => temml && draw(temml, element, text, isDisplay));
  return element;
}

/** @param {typeof import("./vendor/temml.js").default} renderer @param {HTMLElement} element @param {string} text @param {boolean} isDisplay */
function draw(renderer, element, text, isDisplay) {
  try {
    element.classList.remove("tex");
    renderer.render(text, element, {
      displayMode: isDisplay,
      annotate: true,
      throwOnError: true,
      trust: false,
      maxExpand: 500,
    });
  } catch {
    // TeX that is not finished, or not TeX.
    showSource(element, text);
  }
}

/** @param {HTMLElement} element @param {string} text */
function showSource(element, text) {
  element.classList.add("tex");
  element.textContent = text;
}
