/**
 * The chat itself: the panel on the screen, with the conversation and the field to ask in.
 */

import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { Disclaimer } from "./disclaimer.js";
import { h, icon, iconButton } from "./dom.js";
import { textOf } from "./excerpt.js";
import { visit } from "./navigation.js";
import { Failure, Service } from "./service.js";
import { Store } from "./store.js";
import { css } from "./styles.js";

/** @import { Words } from "./languages.js" */

/** Where the panel fills the screen, and the page behind it is out of reach. */
const SMALL = matchMedia("(max-width: 640px), (max-height: 440px)");

/**
 * @typedef {object} PanelOptions
 * @property {ShadowRoot} root
 * @property {string} service  the service's address
 * @property {string} [title]
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

  /** @param {PanelOptions} options */
  constructor(options) {
    const { words, lang, root, book } = options;
    this.#options = options;
    this.#words = words;
    this.#store = new Store(options.service);
    this.#service = new Service(options.service, this.#store);
    this.status = h("div", { class: "sr", role: "status" });
    this.composer = new Composer({
      words,
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
      isShown: () => this.dialog.open,
      announce: (text) => this.#announce(text),
      onVisit: (event, url) => this.#visit(event, url),
      onPutBack: (message, excerpt) => this.composer.putBack(message, excerpt),
      onOwnWords: (isOpen) => this.composer.setAside(isOpen),
      onChange: () => this.#showState(),
    });
    this.dialog = this.#build();
    this.#listen();

    const styles = new CSSStyleSheet();
    styles.replaceSync(css);
    root.adoptedStyleSheets.push(styles);
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
      h("h2", { id: "title", tabindex: -1 }, title ?? words.ask),
      width,
      iconButton("fresh", words.newConversation, () => this.#startAnew()),
      iconButton("close", words.close, () => this.close()),
    );
    const { log } = this.conversation;
    const bottom = h("div", { class: "bottom" }, log.latest, this.composer.element, this.disclaimer.element);
    return h(
      "dialog",
      { class: "panel", "aria-labelledby": "title", dir: words.dir === "rtl" ? "rtl" : undefined },
      head,
      log.element,
      bottom,
      this.status,
    );
  }

  #listen() {
    const { dialog } = this;
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
    SMALL.addEventListener("change", () => {
      // A tablet's keyboard makes the window small, and moving the dialog would take it away again.
      const isTyping =
        this.#options.root.activeElement === this.composer.textbox && matchMedia("(pointer: coarse)").matches;
      if (!dialog.open || isTyping) return;
      dialog.close();
      this.#show();
    });
    visualViewport?.addEventListener("resize", () => this.#fitScreen());
    visualViewport?.addEventListener("scroll", () => this.#fitScreen());
    let timer = 0;
    this.#store.onChange(() => {
      clearTimeout(timer);
      timer = setTimeout(() => this.conversation.refresh(), 200);
    });
    // Suggestions are taken from the page, and a single-page site changes it.
    window.navigation?.addEventListener("navigatesuccess", () =>
      setTimeout(() => dialog.open && this.conversation.refreshSuggestions(), 100),
    );
  }

  // On the screen

  /**
   * Opens the panel, with this part of the page as the text to ask about. After a reload the focus stays where it is.
   * @param {{ range?: Range, isReload?: boolean }} how
   */
  open({ range, isReload = false }) {
    if (range) this.composer.choose(textOf(range) || null);
    if (!this.dialog.open) {
      this.#isOpen = true;
      this.#show();
      this.composer.fit();
      this.#options.onToggle(true);
      this.conversation.show();
    }
    if (isReload) return;
    // On a phone the field's keyboard would hide what the reader opened the panel for.
    if (SMALL.matches && !range) this.dialog.querySelector("h2")?.focus();
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
