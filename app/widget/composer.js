/**
 * Where the reader writes: the field, the text that was selected for the question, and the buttons that send and stop.
 */

import { h, icon, iconButton } from "./dom.js";
import { quoted } from "./turn.js";

/** @import { Words } from "./languages.js" */
/** @import { Store } from "./store.js" */

export class Composer {
  #options;
  #words;
  /** @type {string | null} */
  #excerpt = null;

  /**
   * @param {{ words: Words, store: Store, onAsk: (message: string, excerpt: string | null) => boolean, onStop: () => void }} options
   *   `onAsk` returns whether the question is asked
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
      this.chosen,
      h("div", { class: "field" }, this.textbox, this.send, this.stop),
    );
    this.#listen();
    this.textbox.value = options.store.draft;
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
    if (!message || !this.#options.onAsk(message, this.#excerpt)) return;
    this.write("");
    this.choose(null);
  }

  /** Puts this text into the field. @param {string} text */
  write(text) {
    this.textbox.value = text;
    this.fit();
  }

  /** Puts a question back into the field, to be changed. @param {string} message @param {string | null} excerpt */
  putBack(message, excerpt) {
    if (this.textbox.value) return;
    this.write(message);
    if (excerpt) this.choose(excerpt);
  }

  /** Sets the text that the next question is about. @param {string | null} excerpt */
  choose(excerpt) {
    this.#excerpt = excerpt;
    this.chosen.hidden = excerpt === null;
    this.chosen.replaceChildren();
    if (excerpt === null) return;
    const remove = iconButton("close", this.#words.removeExcerpt, () => {
      this.choose(null);
      this.textbox.focus();
    });
    this.chosen.append(icon("quote"), quoted(excerpt, this.#words), remove);
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
    // What is typed decides its direction; the placeholder has that of the interface.
    textbox.dir = textbox.value ? "auto" : "";
    textbox.style.height = "auto";
    textbox.style.height = `${textbox.scrollHeight}px`;
    this.send.disabled = textbox.value.trim() === "";
  }

  /** Offers to stop while an answer is being written. @param {boolean} isRunning */
  showRunning(isRunning) {
    const root = /** @type {ShadowRoot} */ (this.element.getRootNode());
    const hadFocus = root.activeElement;
    this.send.hidden = isRunning;
    this.stop.hidden = !isRunning;
    if (hadFocus === this.send || hadFocus === this.stop) this.textbox.focus({ preventScroll: true });
  }
}
