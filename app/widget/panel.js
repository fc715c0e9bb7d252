/**
 * The chat itself: the panel on the screen, with the conversation and the field to ask in.
 */

import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { Disclaimer } from "./disclaimer.js";
import { h, SMALL } from "./dom.js";
import { textOf } from "./excerpt.js";
import { icon, iconButton } from "./icons.js";
import { visit } from "./navigation.js";
import { Failure, Service } from "./service.js";
import { Store } from "./store.js";
import { css } from "./styles.js";

/** @import { Words } from "./languages.js" */

export { loadWords } from "./languages.js";

/**
 * @typedef {object} PanelOptions
 * @property {HTMLElement} host  which tells the page what happens
 * @property {ShadowRoot} root
 * @property {string} service  the service's address
 * @property {string} title
 * @property {string[]} [questions]  the owner's own, to begin with
 * @property {string} lang
 * @property {Words} words
 * @property {() => Element[]} book  the parts of the page that are the book
 * @property {(isOpen: boolean) => void} onToggle
 */

export class Panel {
  #options;
  #words;
  #store;
  #service;
  #isOpen = false;
  /** Ends when another panel takes this one's place. */
  #life = new AbortController();
  #styles = new CSSStyleSheet();

  /** @param {PanelOptions} options */
  constructor(options) {
    const { words, lang, root, book, questions } = options;
    this.#options = options;
    this.#words = words;
    this.#store = new Store(options.service);
    this.#service = new Service(options.service, this.#store);
    this.status = h("div", { class: "sr", role: "status" });
    this.composer = new Composer({
      words,
      lang,
      store: this.#store,
      onAsk: (message, excerpt) => this.conversation.ask(message, excerpt),
      onStop: () => this.conversation.stop(),
    });
    this.disclaimer = new Disclaimer({
      words,
      hasReader: () => this.#store.hasReader,
      onDelete: () => this.#deleteAll(),
    });
    this.conversation = new Conversation({
      words,
      lang,
      service: this.#service,
      store: this.#store,
      book,
      questions,
      isShown: () => this.dialog.open,
      announce: (text) => this.#announce(text),
      onVisit: (event, url) => this.#visit(event, url),
      onPutBack: (message, excerpt) => this.composer.putBack(message, excerpt),
      onOwnWords: (isOpen) => this.composer.setAside(isOpen),
      onChange: () => this.#showState(),
      onTell: (what, detail) => this.#tell(what, detail),
    });
    this.dialog = this.#build();
    this.#listen();

    this.#styles.replaceSync(css);
    root.adoptedStyleSheets.push(this.#styles);
    root.append(this.dialog);
  }

  #build() {
    const { title } = this.#options;
    const words = this.#words;
    const width = iconButton("widen", words.expand, () => this.#toggleWidth(width), {
      class: "icon-button width",
      "aria-pressed": "false",
    });
    const head = h(
      "div",
      { class: "head" },
      h("h2", { id: "title", tabindex: -1 }, title),
      width,
      iconButton("fresh", words.newConversation, () => this.#startAnew()),
      iconButton("close", words.close, () => this.close()),
    );
    const { log } = this.conversation;
    const bottom = h("div", { class: "bottom" }, log.latest, this.composer.element, this.disclaimer.element);
    return h("dialog", { class: "panel", "aria-labelledby": "title" }, head, log.element, bottom, this.status);
  }

  /** Makes place for another panel, and returns what that needs to go on. */
  destroy() {
    const { isOpen, excerpt } = { isOpen: this.dialog.open, excerpt: this.composer.excerpt };
    this.#life.abort();
    this.conversation.leave();
    this.dialog.remove();
    const { root } = this.#options;
    root.adoptedStyleSheets = root.adoptedStyleSheets.filter((sheet) => sheet !== this.#styles);
    document.documentElement.classList.remove("book-chat-modal");
    return { isOpen, excerpt };
  }

  #listen() {
    const { dialog } = this;
    const { signal } = this.#life;
    dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      event.preventDefault();
      event.stopPropagation();
      this.close();
    });
    // The gesture that goes back on a phone.
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.close();
    });
    // Some browsers close a dialog whatever its page says.
    dialog.addEventListener("close", () => this.#afterClosing());
    const onResize = () => {
      // A tablet's keyboard makes the window small, and moving the dialog would take it away again.
      const isTyping =
        this.#options.root.activeElement === this.composer.textbox && matchMedia("(pointer: coarse)").matches;
      if (!dialog.open || isTyping) return;
      dialog.close();
      this.#show();
    };
    SMALL.addEventListener("change", onResize, { signal });
    visualViewport?.addEventListener("resize", () => this.#fitScreen(), { signal });
    visualViewport?.addEventListener("scroll", () => this.#fitScreen(), { signal });
    let timer = 0;
    const onChange = () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.conversation.refresh(), 200);
    };
    this.#store.onChange(onChange, signal);
    this.#watchPage(signal);
  }

  /** Suggestions are taken from the page, and a single-page site changes it. @param {AbortSignal} signal */
  #watchPage(signal) {
    let timer = 0;
    const observer = new MutationObserver(() => {
      clearTimeout(timer);
      timer = setTimeout(() => this.dialog.open && this.conversation.refreshSuggestions(), 150);
    });
    // The chat is beside the body, and what changes in it is not a change of the page.
    observer.observe(document.documentElement, { childList: true, subtree: true });
    signal.addEventListener("abort", () => observer.disconnect());
  }

  // On the screen

  /**
   * Opens the panel, with this part of the page as the text to ask about, and with this question in the field. What opens by itself
   * leaves the focus where it is.
   * @param {{ range?: Range, excerpt?: string | null, question?: string, isByItself?: boolean }} how
   */
  open({ range, excerpt, question, isByItself = false }) {
    const chosen = range ? textOf(range) : excerpt;
    if (chosen) this.composer.choose(chosen);
    if (question) this.composer.textbox.value = question;
    if (!this.dialog.open) {
      this.#isOpen = true;
      this.#show();
      this.#options.onToggle(true);
      this.conversation.show();
      this.#tell("open");
    }
    this.composer.fit();
    if (isByItself) return;
    // On a phone the field's keyboard would hide what the reader opened the panel for.
    if (SMALL.matches && !range && !question) this.dialog.querySelector("h2")?.focus();
    else this.composer.textbox.focus();
  }

  close() {
    this.dialog.close();
    this.#afterClosing();
  }

  #afterClosing() {
    if (this.dialog.open || !this.#isOpen) return;
    this.#isOpen = false;
    document.documentElement.classList.remove("book-chat-modal");
    this.#options.onToggle(false);
    this.#tell("close");
  }

  #show() {
    this.dialog.classList.toggle("modal", SMALL.matches);
    document.documentElement.classList.toggle("book-chat-modal", SMALL.matches);
    if (SMALL.matches) this.dialog.showModal();
    // Its `show` would take the focus, which after a reload belongs to the page.
    else this.dialog.setAttribute("open", "");
    this.#fitScreen();
  }

  /** A phone's keyboard covers a part of the page, and browsers tell only how much is left. */
  #fitScreen() {
    const { style } = this.dialog;
    if (SMALL.matches && visualViewport) {
      style.setProperty("--height", `${visualViewport.height}px`);
      style.setProperty("--top", `${visualViewport.offsetTop}px`);
    } else {
      style.removeProperty("--height");
      style.removeProperty("--top");
    }
  }

  /** @param {HTMLButtonElement} button */
  #toggleWidth(button) {
    const isWide = this.dialog.classList.toggle("wide");
    const label = isWide ? this.#words.shrink : this.#words.expand;
    button.setAttribute("aria-label", label);
    button.title = label;
    button.replaceChildren(icon(isWide ? "narrow" : "widen"));
  }

  // What happens in the conversation

  #showState() {
    this.composer.showRunning(this.conversation.isRunning);
    this.disclaimer.update();
  }

  /**
   * Tells the page what happens, such as for its statistics; never what the reader writes or reads.
   * @param {"open" | "close" | "question" | "answer" | "error" | "feedback"} what @param {object} [detail]
   */
  #tell(what, detail = {}) {
    this.#options.host.dispatchEvent(new CustomEvent(`book-chat:${what}`, { bubbles: true, composed: true, detail }));
  }

  /** @param {string} text */
  #announce(text) {
    // The same words twice are two things that happened.
    this.status.replaceChildren(text);
  }

  #startAnew() {
    this.conversation.startAnew();
    this.composer.choose(null);
    this.composer.textbox.focus();
  }

  /** Deletes all conversations, and returns whether it could. */
  async #deleteAll() {
    try {
      await this.#service.deleteAll();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      return false;
    }
    this.#startAnew();
    this.#store.forgetReader();
    this.composer.write("");
    this.conversation.note(this.#words.deletedAll);
    return true;
  }

  /** @param {MouseEvent} event @param {URL} url */
  #visit(event, url) {
    if (visit(event, url) && SMALL.matches) this.close();
  }
}
