/**
 * The panel beside the page's text, where the window is wide enough for both. The reader draws its edge, or moves it with arrow keys.
 */

import { h, sheet } from "./dom.js";

/** @import { Words } from "./languages.js" */
/** @import { Store } from "./store.js" */

/** Where there is room for the text and the chat. */
export const WIDE = matchMedia("(min-width: 1280px) and (min-height: 441px)");

const LEAST_PX = 320;
const MOST_PX = 760;
const USUAL_PX = 400;
/** What the text keeps in any case. */
const TEXT_PX = 720;
const STEP_PX = 20;

export class Dock {
  #options;
  /** What the page is told, while the panel is beside it. */
  #page = sheet("");
  #isShown = false;
  #width;

  /**
   * @param {{ words: Words, store: Store, dialog: HTMLDialogElement, signal: AbortSignal }} options  the signal says when the panel is gone
   */
  constructor(options) {
    const { words, store, dialog, signal } = options;
    this.#options = options;
    this.#width = store.layout.width ?? USUAL_PX;
    this.separator = h("div", {
      class: "separator",
      role: "separator",
      tabindex: 0,
      "aria-orientation": "vertical",
      "aria-label": words.resize,
      hidden: true,
    });
    this.separator.addEventListener("keydown", (event) => this.#onKey(event));
    this.separator.addEventListener("pointerdown", (event) => this.#onPress(event));
    dialog.append(this.separator);
    document.adoptedStyleSheets.push(this.#page);
    const update = () => this.show(this.#isShown);
    WIDE.addEventListener("change", update, { signal });
    addEventListener("resize", update, { signal });
    signal.addEventListener("abort", () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((own) => own !== this.#page);
    });
  }

  /** Whether the panel is beside the text, or will be once it is open. */
  get isDocked() {
    return WIDE.matches && this.#options.store.layout.isDocked;
  }

  /** Puts the panel beside the text, or over it. */
  toggle() {
    const { store } = this.#options;
    store.layout = { ...store.layout, isDocked: !store.layout.isDocked };
    this.show(this.#isShown);
  }

  /** Makes the panel wider, or narrower with a negative number. @param {number} px */
  widen(px) {
    this.#resize(this.#width + px);
    this.#keep();
  }

  /** Gives the panel its place, and the page what is left of the window. @param {boolean} isShown */
  show(isShown) {
    this.#isShown = isShown;
    const { dialog } = this.#options;
    const isBeside = isShown && this.isDocked;
    dialog.classList.toggle("docked", isBeside);
    dialog.classList.toggle("on-left", this.#isLeft);
    this.separator.hidden = !isBeside;
    this.#resize(this.#width);
  }

  get #isLeft() {
    return getComputedStyle(this.#options.dialog).getPropertyValue("--left").trim() !== "auto";
  }

  get #most() {
    return Math.max(LEAST_PX, Math.min(MOST_PX, innerWidth - TEXT_PX));
  }

  /** @param {number} width */
  #resize(width) {
    const { dialog } = this.#options;
    const most = this.#most;
    // A window that is narrower for a while does not change what the reader has chosen.
    this.#width = Math.max(LEAST_PX, Math.min(MOST_PX, width));
    const shown = Math.round(Math.min(this.#width, most));
    dialog.style.setProperty("--dock", `${shown}px`);
    for (const [name, value] of Object.entries({ valuenow: shown, valuemin: LEAST_PX, valuemax: most })) {
      this.separator.setAttribute(`aria-${name}`, String(value));
    }
    const isBeside = dialog.classList.contains("docked");
    const side = this.#isLeft ? "left" : "right";
    // What is as wide as the window, wherever its text is: the head of VitePress and of Starlight.
    const place = `max-width: calc(100% - ${shown}px) !important; ${this.#isLeft ? `left: ${shown}px !important` : ""}`;
    const rules = `html { margin-${side}: ${shown}px !important } .VPNav, .page > header.header { ${place} }`;
    this.#page.replaceSync(isBeside ? `@media screen { ${rules} }` : "");
  }

  #keep() {
    const { store } = this.#options;
    this.#width = Math.min(this.#width, this.#most);
    store.layout = { ...store.layout, width: Math.round(this.#width) };
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const step = this.#isLeft ? STEP_PX : -STEP_PX;
    /** @type {Record<string, number>} */
    const changes = { ArrowRight: step, ArrowLeft: -step, Home: -MOST_PX, End: MOST_PX };
    if (!(event.key in changes) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.widen(changes[event.key]);
  }

  /** @param {PointerEvent} press */
  #onPress(press) {
    if (press.button !== 0) return;
    press.preventDefault();
    this.separator.focus();
    this.separator.setPointerCapture(press.pointerId);
    const end = new AbortController();
    let hasMoved = false;
    const { left, right } = this.#options.dialog.getBoundingClientRect();
    /** @param {PointerEvent} event */
    const move = ({ clientX }) => {
      hasMoved = true;
      this.#resize(this.#isLeft ? clientX - left : right - clientX);
    };
    const finish = () => {
      end.abort();
      if (hasMoved) this.#keep();
    };
    this.separator.addEventListener("pointermove", move, { signal: end.signal });
    for (const name of /** @type {const} */ (["pointerup", "pointercancel", "lostpointercapture"])) {
      this.separator.addEventListener(name, finish, { signal: end.signal });
    }
  }
}
