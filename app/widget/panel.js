/**
 * The chat itself: the panel on the screen, with the conversation and the field to ask in.
 */

import { AboutMe, noteOf } from "./about.js";
import { Assistant, isOffered } from "./assistant.js";
import { Composer } from "./composer.js";
import { Conversation, pageAddress } from "./conversation.js";
import { Conversations } from "./conversations.js";
import { Disclaimer } from "./disclaimer.js";
import { Dock, WIDE } from "./dock.js";
import { h, SMALL } from "./dom.js";
import { textOf } from "./excerpt.js";
import { iconButton } from "./icons.js";
import { Menu } from "./menu.js";
import { visit } from "./navigation.js";
import { Passage } from "./passage.js";
import { Failure, Service } from "./service.js";
import { Store } from "./store.js";
import { css } from "./styles.js";

/** @import { Words } from "./languages.js" */
/** @import { Item } from "./menu.js" */
/** @import { View } from "./view.js" */

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

/** Where the conversation needs all the room that there is, such as on a screen that is zoomed to 400 %. */
const LOW = matchMedia("(max-height: 440px)");

/** By how much *Wider* and *Narrower* move the edge of a panel that is beside the text. */
const WIDER_PX = 80;

export class Panel {
  #options;
  #words;
  #store;
  #service;
  #isOpen = false;
  /** What is shown in the place of the conversation. @type {View | null} */
  #view = null;
  /** Ends when another panel takes this one's place. */
  #life = new AbortController();
  #styles = new CSSStyleSheet();

  /** @param {PanelOptions} options */
  constructor(options) {
    const { words, lang, root, book, questions } = options;
    this.#options = options;
    this.#words = words;
    this.#store = new Store(options.service);
    this.#service = new Service(options.service, this.#store, () => noteOf(this.#store.about, words, lang));
    this.status = h("div", { class: "sr", role: "status" });
    this.composer = new Composer({
      words,
      lang,
      store: this.#store,
      onAsk: (message, excerpt, page) => this.conversation.ask(message, excerpt, page),
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
      isShown: () => this.dialog.isConnected && this.dialog.open,
      announce: (text) => this.#announce(text),
      onVisit: (event, url) => this.#visit(event, url),
      onPutBack: (message, excerpt) => this.composer.putBack(message, excerpt),
      onFocusLost: () => this.#focusConversation(),
      onOwnWords: (isOpen) => this.composer.setAside(isOpen),
      onChange: () => this.#showState(),
      onTell: (what, detail) => this.#tell(what, detail),
    });
    this.conversations = new Conversations({
      words,
      lang,
      service: this.#service,
      hasReader: () => this.#store.hasReader,
      current: () => this.conversation.session,
      onChoose: (session) => this.#openConversation(session),
    });
    const onBack = () => this.#goBack();
    this.aboutMe = new AboutMe({ words, lang, store: this.#store, onBack });
    this.assistant = new Assistant({ words, service: options.service, onBack });
    this.list = iconButton(
      "list",
      words.conversations,
      () => this.#show(this.#view === this.conversations ? null : this.conversations),
      { "aria-expanded": "false" },
    );
    this.menu = new Menu(words.menu, () => this.#menuItems());
    this.bottom = h("div", { class: "bottom" });
    this.dialog = this.#build();
    this.passage = new Passage(this.dialog);
    this.dock = new Dock({ words, store: this.#store, dialog: this.dialog, signal: this.#life.signal });
    this.#listen();

    this.#styles.replaceSync(css);
    root.adoptedStyleSheets.push(this.#styles);
    root.append(this.dialog);
  }

  #build() {
    const { title } = this.#options;
    const words = this.#words;
    const head = h(
      "div",
      { class: "head" },
      h("h2", { id: "title", tabindex: -1 }, title),
      this.list,
      iconButton("fresh", words.newConversation, () => this.#startAnew()),
      this.menu.element,
      iconButton("close", words.close, () => this.close()),
    );
    const { log } = this.conversation;
    this.bottom.append(log.latest, this.#pageActions(), this.composer.element, this.disclaimer.element);
    const views = [this.conversations.element, this.aboutMe.element, this.assistant.element];
    const parts = [head, log.element, this.bottom, ...views, this.status];
    return h("dialog", { class: "panel", "aria-labelledby": "title" }, ...parts);
  }

  /** Returns what is needed rarely, and possible at the moment. */
  #menuItems() {
    const { aboutMe, expand, shrink, dock, undock, useInAssistant } = this.#words;
    const { isDocked } = this.dock;
    const isWide = this.dialog.classList.contains("wide");
    /** @type {Item} */
    const wider = { label: expand, icon: "widen", onChoose: () => this.#widen(true) };
    /** @type {Item} */
    const narrower = { label: shrink, icon: "narrow", onChoose: () => this.#widen(false) };
    /** @type {Item} */
    const place = {
      label: isDocked ? undock : dock,
      icon: isDocked ? "undock" : "dock",
      onChoose: () => this.dock.toggle(),
    };
    /** @type {Item} */
    const assistant = { label: useInAssistant, icon: "plug", onChoose: () => this.#show(this.assistant) };
    const pageActions = this.#pageQuestions.map((text) => ({
      label: text,
      icon: /** @type {const} */ ("book"),
      onChoose: () => this.#askAboutPage(text),
    }));
    return [
      ...(LOW.matches ? pageActions : []),
      { label: aboutMe, icon: /** @type {const} */ ("person"), onChoose: () => this.#show(this.aboutMe) },
      ...(WIDE.matches ? [place] : []),
      ...(isDocked ? [wider, narrower] : SMALL.matches ? [] : [isWide ? narrower : wider]),
      isOffered().then((isOn) => (isOn ? assistant : null)),
    ];
  }

  /** @param {boolean} isWider */
  #widen(isWider) {
    if (this.dock.isDocked) this.dock.widen(isWider ? WIDER_PX : -WIDER_PX);
    else this.dialog.classList.toggle("wide", isWider);
  }

  /** Returns the buttons that ask about the page. */
  #pageActions() {
    const buttons = this.#pageQuestions.map((text) =>
      h("button", { type: "button", class: "chip", onclick: () => this.#askAboutPage(text) }, text),
    );
    return h("div", { class: "page-actions", role: "group", "aria-label": this.#words.suggestions }, ...buttons);
  }

  get #pageQuestions() {
    const { summarizePage, quizMe, explainSimply } = this.#words;
    return [summarizePage, quizMe, explainSimply];
  }

  /** @param {string} question */
  #askAboutPage(question) {
    this.#show(null);
    const url = pageAddress();
    const [heading] = this.#options.book().flatMap((part) => [...part.querySelectorAll("h1")]);
    const range = document.createRange();
    if (heading) range.selectNodeContents(heading);
    const title = textOf(range) || document.title;
    this.composer.choose(null);
    this.composer.attach(url ? { url, title } : null);
    this.conversation.ask(question, null, this.#store.page);
  }

  /** Makes place for another panel, and returns what that needs to go on. */
  destroy() {
    const { isOpen, excerpt } = { isOpen: this.dialog.open, excerpt: this.composer.excerpt };
    this.passage.hide();
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
      this.#leave();
    });
    // The gesture that goes back on a phone.
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.#leave();
    });
    // Some browsers close a dialog whatever its page says.
    dialog.addEventListener("close", () => this.#afterClosing());
    const onResize = () => {
      // A tablet's keyboard makes the window small, and moving the dialog would take it away again.
      const isTyping =
        this.#options.root.activeElement === this.composer.textbox && matchMedia("(pointer: coarse)").matches;
      if (!dialog.open || isTyping) return;
      dialog.close();
      this.#showDialog();
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
    signal.addEventListener("abort", () => clearTimeout(timer));
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
    signal.addEventListener("abort", () => {
      observer.disconnect();
      clearTimeout(timer);
    });
  }

  // On the screen

  /**
   * Opens the panel, with this part of the page as the text to ask about, and with this question in the field. What opens by itself
   * leaves the focus where it is.
   * @param {{ range?: Range, excerpt?: string | null, question?: string, request?: string, isByItself?: boolean }} how
   *   `request` is what is asked about the text at once
   */
  open({ range, excerpt, question, request, isByItself = false }) {
    if (!isByItself) this.#show(null);
    const chosen = range ? textOf(range) : excerpt;
    if (chosen) this.composer.choose(chosen);
    if (question) this.composer.textbox.value = question;
    if (!this.dialog.open) {
      this.#isOpen = true;
      this.#showDialog();
      this.#options.onToggle(true);
      this.conversation.show();
      this.#tell("open");
    }
    this.composer.fit();
    if (request) this.composer.request(request);
    if (isByItself) return;
    // On a phone the field's keyboard would hide what the reader opened the panel for.
    if (SMALL.matches && (request || (!range && !question))) this.dialog.querySelector("h2")?.focus();
    else this.composer.textbox.focus();
  }

  /** Goes a step back: to the conversation, or else to the page. */
  #leave() {
    if (this.#view) this.#goBack();
    else this.close();
  }

  close() {
    this.dialog.close();
    this.#afterClosing();
  }

  #afterClosing() {
    if (this.dialog.open || !this.#isOpen) return;
    this.#isOpen = false;
    this.passage.hide();
    this.dock.show(false);
    document.documentElement.classList.remove("book-chat-modal");
    this.#options.onToggle(false);
    this.#tell("close");
  }

  #showDialog() {
    this.dialog.classList.toggle("modal", SMALL.matches);
    document.documentElement.classList.toggle("book-chat-modal", SMALL.matches);
    if (SMALL.matches) this.dialog.showModal();
    // Its `show` would take the focus, which after a reload belongs to the page.
    else this.dialog.setAttribute("open", "");
    this.dock.show(true);
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

  /** Shows this in the place of the conversation, or the conversation again. @param {View | null} view */
  #show(view) {
    if (view === this.#view) return;
    this.passage.hide();
    this.#view?.close();
    this.#view = view;
    this.list.setAttribute("aria-expanded", String(view === this.conversations));
    this.conversation.log.element.hidden = view !== null;
    this.bottom.hidden = view !== null;
    view?.open();
  }

  /** Shows the conversation again; the focus goes back to where it came from. */
  #goBack() {
    const button = this.#view === this.conversations ? this.list : this.menu.button;
    this.#show(null);
    button.focus();
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

  /** Gives the focus to the field, or where its keyboard would cover the conversation, to that. */
  #focusConversation() {
    const { log } = this.conversation;
    if (SMALL.matches) log.element.focus({ preventScroll: true });
    else this.composer.textbox.focus();
  }

  /** @param {string} session */
  #openConversation(session) {
    this.#show(null);
    // The one that is shown stays as it is, with what the next question is about.
    if (session !== this.conversation.session) {
      this.composer.choose(null);
      this.composer.attach(null);
      this.conversation.open(session);
    }
    this.conversation.log.toLatest();
    this.#focusConversation();
  }

  #startAnew() {
    this.#show(null);
    this.composer.choose(null);
    this.composer.attach(null);
    // It may give back what it was about.
    this.conversation.startAnew();
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
    this.composer.choose(null);
    this.conversation.note(this.#words.deletedAll);
    return true;
  }

  /** @param {MouseEvent} event @param {URL} url */
  #visit(event, url) {
    if (visit(event, url) && SMALL.matches) this.close();
  }
}
