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
  /** Whether all are there. @type {"loading" | "failed" | "done"} */
  #state = "done";
  #date;

  /**
   * @param {{ words: Words, lang: string, service: Service, hasReader: () => boolean, current: () => string | null,
   *   onChoose: (session: string) => void }} options
   */
  constructor(options) {
    const { words } = options;
    this.#options = options;
    this.#date = new Intl.DateTimeFormat(options.lang, { dateStyle: "medium" });
    this.search = h("input", {
      type: "search",
      "aria-label": words.searchConversations,
      placeholder: words.searchConversations,
      autocomplete: "off",
      dir: "auto",
      oninput: () => this.#draw(),
    });
    this.list = h("ul", { "aria-label": words.conversations });
    this.said = h("div", { class: "list-state" });
    this.element = h(
      "section",
      { class: "view conversations", "aria-label": words.conversations, hidden: true },
      this.search,
      this.said,
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
    this.#state = hasReader() ? "loading" : "done";
    this.#tell(words.noConversations);
    if (this.#state === "done") return;
    try {
      for await (const sessions of service.sessions()) {
        if (load !== this.#loads) return;
        this.#sessions.push(...sessions);
        this.list.append(...this.#entries(sessions));
        this.#tell(words.noConversations);
      }
      this.#state = "done";
      this.#draw();
    } catch (error) {
      if (!(error instanceof Failure)) console.error(error);
      if (load !== this.#loads) return;
      this.#state = "failed";
      const retry = h("button", { type: "button", class: "chip", onclick: () => this.open() }, words.retry);
      this.#say(h("p", { role: "alert" }, words.errors.conversations), retry);
    }
  }

  /** @param {...Node} parts */
  #say(...parts) {
    this.said.replaceChildren(...parts);
  }

  #draw() {
    const { words } = this.#options;
    this.list.replaceChildren(...this.#entries(this.#sessions));
    this.#tell(this.#sessions.length > 0 ? words.noneFound : words.noConversations);
  }

  /** Says why the list is empty; what failed stays said. @param {string} whyEmpty */
  #tell(whyEmpty) {
    if (this.#state === "failed") return;
    if (this.list.childElementCount > 0) return this.#say();
    this.#say(announced(this.#state === "loading" ? this.#options.words.loadingConversations : whyEmpty));
  }

  /** Returns the entries of those that are searched for. @param {Session[]} sessions */
  #entries(sessions) {
    const { lang } = this.#options;
    const wanted = this.search.value.trim().toLocaleLowerCase(lang);
    const found = sessions.filter(({ title }) => title?.toLocaleLowerCase(lang).includes(wanted) ?? !wanted);
    return found.map((session) => this.#entry(session));
  }

  /** @param {Session} session */
  #entry({ id, title, updated_at }) {
    const { words, current, onChoose } = this.#options;
    const button = h(
      "button",
      {
        type: "button",
        class: "suggestion",
        "aria-current": id === current() ? "true" : null,
        onclick: () => onChoose(id),
      },
      h("span", { dir: "auto" }, title || words.conversation),
      h("small", {}, this.#date.format(new Date(updated_at))),
    );
    return h("li", {}, button);
  }
}
