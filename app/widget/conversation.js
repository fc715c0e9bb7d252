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
/** @import { Page, Pending, Store } from "./store.js" */

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
 * @property {(isOpen: boolean) => void} onOwnWords  called when another field to write in opens and closes
 * @property {string[]} [questions]  the owner's own, to begin with
 * @property {(what: "question" | "answer" | "error" | "feedback", detail: object) => void} onTell  tells the page what happens
 * @property {() => void} onChange  called when an answer begins or ends, or the conversation is another
 */

export class Conversation {
  #options;
  #words;
  #store;
  #service;
  log;
  /** @type {Turn[]} */
  #turns = [];
  /** @type {{ turn: Turn, abort: AbortController } | null} */
  #running = null;
  /** The conversation that is shown, and where its earlier messages are. @type {{ session: string | null, before: string | null }} */
  #shown = { session: null, before: null };
  /** What is asked next, in this order. @type {Turn[]} */
  #queued = [];
  /** Lets other tabs begin a conversation. */
  #onBegun = () => {};
  #isStale = true;
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

  /** Shows the conversation as it is, once the panel is open. */
  show() {
    if (this.#isStale) this.#restore({ isOwner: true });
    else if (this.#turns.length === 0) this.#welcome();
    if (this.#turns.length > 0) this.log.toLatest();
  }

  /** Stops the answer that is being written. */
  stop() {
    this.#running?.abort.abort();
  }

  /** Ends without a trace: another page, or another panel, goes on with what is being asked. */
  leave() {
    this.#polls++;
    this.#queued = [];
    for (const turn of this.#turns) turn.pending = null;
    this.stop();
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
    const session = this.#store.session;
    this.#polls++;
    if (session) {
      if (session !== this.#shown.session) this.log.element.replaceChildren(loading(this.#words));
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
          this.note(this.#words.deleted);
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

  /** @param {Item[]} items  oldest first @param {boolean} isOwner */
  #draw(items, isOwner) {
    this.#clear();
    if (this.#shown.before) this.log.element.append(this.#earlierButton());
    for (const turn of this.#addItems(items)) this.#append(turn);
    this.#addPending(items, isOwner);
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
      if (page && !page.data[0]?.answering && page.data[0]?.id !== this.#turns.at(-1)?.lastId)
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
      onContinue: () => this.ask(this.#words.more),
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
    const next = welcome({ words: this.#words, book: book(), questions, onAsk: (text) => this.ask(text) });
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
    const turn = this.#append(this.#newTurn({ message, excerpt, page }));
    turn.pending = this.#newPending(turn);
    this.#store.keep(turn.pending);
    this.#options.onTell("question", { hasSelection: excerpt !== null });
    if (this.#running) this.#queue(turn);
    else this.#runAll([turn]);
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
    turn.element.remove();
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
    this.#runAll([turn]);
  }

  /**
   * @param {Turn} turn
   * @returns {Pending}
   */
  #newPending({ message, excerpt, page }) {
    const page_url = page?.url ?? pageAddress() ?? undefined;
    const scope = page && !excerpt ? /** @type {const} */ ("page") : undefined;
    const session_id = this.#store.session ?? undefined;
    const selected_text = excerpt ?? undefined;
    const question = { message, session_id, selected_text, page_url, scope, follow_ups: true, snippets: true };
    return { key: newId(), question, after: this.#lastId, askedAt: Date.now(), state: "queued" };
  }

  /** The last message that is known. */
  get #lastId() {
    return this.#turns.findLast(({ lastId }) => lastId)?.lastId ?? null;
  }

  /** Asks one after the other, and then what was asked meanwhile. @param {Turn[]} turns */
  async #runAll(turns) {
    this.#queued.push(...turns);
    for (let turn = this.#queued.shift(); turn; turn = this.#queued.shift()) {
      // The conversation has gone on: what was not answered before is not asked again.
      for (const before of this.#turns.slice(0, this.#turns.indexOf(turn))) this.#drop(before);
      const isAnswered = await this.#run(turn);
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
    const release = this.#store.session ? () => {} : await this.#store.lock(signal);
    pending.question.session_id = this.#store.session ?? undefined;
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
    this.#running = { turn, abort };
    this.#polls++;
    this.#changed();
    /** @param {Pending["state"]} state */
    const keep = (state) => this.#store.keep({ ...pending, state });
    turn.tellWithoutBook(false);
    turn.wait(this.#words.thinking);
    this.log.goTo(turn.element);
    try {
      if (pending.state === "queued") this.#onBegun = await this.#goOn(pending, abort.signal);
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
      this.#onBegun();
      if (this.#running?.turn === turn) this.#running = null;
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
          followUps,
        };
        this.#options.announce(`${this.#words.answer}: ${turn.finish(answered)}`);
        const seconds = Math.round((Date.now() - pending.askedAt) / 1000);
        this.#options.onTell("answer", { seconds, sources: answered.sources.length });
      }
    }
  }

  /** Goes on in this conversation; it is a new one if the one before was deleted. @param {string} session @param {Pending} pending */
  #enter(session, pending) {
    if (session !== this.#store.session) this.#enterAnother(session, pending);
    this.#onBegun();
  }

  /** @param {string} session @param {Pending} pending */
  #enterAnother(session, pending) {
    if (pending.question.session_id) {
      this.#running?.turn.element.before(announced(this.#words.deleted, { class: "note" }));
    }
    this.#store.session = session;
    this.#shown = { session, before: null };
    this.log.element.querySelector(".earlier")?.remove();
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
    this.#store.keep({ ...pending, state: "failed" });
    turn.fail(failure);
  }

  /** Begins another conversation. */
  startAnew() {
    this.#leaveSession(null);
    this.#welcome();
    this.#changed();
  }

  /** Shows another conversation of the reader, to be continued. @param {string} session */
  open(session) {
    if (session === this.#store.session) return;
    this.#leaveSession(session);
    this.#changed();
    this.#restore({ isOwner: false });
  }

  /** @param {string | null} next */
  #leaveSession(next) {
    this.#queued = [];
    for (const turn of this.#turns) this.#drop(turn);
    this.#running?.abort.abort();
    this.#running = null;
    this.#store.session = next;
    this.#shown = { session: null, before: null };
    this.#polls++;
    this.#clear();
  }
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
