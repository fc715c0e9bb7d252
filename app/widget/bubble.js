/**
 * The button below selected text that asks about it. It is loaded when a reader first selects something.
 */

import { draw, h, sheet } from "./dom.js";
import { fill, loadWords } from "./languages.js";
import { Store } from "./store.js";
import { nameOf, targetOf } from "./translation.js";

const css = `
.bubble {
  z-index: 1;
  max-inline-size: calc(100vw - 16px);
  flex-wrap: wrap;
  gap: 0;
  overflow: hidden;
  border-radius: 0.7em;
  font-size: 0.875em;
  box-shadow: 0 1px 2px #0003, 0 4px 16px #0004;
  animation: rise 0.14s ease-out;
}
.bubble button { all: unset; box-sizing: border-box; display: inline-flex; align-items: center; gap: 0.5em; padding: 0.55em 0.8em; cursor: pointer }
.bubble button:hover { background: #fff2 }
.bubble button:focus-visible { outline: 2px solid #fff; outline-offset: -4px; border-radius: 0.7em }
@keyframes rise { from { opacity: 0; transform: translateY(-4px) } }
@media (forced-colors: active) { .bubble { border: 1px solid } }
@media (prefers-reduced-motion: reduce) { .bubble { animation: none } }
`;

const QUOTE = "M5 17c2.5-1 4-3 4-6V7H4v5h4M15 17c2.5-1 4-3 4-6V7h-5v5h4";

/** What a selection never begins in, even inside the book: menus, controls, and the chat itself. */
const NOT_THE_BOOK = "nav, button, input, textarea, select, book-chat, [contenteditable]";

export class Bubble {
  #options;
  #frame = 0;
  /** @type {Range | undefined} */
  #selected;
  /** What has been asked about, so that it is not offered again. @type {Range | undefined} */
  #asked;
  #isPointerDown = false;
  #store;
  /** Offers a translation into the language of the moment. */
  #offer = () => {};

  /**
   * @param {{ root: ShadowRoot, service: string, bookSelector: () => string, onAsk: (selected: Range | undefined, request?: string) => void }} options
   */
  constructor(options) {
    this.#options = options;
    this.#store = new Store(options.service);
    options.root.adoptedStyleSheets.push(sheet(css));
    this.element = h("div", { class: "bubble", role: "group", hidden: true });
    // A press would take the selection away before it is read.
    this.element.addEventListener("pointerdown", (event) => event.preventDefault());
    this.element.addEventListener("mousedown", (event) => event.preventDefault());
    const update = () => this.#update();
    document.addEventListener("selectionchange", update);
    document.addEventListener("scroll", update, { capture: true, passive: true });
    addEventListener("resize", update, { passive: true });
    document.addEventListener("keydown", ({ key }) => {
      if (key === "Escape") this.element.hidden = true;
    });
  }

  /** Speaks this language. @param {string} lang */
  async speak(lang) {
    const { words } = await loadWords(lang);
    /** @param {string} text @param {boolean} [isRequest]  whether this is asked at once */
    const button = (text, isRequest = true) => {
      const onclick = () => this.#ask(isRequest ? (own.textContent ?? "") : undefined);
      const own = h("button", { type: "button", onclick }, text);
      return own;
    };
    const own = [words.explainText, words.simplifyText, words.translateText].map((text) => button(text));
    this.#offer = () => {
      const target = targetOf({ chosen: this.#store.about?.language, lang });
      const text = target ? fill(words.translateInto, { language: nameOf(target, lang) }) : words.translateText;
      own[2].textContent = text;
    };
    const ask = button(words.askAbout, false);
    ask.prepend(draw("quote", QUOTE));
    this.element.setAttribute("aria-label", words.excerpt);
    this.element.replaceChildren(ask, ...own);
    this.#update();
  }

  /** While the selection is being drawn, the button would be in its way. @param {boolean} isDown */
  press(isDown) {
    this.#isPointerDown = isDown;
    this.#update();
  }

  #update() {
    if (document.getSelection()?.isCollapsed) this.#asked = undefined;
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#place());
  }

  #place() {
    this.#selected = this.#isPointerDown ? undefined : selectionInBook(this.#options.bookSelector());
    const line = lastLineInView(this.#selected);
    const isAsked = this.#asked && this.#selected && isSame(this.#asked, this.#selected);
    if (this.element.hidden && line) this.#offer();
    this.element.hidden = !line || Boolean(isAsked) || !this.element.hasChildNodes();
    if (!line || isAsked) return;
    const { style } = this.element;
    style.left = "0"; // Near the window's edge it would be narrower.
    const { offsetWidth, offsetHeight } = this.element;
    const middle = line.left + line.width / 2 - offsetWidth / 2;
    // Beside the open chat rather than on it, where there is room.
    const chat = this.#options.root.querySelector("dialog[open]")?.getBoundingClientRect();
    const end = chat && chat.left > line.left ? chat.left : document.documentElement.clientWidth;
    style.left = `${Math.max(8, Math.min(Math.max(line.left, middle), end - offsetWidth - 8))}px`;
    style.top = `${Math.min(line.bottom + 10, innerHeight - offsetHeight - 8)}px`;
  }

  /** @param {string} [request] */
  #ask(request) {
    this.element.hidden = true;
    this.#asked = this.#selected;
    this.#options.onAsk(this.#selected, request);
  }
}

/**
 * Returns the selection, or the part of it that is in the book; undefined if there is none.
 * @param {string} selector  which elements are the book
 */
function selectionInBook(selector) {
  const selection = document.getSelection();
  if (!selection?.anchorNode || selection.isCollapsed || !selection.toString().trim()) return undefined;
  const { anchorNode } = selection;
  const anchor = anchorNode instanceof Element ? anchorNode : anchorNode.parentElement;
  const range = selection.getRangeAt(0).cloneRange();
  const own = anchor?.closest(selector);
  if (own && anchor?.closest(NOT_THE_BOOK)) return undefined;
  // Who selects all the page begins outside.
  const parts = own ? [own] : [...document.querySelectorAll(selector)].filter((part) => range.intersectsNode(part));
  const [first, last] = [parts[0], parts.at(-1)];
  if (!first || !last) return undefined;
  if (!first.contains(range.startContainer)) range.setStart(first, 0);
  if (!last.contains(range.endContainer)) range.setEnd(last, last.childNodes.length);
  return range.toString().trim() ? range : undefined;
}

/** Returns the last line of the selection that is on the screen. @param {Range | undefined} range */
function lastLineInView(range) {
  return [...(range?.getClientRects() ?? [])].findLast(
    ({ width, top, bottom }) => width > 0 && bottom > 0 && top < innerHeight,
  );
}

/** @param {Range} one @param {Range} other */
function isSame(one, other) {
  const { START_TO_START, END_TO_END } = Range;
  return [START_TO_START, END_TO_END].every((how) => one.compareBoundaryPoints(how, other) === 0);
}
