/**
 * Puts the chat into a page: `<script type="module" src="https://chat.example.org/widget.js"></script>`.
 *
 * This is what every page loads: a button in the corner that opens the chat, and one below text that is selected in the book.
 * The rest is loaded when the chat is opened. The script tag may have `data-title`, the chat's heading, and `data-selector`,
 * which says where text may be selected; by default in `article` elements, or in `main` if the page has none. `docs/widget.md` has
 * the other attributes.
 */

import { draw, h, SMALL, sheet } from "./dom.js";
import { directionOf, labels, languageOf } from "./labels.js";
import { Theme } from "./theme.js";

/** @import { Bubble } from "./bubble.js" */
/** @import { Panel } from "./panel.js" */

const BOOK = "M12 6.5C10 5 7 4.5 3 5v13.5c4-.5 7 0 9 1.5 2-1.5 5-2 9-1.5V5c-4-.5-7 0-9 1.5Zm0 0V20";

const script = [...document.scripts].find(({ src }) => src === import.meta.url);

/** Where the service is: the folder of this script. */
const service = new URL(".", import.meta.url).href;

/** The session's item that says whether the chat is open, so that it is the same on the next page. */
const STATE = `book-chat ${service} open`;

/** What a page must not take for its own: its shortcuts are meant for those who read, not for those who write. */
const KEYS = ["keydown", "keypress", "keyup", "beforeinput", "input", "copy", "cut", "paste"];
const COMPOSING = ["compositionstart", "compositionupdate", "compositionend"];

/** What the page says of all elements is not meant for this one, which is in a place and of a size of its own. */
const css = `
  :host {
    all: initial !important;
    position: fixed !important;
    inset: 0 auto auto 0 !important;
    z-index: 2147483000 !important;
    font: medium/1.55 var(--font, sans-serif) !important;
  }
  :host(:lang(ur)) { line-height: 1.9 !important }
  @media print { :host { display: none !important } }
  .launcher, .bubble {
    all: unset;
    box-sizing: border-box;
    position: fixed;
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
    inset: auto var(--right) calc(1.3em + env(safe-area-inset-bottom)) var(--left);
    padding-block: 0.8em;
    padding-inline: 1.05em 1.25em;
    font-size: 0.9375em;
    border-radius: 99px;
    box-shadow: 0 1px 2px #0003, 0 6px 20px #0004;
    transition: transform 0.15s, box-shadow 0.15s;
  }
  .launcher:hover { transform: translateY(-2px); box-shadow: 0 2px 4px #0003, 0 10px 28px #0005 }
  .launcher[aria-busy=true] { cursor: progress }
  .launcher:focus-visible { outline: 3px solid var(--focus); outline-offset: 3px }
  .load-problem {
    position: fixed;
    inset: auto var(--right) calc(5.3em + env(safe-area-inset-bottom)) var(--left);
    max-inline-size: min(21em, 100vw - 2.6em);
    font-size: 0.9375em;
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
  @media (forced-colors: active) { .launcher { border: 1px solid } }
  @media (prefers-reduced-motion: reduce) { .launcher { transition: none !important; transform: none !important } }
`;

/** What the page has in the same corner makes room, and it stays where it is behind a chat that fills the screen. */
const pageCss = `
  .theme-back-to-top-button { inset-block-end: 5.25rem !important }
  .book-chat-modal { overflow: hidden !important }
`;

class BookChat extends HTMLElement {
  #root = this.attachShadow({ mode: "open" });
  /** @type {Promise<Panel> | undefined} */
  #panel;
  #failures = 0;
  /** @type {Bubble | undefined} */
  #bubble;
  #isPointerDown = false;
  #launcher = h("button", {
    type: "button",
    class: "launcher",
    "aria-haspopup": "dialog",
    onclick: () => this.#open(),
  });
  #problem = h("p", { class: "load-problem", role: "alert", hidden: true });
  #probe = h("i", { hidden: true });
  #own = sheet(":host {}");
  #theme = new Theme(this.#probe, /** @type {CSSStyleRule} */ (this.#own.cssRules[0]).style, bookElement);

  connectedCallback() {
    if (this.#root.adoptedStyleSheets.length > 0) return;
    this.#root.adoptedStyleSheets = [sheet(css), this.#own];
    document.adoptedStyleSheets.push(sheet(pageCss));
    this.#root.append(this.#launcher, this.#problem, this.#probe);
    this.#theme.update();
    this.#speak();
    this.#watchPage();
    this.#watchKeys();

    // Whoever points at the button is about to press it.
    for (const event of ["pointerenter", "focus"]) {
      this.#launcher.addEventListener(event, () => this.#load().catch(() => {}), { once: true });
    }
    this.#watchSelection();
    const state = stateInSession();
    const isWanted = script?.hasAttribute("data-open") && state === null && !SMALL.matches;
    if (state === "open" || isWanted) this.#open({ isByItself: true });
  }

  /**
   * Opens the chat; a question is put into the field, not sent.
   * @param {{ question?: string }} [how]
   */
  open({ question } = {}) {
    return this.#open({ question });
  }

  async close() {
    (await this.#panel)?.close();
  }

  /** What the reader writes in is inside: scripts of the page that ask whether this is a field are told so. */
  get isContentEditable() {
    return this.#root?.activeElement?.matches("textarea, input, select") ?? false;
  }

  /**
   * @param {{ range?: Range, excerpt?: string | null, question?: string, request?: string, isByItself?: boolean }} [how]
   *   what nobody has asked for takes no focus
   */
  async #open({ isByItself = false, ...how } = {}) {
    this.#launcher.setAttribute("aria-busy", "true");
    this.#problem.hidden = true;
    this.#theme.update();
    try {
      const panel = await this.#load();
      panel.open({ ...how, isByItself });
    } catch (error) {
      console.error(error);
      this.#problem.textContent = labels[this.lang].notLoaded;
      // Who had the chat open, in another language, is told.
      this.#problem.hidden = isByItself && !this.#launcher.hidden;
      this.#launcher.hidden = false;
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
      host: this,
      root: this.#root,
      service,
      title: script?.dataset.title ?? labels[this.lang].ask,
      questions: script?.dataset.questions?.split("|").map((text) => text.trim()),
      ...(await module.loadWords(this.lang)),
      book: () => [...document.querySelectorAll(bookSelector())],
      /** @param {boolean} isOpen */
      onToggle: (isOpen) => {
        this.#launcher.hidden = isOpen;
        rememberInSession(isOpen ? "open" : "closed");
        if (!isOpen) this.#launcher.focus({ preventScroll: true });
      },
    });
  }

  /** Speaks the page's language, from whichever side the page is read. */
  #speak() {
    this.lang = languageOf(document.documentElement.lang);
    this.dir = directionOf(this.lang);
    const isLeft = (script?.dataset.position ?? (this.dir === "rtl" ? "left" : "right")) === "left";
    const { style } = /** @type {CSSStyleRule} */ (this.#own.cssRules[0]);
    style.setProperty("--left", isLeft ? "20px" : "auto", "important");
    style.setProperty("--right", isLeft ? "auto" : "20px", "important");
    this.#launcher.replaceChildren(draw("book", BOOK), labels[this.lang].ask);
    this.#bubble?.speak(this.lang);
  }

  /** The page's language, colours, and even its `body` change without a reload. */
  #watchPage() {
    const observer = new MutationObserver((changes) => {
      if (!this.isConnected) document.documentElement.append(this);
      if (changes.some(({ type }) => type === "childList")) observeBody();
      if (languageOf(document.documentElement.lang) !== this.lang) this.#changeLanguage();
      this.#theme.update();
    });
    const observeBody = () => document.body && observer.observe(document.body, { attributes: true });
    observer.observe(document.documentElement, { attributes: true, childList: true });
    observeBody();
  }

  async #changeLanguage() {
    this.#speak();
    const before = this.#panel;
    if (!before) return;
    this.#panel = undefined;
    const { isOpen, excerpt } = (await before).destroy();
    this.#launcher.hidden = isOpen;
    if (isOpen) this.#open({ excerpt, isByItself: true });
  }

  #watchKeys() {
    const { shortcut } = script?.dataset ?? {};
    if (shortcut) import("./shortcut.js").then(({ watch }) => watch(this.#launcher, shortcut, () => this.#toggle()));
    for (const event of [...KEYS, ...COMPOSING]) {
      this.addEventListener(event, (key) => {
        if (!key.composedPath().includes(this.#launcher)) key.stopPropagation();
      });
    }
  }

  #toggle() {
    return this.#launcher.hidden ? this.close() : this.#open();
  }

  #watchSelection() {
    for (const event of ["pointerdown", "pointerup", "pointercancel"]) {
      const onPointer = (/** @type {Event} */ pointer) => {
        // Who presses the button below the selection draws none, and it must still be there when the press ends.
        if (this.#bubble && pointer.composedPath().includes(this.#bubble.element)) return;
        this.#isPointerDown = event === "pointerdown";
        this.#bubble?.press(this.#isPointerDown);
      };
      document.addEventListener(event, onPointer, { capture: true, passive: true });
    }
    const onSelect = async () => {
      if (document.getSelection()?.isCollapsed) return;
      document.removeEventListener("selectionchange", onSelect);
      const module = await import("./bubble.js").catch(() => null);
      if (!module) return document.addEventListener("selectionchange", onSelect);
      const onAsk = (/** @type {Range | undefined} */ range, /** @type {string | undefined} */ request) =>
        this.#open({ range, request });
      this.#bubble = new module.Bubble({ root: this.#root, service, bookSelector, onAsk });
      this.#root.append(this.#bubble.element);
      this.#bubble.press(this.#isPointerDown);
      this.#bubble.speak(this.lang);
    };
    document.addEventListener("selectionchange", onSelect);
  }
}

function bookSelector() {
  return script?.dataset.selector ?? (document.querySelector("article") ? "article" : "main");
}

/** Where the page has the colours that it is read in. */
function bookElement() {
  return document.querySelector("article, main") ?? document.body;
}

// Storage may be forbidden: then the chat is closed on the next page.

function stateInSession() {
  try {
    return sessionStorage.getItem(STATE);
  } catch {
    return null;
  }
}

/** @param {"open" | "closed"} state */
function rememberInSession(state) {
  try {
    sessionStorage.setItem(STATE, state);
  } catch {}
}

/** Whether this browser is Chrome 109, Firefox 115, Safari 16.4, or newer: in an older one the chat would be there and not work. */
function isSupported() {
  return "adoptedStyleSheets" in document && "TextDecoderStream" in window && CSS.supports("height", "1dvh");
}

function start() {
  if (customElements.get("book-chat") || !isSupported()) return;
  customElements.define("book-chat", BookChat);
  // Beside the body, which sites lay out, transform, and exchange.
  document.documentElement.append(document.createElement("book-chat"));
}

if (document.body) start();
else document.addEventListener("DOMContentLoaded", start);
