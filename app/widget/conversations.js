/**
 * The reader's own conversations: a list to search, in which one is chosen to be read and continued.
 */

import { announced } from "./announcement.js";
import { h } from "./dom.js";
import { Failure } from "./service.js";

/** @import { Words } from "./languages.js" */
/** @import { Service, Session } from "./service.js" */

export class Conversations {
  #options;
  /** Newest first. @type {Session[]} */
  #sessions = [];
  #loads = 0;

  /**
   * @param {{ words: Words, lang: string, service: Service, hasReader: () => boolean, current: () => string | null,
   *   onChoose: (session: string) => void }} options
   */
  constructor(options) {
    const { words } = options;
    this.#options = options;
    this.search = h("input", {
      type: "search",
      "aria-label": words.searchConversations,
      placeholder: words.searchConversations,
      autocomplete: "off",
      dir: "auto",
      oninput: () => this.#draw(),
    });
    this.list = h("ul", { "aria-label": words.conversations });
    this.state = h("div", { class: "list-state" });
    this.element = h(
      "section",
      { class: "view conversations", "aria-label": words.conversations, hidden: true },
      this.search,
      this.state,
      this.list,
    );
  }

  close() {
    this.#loads++;
    this.element.hidden = true;
  }

  /** Shows the list, and fills it a page at a time. */
  async open() {
    const { words, service, hasReader } = this.#options;
    const load = ++this.#loads;
    this.#sessions = [];
    this.search.value = "";
    this.list.replaceChildren();
    this.element.hidden = false;
    this.search.focus();
    if (!hasReader()) return this.#say(announced(words.noConversations));
    this.#say(announced(words.loadingConversations));
    try {
      for await (const sessions of service.sessions()) {
        if (load !== this.#loads) return;
        this.#sessions.push(...sessions);
        this.#draw();
      }
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (load !== this.#loads) return;
      const retry = h("button", { type: "button", class: "chip", onclick: () => this.open() }, words.retry);
      this.#say(h("p", { role: "alert" }, words.errors.conversations), retry);
    }
  }

  /** @param {...Node} parts */
  #say(...parts) {
    this.state.replaceChildren(...parts);
  }

  #draw() {
    const { words, lang } = this.#options;
    const wanted = this.search.value.trim().toLocaleLowerCase(lang);
    const found = this.#sessions.filter(({ title }) => title?.toLocaleLowerCase(lang).includes(wanted) ?? !wanted);
    this.list.replaceChildren(...found.map((session) => this.#entry(session)));
    if (found.length > 0) this.#say();
    else this.#say(announced(this.#sessions.length > 0 ? words.noneFound : words.noConversations));
  }

  /** @param {Session} session */
  #entry({ id, title, updated_at }) {
    const { words, lang, current, onChoose } = this.#options;
    const date = new Intl.DateTimeFormat(lang, { dateStyle: "medium" }).format(new Date(updated_at));
    const button = h(
      "button",
      {
        type: "button",
        class: "suggestion",
        "aria-current": id === current() ? "true" : null,
        onclick: () => onChoose(id),
      },
      h("span", { dir: "auto" }, title || words.conversation),
      h("small", {}, date),
    );
    return h("li", {}, button);
  }
}
