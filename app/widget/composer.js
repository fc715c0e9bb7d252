/**
 * Where the reader writes: the field, the text that was selected for the question, and the buttons that send and stop.
 */

import { announced } from "./announcement.js";
import { h } from "./dom.js";
import { icon, iconButton } from "./icons.js";
import { fill } from "./languages.js";
import { quoted } from "./turn.js";

/** @import { Words } from "./languages.js" */
/** @import { Page, Store } from "./store.js" */

/** So many characters of a page can be asked about: the service's default. */
const MOST_SELECTED = 20_000;

/** A text of so many characters fills the field, whatever it is. */
const LONG_TEXT = 5000;

export class Composer {
  #options;
  #words;
  /** @type {string | null} */
  #excerpt = null;
  #isRunning = false;

  /**
   * @param {{ words: Words, lang: string, store: Store, onAsk: (message: string, excerpt: string | null, page: Page | null) => void, onStop: () => void }} options
   */
  constructor(options) {
    const { words } = options;
    this.#options = options;
    this.#words = words;
    this.textbox = h("textarea", {
      "aria-label": words.question,
      placeholder: words.question,
      rows: 1,
      enterkeyhint: "send",
      autocomplete: "off",
    });
    this.chosen = h("div", { class: "chosen", hidden: true });
    this.page = h("div", { class: "chosen page", hidden: true });
    this.send = h(
      "button",
      { type: "submit", class: "round", "aria-label": words.send, title: words.send, disabled: true },
      icon("send"),
    );
    this.stop = h(
      "button",
      {
        type: "button",
        class: "round stop",
        "aria-label": words.stop,
        title: words.stop,
        hidden: true,
        onclick: () => options.onStop(),
      },
      h("i"),
    );
    this.element = h(
      "form",
      { class: "composer" },
      this.page,
      this.chosen,
      h("div", { class: "field" }, this.textbox, this.send, this.stop),
    );
    this.#listen();
    this.textbox.value = options.store.draft;
    this.attach(options.store.page);
  }

  #listen() {
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.textbox.addEventListener("input", () => this.fit());
    this.textbox.addEventListener("keydown", (event) => {
      // Enter also ends the spelling of a word in Japanese and other languages.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.#submit();
    });
  }

  #submit() {
    const message = this.textbox.value.trim();
    const excerpt = this.#excerpt;
    if (!message || this.#isTooLong) return;
    this.write("");
    this.choose(null);
    this.#options.onAsk(message, excerpt, this.#options.store.page);
  }

  /** The text that the next question is about. */
  get excerpt() {
    return this.#excerpt;
  }

  get #isTooLong() {
    // Characters of most languages are one unit each, so most texts need not be counted.
    return this.#excerpt !== null && this.#excerpt.length > MOST_SELECTED && [...this.#excerpt].length > MOST_SELECTED;
  }

  /** Puts this text into the field. @param {string} text */
  write(text) {
    this.textbox.value = text;
    this.fit();
  }

  /** Puts a question back into the field, to be changed, before what is there. @param {string} message @param {string | null} excerpt */
  putBack(message, excerpt) {
    this.write([message, this.textbox.value].filter(Boolean).join("\n"));
    if (excerpt) this.choose(excerpt);
  }

  /** Asks this about the selected text if that can be asked about, and leaves what is being written as it is. @param {string} message */
  request(message) {
    const excerpt = this.#excerpt;
    if (this.#isTooLong || excerpt === null) {
      if (!this.textbox.value) this.write(message);
      return;
    }
    this.choose(null);
    this.#options.onAsk(message, excerpt, null);
  }

  /** Sets the page that questions are about until it is removed. @param {Page | null} page */
  attach(page) {
    this.#options.store.page = page;
    this.page.hidden = page === null;
    if (page === null) return this.page.replaceChildren();
    const remove = iconButton("close", this.#words.removePage, () => {
      this.attach(null);
      this.textbox.focus();
    });
    this.page.replaceChildren(icon("book"), h("p", { dir: "auto" }, `${this.#words.thisPage}: ${page.title}`), remove);
  }

  /** Sets the text that the next question is about. @param {string | null} excerpt */
  choose(excerpt) {
    this.#excerpt = excerpt;
    this.chosen.hidden = excerpt === null;
    this.chosen.replaceChildren();
    this.#offerToSend();
    if (excerpt === null) return;
    const remove = iconButton("close", this.#words.removeExcerpt, () => {
      this.choose(null);
      this.textbox.focus();
    });
    const shown = this.#isTooLong ? this.#tellTooLong(excerpt) : quoted(excerpt, this.#words);
    this.chosen.append(icon("quote"), shown, remove);
  }

  /** Says that so much cannot be asked about, and offers its beginning. @param {string} excerpt */
  #tellTooLong(excerpt) {
    const { words, lang } = this.#options;
    const characters = [...excerpt];
    const { format } = new Intl.NumberFormat(lang);
    const most = format(MOST_SELECTED);
    const useFirst = () => {
      this.choose(characters.slice(0, MOST_SELECTED).join(""));
      this.textbox.focus();
    };
    return h(
      "div",
      { class: "quotation" },
      announced(fill(words.tooLong, { count: format(characters.length), most }), { class: "too-long" }),
      h("button", { type: "button", class: "chip", onclick: useFirst }, fill(words.useFirst, { most })),
    );
  }

  /** Takes the field away while there is another one. @param {boolean} isAside */
  setAside(isAside) {
    this.element.inert = isAside;
    if (isAside) this.element.setAttribute("aria-hidden", "true");
    else this.element.removeAttribute("aria-hidden");
  }

  /** Gives the field the height of what is in it, and keeps that as a draft. */
  fit() {
    const { textbox } = this;
    this.#options.store.draft = textbox.value;
    // A long text is higher than the field in any case; to measure it, and to find its direction line by line, takes seconds.
    const isLong = textbox.value.length > LONG_TEXT;
    // What is typed decides its direction; the placeholder has that of the interface.
    if (isLong) textbox.dir = isRightToLeft(textbox.value) ? "rtl" : "ltr";
    else textbox.dir = textbox.value ? "auto" : "";
    textbox.style.height = isLong ? "" : "auto";
    textbox.classList.toggle("long", isLong);
    if (!isLong) textbox.style.height = `${textbox.scrollHeight}px`;
    this.#offerToSend();
  }

  #offerToSend() {
    const { activeElement } = /** @type {ShadowRoot} */ (this.element.getRootNode());
    this.stop.hidden = !this.#isRunning;
    this.send.disabled = this.textbox.value.trim() === "" || this.#isTooLong;
    // While an answer is being written, the next question can be sent as soon as there is one.
    this.send.hidden = this.#isRunning && this.send.disabled;
    const isGone =
      (activeElement === this.stop && this.stop.hidden) || (activeElement === this.send && this.send.disabled);
    if (isGone) this.textbox.focus({ preventScroll: true });
  }

  /** Offers to stop while an answer is being written. @param {boolean} isRunning */
  showRunning(isRunning) {
    this.#isRunning = isRunning;
    this.#offerToSend();
  }
}

/** Whether the first letter is of a script that is written from right to left. @param {string} text */
function isRightToLeft(text) {
  const [first = ""] = text.slice(0, LONG_TEXT).match(/\p{L}/u) ?? [];
  return /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u.test(first);
}
