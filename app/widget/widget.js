/**
 * Puts the chat into a page: `<script type="module" src="https://chat.example.org/widget.js"></script>`.
 *
 * This is what every page loads: a button in the corner that opens the chat, and one below text that is selected in the book.
 * The rest is loaded when the chat is opened. The script tag may have `data-title`, the chat's heading, and `data-selector`,
 * which says where text may be selected; by default in `article` elements, or in `main` if the page has none.
 */

import { h, icon } from "./dom.js";
import { wordsFor } from "./languages.js";

/** @import { Panel } from "./panel.js" */

const script = [...document.scripts].find(({ src }) => src === import.meta.url);

/** Where the service is: the folder of this script. */
const service = new URL(".", import.meta.url).href;

/** What a selection never begins in, even inside the book: menus, controls, and the chat itself. */
const NOT_THE_BOOK = "nav, button, input, textarea, select, book-chat, [contenteditable]";

/** The session's item that says that the chat is open, so that it still is on the next page. */
const OPEN = `book-chat ${service} open`;

const css = `
  :host {
    all: initial;
    color-scheme: inherit;
    font-family: inherit;
    --accent: var(--book-chat-accent, var(--ifm-color-primary, light-dark(#1f6feb, #58a6ff)));
    /* White stands out from every colour that is darker than this. */
    --fill: lab(from var(--accent) min(l, 44) a b);
    --surface: var(--ifm-background-surface-color, light-dark(#fff, #1b1b1d));
    --ink: var(--ifm-font-color-base, light-dark(#1c1e21, #e3e3e3));
    --layer: calc(var(--ifm-z-index-overlay, 400) + 1000);
    font-size: max(15px, 0.9375rem);
    line-height: 1.55;
  }
  :host(:lang(ur)) { line-height: 1.9 }
  @media print { :host { display: none } }
  .launcher, .bubble {
    all: unset;
    box-sizing: border-box;
    position: fixed;
    z-index: var(--layer);
    display: inline-flex;
    align-items: center;
    gap: 0.5em;
    background: var(--fill);
    color: #fff;
    font-weight: 600;
    line-height: 1.2;
    cursor: pointer;
    user-select: none;
    -webkit-tap-highlight-color: transparent;
  }
  .launcher {
    inset-block-end: calc(1.25rem + env(safe-area-inset-bottom));
    inset-inline-end: 1.25rem;
    padding: 0.8em 1.25em 0.8em 1.05em;
    border-radius: 99px;
    box-shadow: 0 1px 2px #0003, 0 6px 20px #0004;
    transition: transform 0.15s, box-shadow 0.15s;
  }
  .launcher:dir(rtl) { padding: 0.8em 1.05em 0.8em 1.25em }
  .launcher:hover { transform: translateY(-2px); box-shadow: 0 2px 4px #0003, 0 10px 28px #0005 }
  .launcher[aria-busy=true] { cursor: progress }
  .bubble {
    z-index: calc(var(--layer) + 1);
    padding: 0.55em 0.9em;
    border-radius: 0.7em;
    font-size: 0.93em;
    box-shadow: 0 1px 2px #0003, 0 4px 16px #0004;
    animation: rise 0.14s ease-out;
  }
  .bubble:hover { filter: brightness(1.07) }
  .launcher:focus-visible, .bubble:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px }
  .load-problem {
    position: fixed;
    z-index: var(--layer);
    inset-block-end: calc(5rem + env(safe-area-inset-bottom));
    inset-inline-end: 1.25rem;
    max-inline-size: min(20rem, calc(100vw - 2.5rem));
    box-sizing: border-box;
    margin: 0;
    padding: 0.7em 1em;
    border-radius: 0.7em;
    background: var(--surface);
    color: var(--ink);
    box-shadow: 0 0 0 1px #8885, 0 6px 20px #0004;
  }
  .icon { inline-size: 1.35em; block-size: 1.35em; flex: none; fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linecap: round; stroke-linejoin: round }
  [hidden] { display: none !important }
  @keyframes rise { from { opacity: 0; transform: translateY(-4px) } }
  @media (forced-colors: active) { .launcher, .bubble { border: 1px solid } }
  @media (prefers-reduced-motion: reduce) { *, .launcher:hover { animation: none !important; transition: none !important; transform: none } }
`;

/** What the page has in the same corner makes room, and it stays where it is behind a chat that fills the screen. */
const pageCss = `
  .theme-back-to-top-button { inset-block-end: 5.25rem !important }
  .book-chat-modal { overflow: hidden !important }
`;

/** @param {string} text */
function sheet(text) {
  const styles = new CSSStyleSheet();
  styles.replaceSync(text);
  return styles;
}

class BookChat extends HTMLElement {
  #root = this.attachShadow({ mode: "open" });
  /** @type {Promise<Panel> | undefined} */
  #panel;
  #failures = 0;
  /** @type {Range | undefined} */
  #selected;
  /** What has been asked about, so that it is not offered again. @type {Range | undefined} */
  #asked;
  #isPointerDown = false;
  #words = wordsFor("").words;
  #launcher = h("button", { type: "button", class: "launcher", "aria-haspopup": "dialog", onclick: () => this.open() });
  #bubble = h("button", { type: "button", class: "bubble", hidden: true, onclick: () => this.#askAboutSelection() });
  #problem = h("p", { class: "load-problem", role: "alert", hidden: true });

  connectedCallback() {
    if (this.#root.adoptedStyleSheets.length > 0) return;
    this.#root.adoptedStyleSheets = [sheet(css)];
    document.adoptedStyleSheets.push(sheet(pageCss));

    const { lang, words } = wordsFor(document.documentElement.lang);
    this.#words = words;
    this.lang = lang;
    if (words.dir === "rtl") this.dir = "rtl";
    this.#launcher.append(icon("book"), words.ask);
    this.#bubble.append(icon("quote"), words.askAbout);
    this.#root.append(this.#launcher, this.#bubble, this.#problem);

    // Whoever points at the button is about to press it.
    for (const event of ["pointerenter", "focus"]) {
      this.#launcher.addEventListener(event, () => this.#load().catch(() => {}), { once: true });
    }
    // A press would take the selection away before it is read.
    this.#bubble.addEventListener("pointerdown", (event) => event.preventDefault());
    this.#bubble.addEventListener("mousedown", (event) => event.preventDefault());
    this.#watchSelection();
    if (isOpenInSession()) this.open({ isReload: true });
  }

  /**
   * Opens the chat, with this part of the page as the text to ask about.
   * @param {{ range?: Range, isReload?: boolean }} [how]
   */
  async open({ range, isReload = false } = {}) {
    this.#launcher.setAttribute("aria-busy", "true");
    this.#problem.hidden = true;
    try {
      const panel = await this.#load();
      panel.open({ range, isReload });
    } catch (error) {
      console.error(error);
      this.#problem.textContent = this.#words.errors.not_loaded;
      this.#problem.hidden = isReload;
    } finally {
      this.#launcher.removeAttribute("aria-busy");
    }
  }

  #load() {
    this.#panel ??= this.#loadPanel().catch((error) => {
      this.#panel = undefined;
      this.#failures++;
      throw error;
    });
    return this.#panel;
  }

  async #loadPanel() {
    // A browser may remember that a module could not be loaded, and not try again at the same address.
    const module = await (this.#failures === 0 ? import("./panel.js") : import(`./panel.js?${this.#failures}`));
    return new module.Panel({
      root: this.#root,
      service,
      title: script?.dataset.title,
      lang: this.lang,
      words: this.#words,
      book: () => [...document.querySelectorAll(bookSelector())],
      /** @param {boolean} isOpen */
      onToggle: (isOpen) => {
        this.#launcher.hidden = isOpen;
        rememberInSession(isOpen);
        if (!isOpen) this.#launcher.focus({ preventScroll: true });
      },
    });
  }

  #watchSelection() {
    let frame = 0;
    const update = () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => this.#placeBubble());
    };
    document.addEventListener("selectionchange", () => {
      if (document.getSelection()?.isCollapsed) this.#asked = undefined;
      update();
    });
    // While the selection is being drawn, the button would be in its way.
    for (const event of ["pointerdown", "pointerup", "pointercancel"]) {
      const onPointer = (/** @type {Event} */ pointer) => {
        // Who presses the button draws no selection, and it must still be there when the press ends.
        if (pointer.composedPath().includes(this.#bubble)) return;
        this.#isPointerDown = event === "pointerdown";
        update();
      };
      document.addEventListener(event, onPointer, { capture: true, passive: true });
    }
    document.addEventListener("scroll", update, { capture: true, passive: true });
    addEventListener("resize", update, { passive: true });
    document.addEventListener("keydown", ({ key }) => {
      if (key === "Escape") this.#bubble.hidden = true;
    });
  }

  #placeBubble() {
    this.#selected = selectionInBook();
    const box = [...(this.#selected?.getClientRects() ?? [])].findLast(({ width }) => width > 0);
    const isAsked = this.#asked && this.#selected && isSame(this.#asked, this.#selected);
    const isVisible = box && box.bottom > 0 && box.top < innerHeight && !this.#isPointerDown && !isAsked;
    this.#bubble.hidden = !isVisible;
    if (!isVisible) return;
    const { offsetWidth, offsetHeight } = this.#bubble;
    const middle = box.left + box.width / 2 - offsetWidth / 2;
    // Beside the open chat rather than on it, where there is room.
    const chat = this.#root.querySelector("dialog[open]")?.getBoundingClientRect();
    const end = chat && chat.left > box.left ? chat.left : document.documentElement.clientWidth;
    const left = Math.max(8, box.left, Math.min(middle, end - offsetWidth - 8));
    const top = Math.min(box.bottom + 10, innerHeight - offsetHeight - 8);
    this.#bubble.style.left = `${left}px`;
    this.#bubble.style.top = `${top}px`;
  }

  #askAboutSelection() {
    this.#bubble.hidden = true;
    this.#asked = this.#selected;
    this.open({ range: this.#selected });
  }
}

/** @param {Range} one @param {Range} other */
function isSame(one, other) {
  const { START_TO_START, END_TO_END } = Range;
  return [START_TO_START, END_TO_END].every((how) => one.compareBoundaryPoints(how, other) === 0);
}

function bookSelector() {
  return script?.dataset.selector ?? (document.querySelector("article") ? "article" : "main");
}

/** Returns the selection, or the part of it that is in the book; undefined if there is none. */
function selectionInBook() {
  const selection = document.getSelection();
  const anchor = selection?.anchorNode;
  if (!selection || !anchor || selection.isCollapsed || !selection.toString().trim()) return undefined;
  const element = anchor instanceof Element ? anchor : anchor.parentElement;
  const book = element?.closest(bookSelector());
  if (!book || element?.closest(NOT_THE_BOOK)) return undefined;
  const range = selection.getRangeAt(0).cloneRange();
  if (!book.contains(range.startContainer)) range.setStart(book, 0);
  if (!book.contains(range.endContainer)) range.setEnd(book, book.childNodes.length);
  return range;
}

// Storage may be forbidden: then the chat is closed on the next page.

function isOpenInSession() {
  try {
    return sessionStorage.getItem(OPEN) !== null;
  } catch {
    return false;
  }
}

/** @param {boolean} isOpen */
function rememberInSession(isOpen) {
  try {
    if (isOpen) sessionStorage.setItem(OPEN, "");
    else sessionStorage.removeItem(OPEN);
  } catch {}
}

function start() {
  if (customElements.get("book-chat")) return;
  customElements.define("book-chat", BookChat);
  document.body.append(document.createElement("book-chat"));
}

if (document.body) start();
else document.addEventListener("DOMContentLoaded", start);
