/**
 * One conversation: its turns on the screen, and what is asked in it.
 *
 * A question is kept in the browser until its answer is there, so neither a reload nor a lost connection asks it twice or loses it.
 * All tabs of one site show the same conversation.
 */

import { announced } from "./announcement.js";
import { safeUrl } from "./answer.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { Log, loading } from "./log.js";
import { Failure } from "./service.js";
import { newId } from "./store.js";
import { messageOf, Turn } from "./turn.js";
import { welcome } from "./welcome.js";

/** @import { Words } from "./languages.js" */
/** @import { Item, Service, Source } from "./service.js" */
/** @import { Page, Pending, Question, Store } from "./store.js" */

const POLL_MS = 2000;
const MOST_POLLS = 165;

const MOST_RELATED = 3;

/** The reader's own question must be changed, not sent again. */
const TO_BE_CHANGED = ["validation_error", "payload_too_large", "too_long_for_model"];

/**
 * @typedef {object} ConversationOptions
 * @property {Words} words
 * @property {string} lang
 * @property {Service} service
 * @property {Store} store
 * @property {() => Element[]} book  the parts of the page that are the book
 * @property {() => boolean} isShown  whether the panel is open
 * @property {(text: string) => void} announce  tells those who hear the page of what they cannot read in one piece
 * @property {(event: MouseEvent, url: URL) => void} onVisit  called before a link is followed
 * @property {(message: string, excerpt: string | null) => void} onPutBack  gives a question back to be changed
 * @property {() => void} onFocusLost  called when what had the focus is not there any more
 * @property {(isOpen: boolean) => void} onOwnWords  called when another field to write in opens and closes
 * @property {string[]} [questions]  the owner's own, to begin with
 * @property {(what: "question" | "answer" | "error" | "feedback", detail: object) => void} onTell  tells the page what happens
 * @property {() => void} onChange  called when an answer begins or ends, or the conversation is another
 */

/**
 * @typedef {object} Running  what is being asked
 * @property {Turn} turn
 * @property {AbortController} abort
 * @property {string | null} session  the conversation of all tabs when it began
 * @property {() => void} onBegun  lets other tabs begin a conversation
 */

export class Conversation {
  #options;
  #words;
  #store;
  #service;
  log;
  /** @type {Turn[]} */
  #turns = [];
  /** @type {Running | null} */
  #running = null;
  /** The conversation that is shown, and where its earlier messages are. @type {{ session: string | null, before: string | null }} */
  #shown = { session: null, before: null };
  /** What is asked next, in this order. @type {Turn[]} */
  #queued = [];
  #isStale = true;
  /** Whether the conversation is being read back. */
  #isReading = false;
  /** Whether the log has what is known of the conversation. */
  #isDrawn = false;
  /** Whether what is not answered yet is asked again once the conversation is drawn. */
  #isOwner = false;
  /** Is another number once what was begun before is of no concern any more. */
  #visit = 0;
  #polls = 0;

  /** @param {ConversationOptions} options */
  constructor(options) {
    this.#options = options;
    this.#words = options.words;
    this.#store = options.store;
    this.#service = options.service;
    this.log = new Log(options.words);
  }

  /** Whether an answer is being written. */
  get isRunning() {
    return this.#running !== null;
  }

  /** The conversation that is shown. */
  get session() {
    return this.#shown.session;
  }

  /** Shows the conversation as it is, once the panel is open. */
  show() {
    if (this.#isStale && !this.#running) this.#restore({ isOwner: true });
    else if (this.#isDrawn && this.#turns.length === 0) this.#welcome();
    if (this.#turns.length > 0) this.log.toLatest();
  }

  /** Stops the answer that is being written. */
  stop() {
    this.#running?.abort.abort();
  }

  /** Ends without a trace: another page, or another panel, goes on with what is being asked. */
  leave() {
    this.#visit++;
    this.#polls++;
    this.#queued = [];
    for (const turn of this.#turns) turn.pending = null;
    this.stop();
    this.#running = null;
  }

  /** Another tab has changed the conversation. */
  refresh() {
    this.#isStale = true;
    if (this.#options.isShown() && !this.#running) this.#restore({ isOwner: false });
  }

  /** The page is another one: what is suggested is about it. */
  refreshSuggestions() {
    if (this.log.element.querySelector(".welcome")) this.#welcome();
  }

  /**
   * Reads the conversation back, and goes on with what is not answered yet.
   * @param {{ isOwner: boolean }} how  only the page that asked, or the first one after it, asks again
   */
  async #restore({ isOwner }) {
    this.#isStale = false;
    this.#isOwner ||= isOwner;
    const session = this.#store.session;
    if (session !== this.#shown.session) this.#detach(session);
    if (!session) {
      this.#polls++;
      return this.#draw([]);
    }
    if (!this.#isDrawn) this.log.element.replaceChildren(loading(this.#words));
    const read = ++this.#polls;
    this.#isReading = true;
    const page = await this.#service.history(session).catch((error) => {
      if (error instanceof Failure) return error;
      throw error;
    });
    if (read !== this.#polls) return;
    this.#isReading = false;
    // Another tab has gone elsewhere, and tells this one.
    if (session !== this.#store.session) return;
    if (!(page instanceof Failure)) {
      this.#shown.before = page.has_more ? page.after : null;
      this.#draw(page.data.reverse());
    } else if (page.code === "not_found") {
      this.#store.session = null;
      this.#shown = { session: null, before: null };
      for (const pending of this.#store.pending) if (sessionOf(pending) === session) this.#store.forget(pending);
      this.#draw([]);
      this.note(this.#words.deleted);
    } else this.#failToRestore(page);
  }

  /** @param {Failure} failure */
  #failToRestore(failure) {
    this.#isStale = true;
    this.#isDrawn = false;
    const retry = h(
      "button",
      { type: "button", class: "retry", onclick: () => this.#restore({ isOwner: false }) },
      this.#words.retry,
    );
    // What the reader can do something about.
    const isTold = ["network", "refused_origin", "rate_limited"].includes(failure.code);
    const why = isTold ? messageOf(failure, this.#words, this.#options.lang) : "";
    this.log.element.replaceChildren(
      h(
        "div",
        { class: "problem" },
        icon("warn"),
        h("p", { role: "alert" }, `${this.#words.errors.history} ${why}`),
        retry,
      ),
    );
  }

  /** @param {Item[]} items  oldest first */
  #draw(items) {
    this.#clear();
    this.#isDrawn = true;
    if (this.#shown.before) this.log.element.append(this.#earlierButton());
    for (const turn of this.#addItems(items)) this.#append(turn);
    this.#addPending(items);
    if (this.#turns.length > 0) this.log.toLatest();
    else this.#welcome();
  }

  #clear() {
    this.#turns = [];
    this.#options.onOwnWords(false);
    this.log.element.replaceChildren();
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

  /** @param {Item[]} items */
  #addPending(items) {
    const isOwner = this.#isOwner;
    this.#isOwner = false;
    /** @type {Turn[]} */
    const unanswered = [];
    for (const pending of this.#store.pending) {
      if (sessionOf(pending) !== this.#shown.session) continue;
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
      const turn = known ?? this.#append(this.#newTurn(asAsked(question)));
      turn.pending = pending;
      if (pending.state === "asking" || pending.state === "queued") unanswered.push(turn);
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
      if (poll !== this.#polls || this.#running || !this.#options.isShown()) return;
      const session = this.#store.session;
      const page = session ? await this.#service.history(session).catch(() => null) : null;
      if (poll !== this.#polls || this.#running) return;
      if (page?.data.length && !page.data[0]?.answering && page.data[0]?.id !== this.#lastId)
        return this.#restore({ isOwner: false });
    }
  }

  async #showEarlier() {
    const { session, before } = this.#shown;
    const button = this.log.element.querySelector(".earlier");
    if (!session || !before || !button) return;
    button.setAttribute("aria-busy", "true");
    try {
      const page = await this.#service.history(session, before);
      if (session !== this.#shown.session) return;
      this.#shown.before = page.has_more ? page.after : null;
      const turns = this.#addItems(page.data.reverse());
      const more = this.#shown.before ? [this.#earlierButton()] : [];
      this.log.insertEarlier(button, [...more, ...turns.map(({ element }) => element)]);
      this.#turns.unshift(...turns);
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

  /** @param {{ message: string, excerpt?: string | null, page?: Page | null }} question */
  #newTurn(question) {
    return new Turn(question, {
      words: this.#words,
      lang: this.#options.lang,
      onVisit: this.#options.onVisit,
      onRetry: (turn) => this.#retry(turn),
      onFollowUp: (question) => this.ask(question, null, this.#store.page),
      onContinue: () => this.ask(this.#words.more, null, this.#store.page),
      onOwnWords: this.#options.onOwnWords,
      onRate: async (messageId, rating, comment) => {
        await this.#service.rate(this.#shown.session ?? "", messageId, rating, comment);
        this.#options.onTell("feedback", { rating });
      },
    });
  }

  /** @param {Turn} turn */
  #append(turn) {
    this.log.element.querySelector(".welcome")?.remove();
    for (const before of this.#turns) before.withdrawFollowUps();
    turn.onGrow = () => this.log.follow(turn.element);
    this.#turns.push(turn);
    this.log.element.append(turn.element);
    return turn;
  }

  /** Says something between the messages. @param {string} text */
  note(text) {
    this.log.element.append(announced(text, { class: "note" }));
  }

  #welcome() {
    const { book, questions } = this.#options;
    /** @param {string} text */
    const onAsk = (text) => this.ask(text, null, this.#store.page);
    const next = welcome({ words: this.#words, book: book(), questions, onAsk });
    const before = this.log.element.querySelector(".welcome");
    // What is the same stays, and with it the reader's focus.
    if (!before) this.log.element.append(next);
    else if (!before.isEqualNode(next)) before.replaceWith(next);
  }

  // Asking

  /**
   * Asks, as soon as the answer that is being written is there.
   * @param {string} message @param {string | null} [excerpt] @param {Page | null} [page]  which the answer is to come from alone
   */
  ask(message, excerpt = null, page = null) {
    this.#keepFocus(() => {
      const turn = this.#append(this.#newTurn({ message, excerpt, page }));
      turn.pending = this.#newPending(turn);
      this.#store.keep(turn.pending);
      this.#options.onTell("question", { hasSelection: excerpt !== null });
      if (this.#running) this.#queue(turn);
      else this.#runAll([turn]);
    });
  }

  /** Does this, which may take away the button that was pressed for it. @param {() => void} change */
  #keepFocus(change) {
    const root = /** @type {ShadowRoot} */ (this.log.element.getRootNode());
    const focused = root.activeElement;
    change();
    if (focused && !focused.isConnected) this.#options.onFocusLost();
  }

  /** @param {Turn} turn */
  #queue(turn) {
    this.#queued.push(turn);
    turn.waitInLine(() => this.#takeBack(turn));
    this.log.goTo(turn.element);
  }

  /** Gives a question that waits back to be changed. @param {Turn} turn */
  #takeBack(turn) {
    this.#queued = this.#queued.filter((other) => other !== turn);
    this.#turns = this.#turns.filter((other) => other !== turn);
    this.#drop(turn);
    this.#keepFocus(() => turn.element.remove());
    this.#options.onPutBack(turn.message, turn.excerpt);
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
    this.#keepFocus(() => this.#runAll([turn]));
  }

  /**
   * @param {Turn} turn
   * @returns {Pending}
   */
  #newPending({ message, excerpt, page }) {
    const page_url = page?.url ?? pageAddress() ?? undefined;
    const scope = page && !excerpt ? /** @type {const} */ ("page") : undefined;
    const { session } = this.#shown;
    const session_id = session ?? undefined;
    const selected_text = excerpt ?? undefined;
    const question = { message, session_id, selected_text, page_url, scope, follow_ups: true, snippets: true };
    return { key: newId(), question, session, after: this.#lastId, askedAt: Date.now(), state: "queued" };
  }

  /** The last message that is known. */
  get #lastId() {
    return this.#turns.findLast(({ lastId }) => lastId)?.lastId ?? null;
  }

  /** Asks one after the other, and then what was asked meanwhile. @param {Turn[]} turns */
  async #runAll(turns) {
    const visit = this.#visit;
    this.#queued.push(...turns);
    for (let turn = this.#queued.shift(); turn; turn = this.#queued.shift()) {
      // The conversation has gone on: what was not answered before is not asked again.
      for (const before of this.#turns.slice(0, this.#turns.indexOf(turn))) this.#drop(before);
      const isAnswered = await this.#run(turn);
      if (visit !== this.#visit) return;
      if (!isAnswered) break;
    }
    // What was asked after a question that failed may have meant its answer.
    for (const turn of this.#queued.reverse()) this.#takeBack(turn);
    if (this.#isStale && this.#options.isShown()) this.#restore({ isOwner: false });
  }

  /**
   * A question that has not been sent yet goes on in the conversation that there is by now. Returns what is called once that is known:
   * until then other tabs begin none.
   * @param {Pending} pending @param {AbortSignal} signal
   */
  async #goOn(pending, signal) {
    const release = this.#shown.session ? () => {} : await this.#store.lock(signal);
    const session = this.#shown.session ?? this.#store.session;
    this.#shown.session = session;
    pending.question.session_id = session ?? undefined;
    pending.session = session;
    pending.after = this.#lastId;
    pending.state = "asking";
    return release;
  }

  /**
   * Asks the turn's pending question, and shows what comes of it. Returns whether the conversation goes on: it was answered or stopped.
   * @param {Turn} turn
   */
  async #run(turn) {
    let pending = /** @type {Pending} */ (turn.pending);
    const abort = new AbortController();
    /** @type {Running} */
    const running = { turn, abort, session: null, onBegun: () => {} };
    this.#running = running;
    this.#polls++;
    // What is being read back is drawn when the answer is there.
    this.#isStale ||= this.#isReading;
    this.#isReading = false;
    this.#changed();
    /** @param {Pending["state"]} state */
    const keep = (state) => {
      pending.state = state;
      this.#store.keep(pending);
    };
    turn.tellWithoutBook(false);
    turn.wait(this.#words.thinking);
    this.log.goTo(turn.element);
    try {
      if (pending.state === "queued") running.onBegun = await this.#goOn(pending, abort.signal);
      running.session = this.#store.session;
      keep("asking");
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
      return true;
    } catch (error) {
      if (abort.signal.aborted) {
        // A turn that was dropped is not shown any more.
        if (turn.pending) {
          keep("stopped");
          turn.stop();
        }
        return true;
      }
      const failure = error instanceof Failure ? error : new Failure("internal_error", { message: String(error) });
      if (!(error instanceof Failure)) console.error(error);
      this.#fail(turn, failure, pending);
      this.#options.onTell("error", { code: failure.code });
      return false;
    } finally {
      running.onBegun();
      if (this.#running === running) this.#running = null;
      this.#changed();
    }
  }

  #changed() {
    this.log.element.setAttribute("aria-busy", String(this.isRunning));
    this.#options.onChange();
  }

  /** @param {Turn} turn @param {Pending} pending @param {AbortSignal} signal */
  async #tell(turn, pending, signal) {
    let text = "";
    /** @type {Source[]} */
    let found = [];
    /** @type {string[]} */
    let followUps = [];
    for await (const { name, data } of this.#service.ask(pending, signal)) {
      signal.throwIfAborted();
      if (name === "session") {
        text = "";
        this.#enter(data.session_id, pending);
      } else if (name === "sources") {
        found = data.sources;
        turn.cite(found);
        turn.tellWithoutBook(data.unavailable === true);
      } else if (name === "follow_ups") followUps = data.questions;
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
          related: relatedTo(data.sources ?? [], found),
          // What is asked next is known already if there is a question below.
          followUps: turn === this.#turns.at(-1) ? followUps : [],
        };
        this.#options.announce(`${this.#words.answer}: ${turn.finish(answered)}`);
        const seconds = Math.round((Date.now() - pending.askedAt) / 1000);
        this.#options.onTell("answer", { seconds, sources: answered.sources.length });
      }
    }
  }

  /** Goes on in this conversation; it is a new one if the one before was deleted. @param {string} session @param {Pending} pending */
  #enter(session, pending) {
    if (session !== sessionOf(pending)) this.#enterAnother(session, pending);
    this.#running?.onBegun();
  }

  /** @param {string} session @param {Pending} pending */
  #enterAnother(session, pending) {
    if (pending.question.session_id) {
      this.#running?.turn.element.before(announced(this.#words.deleted, { class: "note" }));
    }
    for (const { pending } of this.#turns) {
      if (!pending) continue;
      // What is asked next goes on there too, also after a reload.
      pending.session = session;
      this.#store.keep(pending);
    }
    // The reader may have gone elsewhere in another tab.
    if (this.#store.session === this.#running?.session) this.#store.session = session;
    this.#shown = { session, before: null };
    for (const other of this.log.element.querySelectorAll(".earlier, .loading")) other.remove();
    this.#options.onChange();
  }

  /** @param {Turn} turn @param {Failure} failure @param {Pending} pending */
  #fail(turn, failure, pending) {
    if (TO_BE_CHANGED.includes(failure.code)) {
      this.#store.forget(pending);
      turn.pending = null;
      turn.fail(failure);
      turn.settle();
      this.#options.onPutBack(turn.message, turn.excerpt);
      return;
    }
    pending.state = "failed";
    this.#store.keep(pending);
    turn.fail(failure);
  }

  /** Begins another conversation. */
  startAnew() {
    this.#leaveSession(null);
    this.#isDrawn = true;
    this.#welcome();
    this.#changed();
  }

  /** Shows another conversation of the reader, to be continued. @param {string} session */
  open(session) {
    if (session === this.#shown.session) return;
    this.#leaveSession(session);
    this.#changed();
    this.#restore({ isOwner: true });
  }

  /** @param {string | null} next */
  #leaveSession(next) {
    this.#store.session = next;
    this.#detach(next);
  }

  /**
   * Makes place for another conversation. What is not answered yet is asked again when this one is opened; if it has not begun, it
   * cannot be, and its questions are given back.
   * @param {string | null} next
   */
  #detach(next) {
    const unsent = this.#shown.session ? [] : this.#turns.filter((turn) => this.#isUnsent(turn));
    for (const turn of unsent.reverse()) {
      if (turn.pending) this.#store.forget(turn.pending);
      this.#options.onPutBack(turn.message, turn.excerpt);
    }
    this.leave();
    this.#shown = { session: next, before: null };
    this.#isReading = false;
    this.#isDrawn = false;
    this.#clear();
  }

  /** Whether the service never got this question, and no other tab is about to send it. @param {Turn} turn */
  #isUnsent(turn) {
    if (!turn.pending || sessionOf(turn.pending)) return false;
    return turn.pending.state === "failed" || this.#queued.includes(turn) || turn === this.#running?.turn;
  }
}

/** Returns the conversation that this question is in; null if that has not begun. @param {Pending} pending */
function sessionOf({ session, question }) {
  return session ?? question.session_id ?? null;
}

/** Returns what the question is about, to ask it once more. @param {Question} question */
function asAsked({ message, selected_text, scope, page_url }) {
  return { message, excerpt: selected_text, page: scope && page_url ? { url: page_url, title: "" } : null };
}

/** Returns what was found and not cited, each page once; nothing for an answer that cites nothing. @param {Source[]} cited @param {Source[]} found */
function relatedTo(cited, found) {
  if (cited.length === 0) return [];
  const known = new Set(cited.map(({ url }) => url));
  return found.filter(({ url }) => !known.has(url) && known.add(url)).slice(0, MOST_RELATED);
}

/**
 * Returns the address of the page that the reader is on, less what can hold secrets; null if the service does not take it. A preview or
 * a mirror of a site names the site's own address.
 */
export function pageAddress() {
  const canonical = document.querySelector("link[rel=canonical]")?.getAttribute("href");
  const own = canonical ? safeUrl(canonical) : null;
  const { origin, pathname } = own && own.origin !== location.origin ? own : location;
  const page = origin + pathname;
  return page.startsWith("http") && page.length <= 2000 ? page : null;
}
