/**
 * The text of a selection, as a reader would write it down: formulas in TeX, blocks on lines of their own.
 */

const FORMULAS = ".katex, mjx-container, math";
/** What is on the page but not in the text: controls, and the links that Docusaurus and others put beside headings. */
const NOT_TEXT = "script, style, template, button, .hash-link, .headerlink";
const BLOCKS =
  "address, article, aside, blockquote, dd, details, div, dl, dt, figure, figcaption, h1, h2, h3, h4, h5, h6, hr, li, ol, p, pre, section, summary, table, tr, ul";

/**
 * Returns the text of this part of the page; a formula that is selected in part is taken whole.
 * @param {Range} selected
 */
export function textOf(selected) {
  const range = selected.cloneRange();
  const first = outermost(range.startContainer);
  const last = outermost(range.endContainer);
  if (first) {
    if (isSelected(first, range)) range.setStartBefore(first);
    else range.setStartAfter(first);
  }
  if (last) {
    if (isSelected(last, range)) range.setEndAfter(last);
    else range.setEndBefore(last);
  }
  const isCode = elementOf(range.commonAncestorContainer)?.closest("pre") !== null;
  return write(range.cloneContents(), isCode)
    .replace(/[\u200b\u2060\ufeff]/g, "")
    .replace(/[ \t]+\n/g, "\n")
    .replace(/\n{3,}/g, "\n\n")
    .trim();
}

/**
 * Whether any of the formula is selected. A selection that was made with three clicks ends where the next block begins.
 * @param {Element} element @param {Range} selected
 */
function isSelected(element, selected) {
  const part = selected.cloneRange();
  if (!element.contains(selected.startContainer)) part.setStartBefore(element);
  if (!element.contains(selected.endContainer)) part.setEndAfter(element);
  return part.toString().replace(/[\s\u200b]/g, "") !== "";
}

/** @param {Node} node */
function elementOf(node) {
  return node instanceof Element ? node : node.parentElement;
}

/**
 * Returns the formula that this node is a part of.
 * @param {Node} node
 */
function outermost(node) {
  const element = elementOf(node);
  return element?.closest(".katex-display, mjx-container") ?? element?.closest(".katex") ?? element?.closest("math");
}

/**
 * @param {Node} node
 * @param {boolean} isCode
 * @returns {string}
 */
function write(node, isCode) {
  if (node instanceof Text) return isCode ? node.data : node.data.replace(/\s+/g, " ");
  if (node instanceof Element) {
    if (node.matches(FORMULAS)) return formula(node);
    if (node.matches(NOT_TEXT)) return "";
    if (node.matches("[aria-hidden=true]") && !node.querySelector("math")) return "";
    if (node.localName === "br") return "\n";
  }
  const isPre = isCode || (node instanceof Element && node.localName === "pre");
  const text = [...node.childNodes].map((child) => write(child, isPre)).join("");
  if (!(node instanceof Element)) return text;
  if (node.matches("td, th")) return `${text.trim()}\t`;
  if (node.matches(BLOCKS)) return `\n${text.replace(/^ +/, "")}\n${node.matches("li, tr, div") ? "" : "\n"}`;
  return text;
}

/**
 * KaTeX shows a formula twice, once for the eyes and once for screen readers. Its source is what a reader means.
 * @param {Element} element
 */
function formula(element) {
  const source = element.querySelector('annotation[encoding="application/x-tex"]')?.textContent?.trim();
  if (!source) return element.textContent ?? "";
  const isDisplay = element.matches("[display=block]") || element.querySelector("[display=block]") !== null;
  return isDisplay ? `\n$$${source}$$\n` : `$${source}$`;
}
