/**
 * The chat itself: the panel with the conversation, and the field to ask in.
 *
 * A question is kept in the browser until its answer is there, so neither a reload nor a lost connection asks it twice or loses it.
 * All tabs of one site show the same conversation.
 */

import { h, icon, iconButton } from "./dom.js";
import { textOf } from "./excerpt.js";
import { fill } from "./languages.js";
import { Failure, Service } from "./service.js";
import { newId, Store } from "./store.js";
import { css } from "./styles.js";
import { messageOf, quoted, Turn } from "./turn.js";

/** @import { Words } from "./languages.js" */
/** @import { Item } from "./service.js" */
/** @import { Pending } from "./store.js" */

/** Where the panel fills the screen, and the page behind it is out of reach. */
const SMALL = matchMedia("(max-width: 640px), (max-height: 440px)");

const POLL_MS = 2000;
const MOST_POLLS = 165;

/** The reader's own question must be changed, not sent again. */
const TO_BE_CHANGED = ["validation_error", "payload_too_large", "too_long_for_model"];

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
  /** @type {Turn[]} */
  #turns = [];
  /** @type {{ turn: Turn, abort: AbortController } | null} */
  #running = null;
  /** @type {string | null} */
  #excerpt = null;
  /** The conversation that is shown, and where its earlier messages are. @type {{ session: string | null, before: string | null }} */
  #shown = { session: null, before: null };
  #isOpen = false;
  #isStale = true;
  #isFollowing = true;
  #polls = 0;

  /** @param {PanelOptions} options */
  constructor(options) {
    this.#options = options;
    this.#words = options.words;
    this.#store = new Store(options.service);
    this.#service = new Service(options.service, this.#store);
    const { words } = options;

    this.log = h("div", {
      class: "log",
      role: "log",
      "aria-live": "off",
      "aria-label": words.conversation,
      tabindex: 0,
    });
    this.status = h("div", { class: "sr", role: "status" });
    this.latest = iconButton("down", words.latest, () => this.#toLatest(), {
      class: "icon-button latest",
      hidden: true,
    });
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
      { type: "button", class: "round stop", "aria-label": words.stop, title: words.stop, hidden: true },
      h("i"),
    );
    this.form = h(
      "form",
      { class: "composer" },
      this.chosen,
      h("div", { class: "field" }, this.textbox, this.send, this.stop),
    );
    this.small = h("div", { class: "disclaimer" });
    this.width = iconButton("widen", words.expand, () => this.#toggleWidth(), {
      class: "icon-button width",
      "aria-pressed": "false",
    });
    this.dialog = h(
      "dialog",
      { class: "panel", "aria-labelledby": "title", dir: words.dir === "rtl" ? "rtl" : undefined },
      h(
        "div",
        { class: "head" },
        h("h2", { id: "title", tabindex: -1 }, options.title ?? words.ask),
        this.width,
        iconButton("fresh", words.newConversation, () => this.#startAnew()),
        iconButton("close", words.close, () => this.close()),
      ),
      this.log,
      h("div", { class: "bottom" }, this.latest, this.form, this.small),
      this.status,
    );
    this.#listen();
    this.#disclaim();

    const styles = new CSSStyleSheet();
    styles.replaceSync(css);
    options.root.adoptedStyleSheets.push(styles);
    options.root.append(this.dialog);
    this.textbox.value = this.#store.draft;
  }

  /**
   * Opens the panel, with this part of the page as the text to ask about. After a reload the focus stays where it is.
   * @param {{ range?: Range, isReload?: boolean }} how
   */
  open({ range, isReload = false }) {
    if (range) this.#choose(textOf(range) || null);
    if (!this.dialog.open) {
      this.#isOpen = true;
      this.#show();
      this.#fitTextbox();
      this.#options.onToggle(true);
      if (this.#isStale) this.#restore({ isOwner: true });
      else if (this.#turns.length === 0) this.#welcome();
      if (this.#turns.length > 0) this.#toLatest();
    }
    if (isReload) return;
    // On a phone the field's keyboard would hide what the reader opened the panel for.
    if (SMALL.matches && !range) this.dialog.querySelector("h2")?.focus();
    else this.textbox.focus();
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

  #listen() {
    const { dialog, form, textbox, log } = this;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.stop.addEventListener("click", () => this.#running?.abort.abort());
    textbox.addEventListener("input", () => this.#fitTextbox());
    textbox.addEventListener("keydown", (event) => {
      // Enter also ends the spelling of a word in Japanese and other languages.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.#submit();
    });
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
    let lastTop = 0;
    log.addEventListener(
      "scroll",
      () => {
        const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
        if (isAtEnd) this.#isFollowing = true;
        else if (log.scrollTop < lastTop - 2) this.#isFollowing = false;
        lastTop = log.scrollTop;
        this.latest.hidden = isAtEnd;
      },
      { passive: true },
    );
    SMALL.addEventListener("change", () => {
      // A tablet's keyboard makes the window small, and moving the dialog would take it away again.
      const isTyping = this.#options.root.activeElement === textbox && matchMedia("(pointer: coarse)").matches;
      if (!dialog.open || isTyping) return;
      dialog.close();
      this.#show();
    });
    visualViewport?.addEventListener("resize", () => this.#fitScreen());
    visualViewport?.addEventListener("scroll", () => this.#fitScreen());
    let timer = 0;
    this.#store.onChange(() => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        this.#isStale = true;
        if (dialog.open && !this.#running) this.#restore({ isOwner: false });
      }, 200);
    });
    // Suggestions are taken from the page, and a single-page site changes it.
    window.navigation?.addEventListener("navigatesuccess", () =>
      setTimeout(() => this.#turns.length === 0 && dialog.open && this.#welcome(), 100),
    );
  }

  // The conversation

  /**
   * Reads the conversation back, and goes on with what is not answered yet.
   * @param {{ isOwner: boolean }} how  only the page that asked, or the first one after it, asks again
   */
  async #restore({ isOwner }) {
    this.#isStale = false;
    const session = this.#store.session;
    this.#polls++;
    if (session) {
      if (session !== this.#shown.session) this.log.replaceChildren(loading(this.#words));
      try {
        const page = await this.#service.history(session);
        if (this.#running || session !== this.#store.session) return;
        this.#shown = { session, before: page.has_more ? page.after : null };
        this.#draw(page.data.reverse(), isOwner);
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        if (error.code === "not_found") {
          this.#store.session = null;
          for (const pending of this.#store.pending)
            if (pending.question.session_id === session) this.#store.forget(pending);
          this.#draw([], isOwner);
          this.#note(this.#words.deleted);
        } else this.#failToRestore(error, isOwner);
      }
    } else {
      this.#shown = { session: null, before: null };
      this.#draw([], isOwner);
    }
  }

  /** @param {Failure} failure @param {boolean} isOwner */
  #failToRestore(failure, isOwner) {
    this.#isStale = true;
    const retry = h(
      "button",
      { type: "button", class: "retry", onclick: () => this.#restore({ isOwner }) },
      this.#words.retry,
    );
    // What the reader can do something about.
    const isTold = ["network", "refused_origin", "rate_limited"].includes(failure.code);
    const why = isTold ? messageOf(failure, this.#words, this.#options.lang) : "";
    this.log.replaceChildren(
      h(
        "div",
        { class: "problem" },
        icon("warn"),
        h("p", { role: "alert" }, `${this.#words.errors.history} ${why}`),
        retry,
      ),
    );
  }

  /** @param {Item[]} items  oldest first @param {boolean} isOwner */
  #draw(items, isOwner) {
    this.#turns = [];
    this.#setAside(false);
    this.log.replaceChildren();
    if (this.#shown.before) this.log.append(this.#earlierButton());
    for (const turn of this.#addItems(items)) this.#append(turn);
    this.#addPending(items, isOwner);
    if (this.#turns.length > 0) this.#toLatest();
    else this.#welcome();
  }

  /**
   * Returns the turns of these messages.
   * @param {Item[]} items  oldest first
   */
  #addItems(items) {
    /** @type {Turn[]} */
    const turns = [];
    for (const item of items) {
      if (item.role === "user") {
        const turn = this.#newTurn({ message: item.content, excerpt: item.selected_text });
        turn.lastId = item.id;
        if (item.answering) turn.wait(this.#words.waiting);
        turns.push(turn);
      } else if (item.role === "assistant") {
        // The question of the first answer can be on the page before.
        const turn = turns.at(-1) ?? this.#newTurn({ message: "" });
        if (turns.length === 0) turns.push(turn);
        turn.finish({
          text: item.content,
          messageId: item.id,
          sources: item.sources ?? [],
          feedback: item.feedback?.rating ?? null,
          truncated: item.truncated,
        });
      }
    }
    return turns;
  }

  /** @param {Item[]} items @param {boolean} isOwner */
  #addPending(items, isOwner) {
    /** @type {Turn[]} */
    const unanswered = [];
    for (const pending of this.#store.pending) {
      const { question, after } = pending;
      const from = items.findIndex(({ id }) => id === after) + 1;
      const index = items.findIndex(
        (item, place) =>
          place >= from &&
          item.role === "user" &&
          item.content === question.message &&
          (item.selected_text ?? undefined) === question.selected_text,
      );
      if (items[index + 1]?.role === "assistant" && index >= 0) {
        this.#store.forget(pending);
        continue;
      }
      const known = index >= 0 ? this.#turns.find(({ lastId }) => lastId === items[index].id) : undefined;
      const turn = known ?? this.#append(this.#newTurn({ message: question.message, excerpt: question.selected_text }));
      turn.pending = pending;
      if (pending.state === "asking") unanswered.push(turn);
      else if (pending.state === "stopped") turn.stop();
      else turn.leaveUnanswered();
    }
    const last = this.#turns.at(-1);
    for (const turn of this.#turns) if (turn !== last) turn.settle();
    if (unanswered.length > 0 && isOwner) this.#runAll(unanswered);
    else if (unanswered.length > 0 || items.at(-1)?.answering) {
      for (const turn of unanswered) turn.wait(this.#words.waiting);
      this.#poll();
    } else if (last && !last.pending && items.at(-1)?.role === "user") last.leaveUnanswered();
  }

  /** Looks again and again for an answer that another page, or the service by itself, is fetching. */
  async #poll() {
    const poll = ++this.#polls;
    for (let count = 0; count < MOST_POLLS; count++) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      if (poll !== this.#polls || this.#running || !this.dialog.open) return;
      const session = this.#store.session;
      const page = session ? await this.#service.history(session).catch(() => null) : null;
      if (poll !== this.#polls || this.#running) return;
      if (page && !page.data[0]?.answering && page.data[0]?.id !== this.#turns.at(-1)?.lastId)
        return this.#restore({ isOwner: false });
    }
  }

  async #showEarlier() {
    const { session, before } = this.#shown;
    const button = this.log.querySelector(".earlier");
    if (!session || !before || !button) return;
    button.setAttribute("aria-busy", "true");
    try {
      const page = await this.#service.history(session, before);
      if (session !== this.#shown.session) return;
      this.#shown.before = page.has_more ? page.after : null;
      const turns = this.#addItems(page.data.reverse());
      const { scrollHeight, scrollTop } = this.log;
      button.replaceWith(
        ...(this.#shown.before ? [this.#earlierButton()] : []),
        ...turns.map(({ element }) => element),
      );
      this.#turns.unshift(...turns);
      this.log.scrollTop = scrollTop + this.log.scrollHeight - scrollHeight;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      button.removeAttribute("aria-busy");
    }
  }

  #earlierButton() {
    return h(
      "button",
      { type: "button", class: "chip earlier", onclick: () => this.#showEarlier() },
      this.#words.earlier,
    );
  }

  /** @param {{ message: string, excerpt?: string | null }} question */
  #newTurn(question) {
    return new Turn(question, {
      words: this.#words,
      lang: this.#options.lang,
      onVisit: (event, url) => this.#visit(event, url),
      onRetry: (turn) => this.#retry(turn),
      onContinue: () => this.#ask(this.#words.more),
      onOwnWords: (isOpen) => this.#setAside(isOpen),
      onRate: (messageId, rating, comment) => this.#service.rate(this.#shown.session ?? "", messageId, rating, comment),
    });
  }

  /** @param {Turn} turn */
  #append(turn) {
    this.log.querySelector(".welcome")?.remove();
    turn.onGrow = () => this.#follow(turn);
    this.#turns.push(turn);
    this.log.append(turn.element);
    return turn;
  }

  /** Says something between the messages. @param {string} text */
  #note(text) {
    this.log.append(h("p", { class: "note", role: "status" }, text));
  }

  #welcome() {
    const words = this.#words;
    const suggestions = this.#suggestions().map((text) =>
      h(
        "button",
        { type: "button", class: "suggestion", onclick: () => this.#ask(text) },
        h("span", { dir: "auto" }, text),
      ),
    );
    this.log.querySelector(".welcome")?.remove();
    this.log.append(
      h(
        "div",
        { class: "welcome" },
        icon("book"),
        h("h3", {}, words.welcome),
        h("p", {}, words.hint),
        suggestions.length > 0 && h("div", { class: "suggestions" }, h("p", {}, words.suggestions), ...suggestions),
      ),
    );
  }

  /** Returns questions about the page that the reader is on. */
  #suggestions() {
    /** @param {string} selector */
    const headings = (selector) =>
      this.#options
        .book()
        .flatMap((part) => [...part.querySelectorAll(selector)])
        .map((heading) => {
          const range = document.createRange();
          range.selectNodeContents(heading);
          return textOf(range);
        })
        .filter((text) => text && text.length <= 70);
    const [title] = headings("h1");
    return [
      ...(title ? [fill(this.#words.summarize, { heading: title })] : []),
      ...headings("h2")
        .slice(0, title ? 2 : 3)
        .map((heading) => fill(this.#words.explain, { heading })),
    ];
  }

  // Asking

  #submit() {
    const message = this.textbox.value.trim();
    if (!message || this.#running) return;
    const excerpt = this.#excerpt;
    this.textbox.value = "";
    this.#fitTextbox();
    this.#choose(null);
    this.#ask(message, excerpt);
  }

  /** @param {string} message @param {string | null} [excerpt] */
  #ask(message, excerpt = null) {
    if (this.#running) return;
    // The conversation has gone on: what was not answered before is not asked again.
    for (const turn of this.#turns) this.#drop(turn);
    const turn = this.#append(this.#newTurn({ message, excerpt }));
    turn.pending = this.#newPending(turn);
    this.#runAll([turn]);
  }

  /** Gives up a question that is not answered. @param {Turn} turn */
  #drop(turn) {
    if (turn.pending) this.#store.forget(turn.pending);
    turn.pending = null;
    turn.settle();
  }

  /** @param {Turn} turn */
  #retry(turn) {
    if (this.#running) return;
    turn.pending ??= this.#newPending(turn);
    this.#runAll([turn]);
    this.textbox.focus({ preventScroll: true });
  }

  /**
   * @param {Turn} turn
   * @returns {Pending}
   */
  #newPending({ message, excerpt }) {
    // What follows the path can hold secrets.
    const page = location.origin + location.pathname;
    const page_url = page.startsWith("http") && page.length <= 2000 ? page : undefined;
    const session_id = this.#store.session ?? undefined;
    const question = { message, session_id, selected_text: excerpt ?? undefined, page_url };
    const after = this.#turns.findLast(({ lastId }) => lastId)?.lastId ?? null;
    return { key: newId(), question, after, askedAt: Date.now(), state: "asking" };
  }

  /** Asks one after the other. @param {Turn[]} turns */
  async #runAll(turns) {
    for (const turn of turns) {
      await this.#run(turn);
      if (turn.pending) return;
    }
  }

  /** Asks the turn's pending question, and shows what comes of it. @param {Turn} turn */
  async #run(turn) {
    let pending = /** @type {Pending} */ (turn.pending);
    const abort = new AbortController();
    this.#running = { turn, abort };
    this.#polls++;
    this.#showRunning();
    /** @param {Pending["state"]} state */
    const keep = (state) => this.#store.keep({ ...pending, state });
    keep("asking");
    turn.wait(this.#words.thinking);
    this.#isFollowing = true;
    this.#follow(turn);
    try {
      await this.#tell(turn, pending, abort.signal).catch((error) => {
        if (error?.code !== "idempotency_conflict") throw error;
        // The key has been used for something else, so this question was never asked.
        this.#store.forget(pending);
        pending = { ...pending, key: newId() };
        turn.pending = pending;
        keep("asking");
        return this.#tell(turn, pending, abort.signal);
      });
      this.#store.forget(pending);
      turn.pending = null;
    } catch (error) {
      if (abort.signal.aborted) {
        // A turn that was dropped is not shown any more.
        if (turn.pending) {
          keep("stopped");
          turn.stop();
        }
      } else {
        const failure = error instanceof Failure ? error : new Failure("internal_error", { message: String(error) });
        if (!(error instanceof Failure)) console.error(error);
        this.#fail(turn, failure, pending);
      }
    } finally {
      if (this.#running?.turn === turn) this.#running = null;
      this.#showRunning();
    }
  }

  /** @param {Turn} turn @param {Pending} pending @param {AbortSignal} signal */
  async #tell(turn, pending, signal) {
    let text = "";
    for await (const { name, data } of this.#service.ask(pending, signal)) {
      signal.throwIfAborted();
      if (name === "session") {
        text = "";
        this.#enter(data.session_id, pending);
      } else if (name === "sources") turn.cite(data.sources);
      else if (name === "delta") {
        text += data.text;
        turn.stream(text);
      } else if (name === "waiting") turn.wait(this.#words[data.why]);
      else if (name === "done") {
        this.#enter(data.session_id, pending);
        const answered = {
          text: data.response,
          messageId: data.message_id,
          sources: data.sources ?? [],
          feedback: null,
          truncated: data.truncated,
        };
        this.status.textContent = `${this.#words.answer}: ${turn.finish(answered)}`;
      }
    }
  }

  /** Goes on in this conversation; it is a new one if the one before was deleted. @param {string} session @param {Pending} pending */
  #enter(session, pending) {
    if (session === this.#store.session) return;
    if (pending.question.session_id) {
      const place = this.#running?.turn.element;
      place?.before(h("p", { class: "note", role: "status" }, this.#words.deleted));
    }
    this.#store.session = session;
    this.#disclaim();
    this.#shown = { session, before: null };
    this.log.querySelector(".earlier")?.remove();
  }

  /** @param {Turn} turn @param {Failure} failure @param {Pending} pending */
  #fail(turn, failure, pending) {
    if (TO_BE_CHANGED.includes(failure.code)) {
      this.#store.forget(pending);
      turn.pending = null;
      turn.fail(failure);
      turn.settle();
      if (!this.textbox.value) {
        this.textbox.value = turn.message;
        this.#fitTextbox();
        if (turn.excerpt) this.#choose(turn.excerpt);
      }
      return;
    }
    this.#store.keep({ ...pending, state: "failed" });
    turn.fail(failure);
  }

  #startAnew() {
    for (const turn of this.#turns) this.#drop(turn);
    this.#running?.abort.abort();
    this.#running = null;
    this.#store.session = null;
    this.#shown = { session: null, before: null };
    this.#polls++;
    this.#turns = [];
    this.#setAside(false);
    this.log.replaceChildren();
    this.#choose(null);
    this.#welcome();
    this.#showRunning();
    this.textbox.focus();
  }

  // What stands below the field

  /** Says that answers can be wrong, and offers to delete what there is of them. */
  #disclaim() {
    const { words } = this.#options;
    const ask = h("button", { type: "button", class: "quiet", onclick: () => this.#askToDelete() }, words.deleteAll);
    this.small.replaceChildren(h("span", {}, words.disclaimer), " ", ...(this.#store.hasReader ? [ask] : []));
    return ask;
  }

  #askToDelete() {
    const { words } = this.#options;
    const no = h(
      "button",
      { type: "button", class: "quiet", onclick: () => this.#disclaim().focus() },
      words.deleteAllNo,
    );
    const yes = h(
      "button",
      { type: "button", class: "quiet danger", onclick: () => this.#deleteAll() },
      words.deleteAllYes,
    );
    this.small.replaceChildren(h("span", { role: "alert" }, words.deleteAllSure), " ", yes, " ", no);
    no.focus();
  }

  async #deleteAll() {
    const words = this.#words;
    for (const button of this.small.querySelectorAll("button")) button.disabled = true;
    try {
      await this.#service.deleteAll();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.#disclaim().focus();
      this.small.firstChild?.replaceWith(h("span", { role: "alert" }, words.errors.deletion));
      return;
    }
    this.#startAnew();
    this.#store.forgetReader();
    this.#disclaim();
    this.textbox.value = "";
    this.#fitTextbox();
    this.#note(words.deletedAll);
  }

  // The field

  /** @param {string | null} excerpt */
  #choose(excerpt) {
    this.#excerpt = excerpt;
    this.chosen.hidden = excerpt === null;
    this.chosen.replaceChildren();
    if (excerpt === null) return;
    const remove = iconButton("close", this.#words.removeExcerpt, () => {
      this.#choose(null);
      this.textbox.focus();
    });
    this.chosen.append(icon("quote"), quoted(excerpt, this.#words), remove);
  }

  /** Takes the field away while there is another one. @param {boolean} isAside */
  #setAside(isAside) {
    this.form.inert = isAside;
    if (isAside) this.form.setAttribute("aria-hidden", "true");
    else this.form.removeAttribute("aria-hidden");
  }

  #fitTextbox() {
    const { textbox } = this;
    this.#store.draft = textbox.value;
    // What is typed decides its direction; the placeholder has that of the interface.
    textbox.dir = textbox.value ? "auto" : "";
    textbox.style.height = "auto";
    textbox.style.height = `${textbox.scrollHeight}px`;
    this.send.disabled = textbox.value.trim() === "";
  }

  #showRunning() {
    const isRunning = this.#running !== null;
    const hadFocus = this.#options.root.activeElement;
    this.send.hidden = isRunning;
    this.stop.hidden = !isRunning;
    this.log.setAttribute("aria-busy", String(isRunning));
    if (hadFocus === this.send || hadFocus === this.stop) this.textbox.focus({ preventScroll: true });
  }

  // The panel on the screen

  #toggleWidth() {
    const isWide = this.dialog.classList.toggle("wide");
    const label = isWide ? this.#words.shrink : this.#words.expand;
    this.width.setAttribute("aria-label", label);
    this.width.title = label;
    this.width.replaceChildren(icon(isWide ? "narrow" : "widen"));
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

  #toLatest() {
    this.log.scrollTop = this.log.scrollHeight;
    this.#isFollowing = true;
  }

  /** Keeps up with a growing answer until its question is at the top, where the reader begins to read. @param {Turn} turn */
  #follow(turn) {
    const { log } = this;
    if (this.#isFollowing) {
      const top = turn.element.offsetTop - log.offsetTop - 12;
      log.scrollTop = Math.min(log.scrollHeight - log.clientHeight, Math.max(top, 0));
    }
    this.latest.hidden = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  }

  /**
   * Follows a link within a single-page site without a reload. A site can do so itself, by answering the event `book-chat:navigate`
   * with `preventDefault()`.
   * @param {MouseEvent} event @param {URL} url
   */
  #visit(event, url) {
    if (
      url.origin !== location.origin ||
      event.button !== 0 ||
      event.metaKey ||
      event.ctrlKey ||
      event.shiftKey ||
      event.altKey
    )
      return;
    const navigate = new CustomEvent("book-chat:navigate", {
      bubbles: true,
      composed: true,
      cancelable: true,
      detail: { url: url.href },
    });
    if (!this.dialog.dispatchEvent(navigate)) event.preventDefault();
    else if (isDocusaurusPage(url)) {
      event.preventDefault();
      // Its router listens to the history.
      history.pushState(null, "", url.href);
      dispatchEvent(new PopStateEvent("popstate", { state: null }));
    }
    if (SMALL.matches) this.close();
  }
}

/** Whether this address is a page of the Docusaurus site that the widget is on. @param {URL} url */
function isDocusaurusPage(url) {
  if (!("docusaurus" in window) || /\.(?!html$)\w+$/.test(url.pathname)) return false;
  const home = document.querySelector("a.navbar__brand")?.getAttribute("href") ?? "/";
  return url.href.startsWith(new URL(home, location.href).href);
}

/** @param {Words} words */
function loading(words) {
  return h(
    "div",
    { class: "loading", role: "status" },
    h("span", { class: "sr" }, words.loading),
    h("i"),
    h("i"),
    h("i"),
  );
}
