/**
 * The passage behind a source: a few of its words beside the link, and an address that has the browser mark them on their page.
 */

import { h } from "./dom.js";

/** How long the words stay when the pointer has left the link, so that it can reach them. */
const STAY_MS = 250;
const MARGIN_PX = 10;

const MOST_WORDS = 10;
const FEWEST_WORDS = 3;
/** Of a script without spaces. */
const MOST_CHARS = 60;
/** What pages show in another way than it is written: formulas, quotation marks, dashes. */
const UNSURE = /[$`"'“”‘’«»\\]|--|\.{3}/;
/** Where a sentence of a script without spaces ends. */
const FULL_STOP = /[、。，；！？]/;

/** The words behind each link. @type {WeakMap<Element, { title: string | null, snippet: string }>} */
const words = new WeakMap();

/** Has these words shown beside the link. @param {Element} link @param {string} snippet @param {string | null} title  if the link does not show it */
export function describe(link, snippet, title) {
  words.set(link, { title, snippet });
}

/**
 * Returns the source's address, with which the browser marks the passage if it can.
 * @param {URL} url @param {string} [snippet]
 */
export function markedAddress({ href, protocol }, snippet) {
  const text = /^https?:$/.test(protocol) && "fragmentDirective" in document ? beginning(snippet ?? "") : "";
  if (!text) return href;
  return `${href}${href.includes("#") ? "" : "#"}:~:text=${encodeURIComponent(text).replaceAll("-", "%2D")}`;
}

/** Returns the first words that are on the page as they are here; none if there are too few to tell one place from another. @param {string} snippet */
function beginning(snippet) {
  const line = snippet.split("\n")[0].replace(/…$/, "");
  const end = line.search(UNSURE);
  // Half a word is not found.
  const sure = end < 0 ? line : line.slice(0, end).replace(/\S+$/, "");
  const all = sure.trim().split(/\s+/);
  if (all.length === 1 && sure.length > 15) return [...sure.split(FULL_STOP)[0]].slice(0, MOST_CHARS).join("");
  return end < 0 || all.length >= FEWEST_WORDS ? all.slice(0, MOST_WORDS).join(" ") : "";
}

export class Passage {
  #dialog;
  /** @type {Element | null} */
  #link = null;
  #timer = 0;
  #end = new AbortController();

  /** @param {HTMLElement} dialog  whose links are described */
  constructor(dialog) {
    this.#dialog = dialog;
    this.element = h("div", { class: "passage", role: "tooltip", hidden: true });
    dialog.append(this.element);
    dialog.addEventListener("pointerover", (event) => event.pointerType !== "touch" && this.#point(event.target));
    dialog.addEventListener("pointerleave", () => this.#hideSoon());
    dialog.addEventListener("focusin", ({ target }) => {
      const link = linkOf(target);
      if (link?.matches(":focus-visible")) this.#show(link);
    });
    dialog.addEventListener("focusout", () => this.hide());
    dialog.addEventListener("scroll", () => this.#link && this.#place(), { capture: true, passive: true });
  }

  /** @param {EventTarget | null} target */
  #point(target) {
    const link = linkOf(target);
    clearTimeout(this.#timer);
    if (link) this.#show(link);
    else if (!(target instanceof Node && this.element.contains(target))) this.#hideSoon();
  }

  /** @param {Element} link */
  #show(link) {
    clearTimeout(this.#timer);
    if (link === this.#link) return;
    this.hide();
    const { title, snippet } = /** @type {{ title: string | null, snippet: string }} */ (words.get(link));
    this.#link = link;
    this.element.replaceChildren(
      ...(title ? [h("strong", { dir: "auto" }, title)] : []),
      // The link's name has the title.
      h("p", { dir: "auto", id: "passage" }, snippet),
    );
    this.element.hidden = false;
    link.setAttribute("aria-describedby", "passage");
    this.#place();
    // Wherever the focus is; and it would also close the chat.
    this.#end = new AbortController();
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      this.hide();
    };
    addEventListener("keydown", onKey, { capture: true, signal: this.#end.signal });
  }

  hide() {
    clearTimeout(this.#timer);
    this.#end.abort();
    this.#link?.removeAttribute("aria-describedby");
    this.#link = null;
    this.element.hidden = true;
  }

  #hideSoon() {
    clearTimeout(this.#timer);
    const hasFocus = this.#link?.matches(":focus-visible");
    if (this.#link && !hasFocus) this.#timer = setTimeout(() => this.hide(), STAY_MS);
  }

  /** Above the link, or below it where there is more room. */
  #place() {
    const [link] = this.#link?.getClientRects() ?? [];
    const log = this.#link?.closest(".log")?.getBoundingClientRect();
    if (!link || !log || link.bottom < log.top || link.top > log.bottom) return this.hide();
    const panel = this.#dialog.getBoundingClientRect();
    const { style } = this.element;
    style.maxHeight = "";
    const { offsetWidth, offsetHeight } = this.element;
    const middle = link.left + link.width / 2 - offsetWidth / 2 - panel.left;
    style.left = `${Math.max(MARGIN_PX, Math.min(middle, panel.width - offsetWidth - MARGIN_PX))}px`;
    const [above, below] = [link.top - panel.top, panel.bottom - link.bottom];
    const isAbove = above > offsetHeight || above > below;
    const height = Math.min(offsetHeight, (isAbove ? above : below) - 2);
    style.maxHeight = `${height}px`;
    style.top = `${isAbove ? above - height : link.bottom - panel.top}px`;
  }
}

/** Returns the link that is pointed at, if there are words behind it. @param {EventTarget | null} target */
function linkOf(target) {
  const link = target instanceof Element ? target.closest("a") : null;
  return link && words.has(link) ? link : null;
}
