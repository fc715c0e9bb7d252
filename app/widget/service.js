/**
 * The service's API, as `docs/api.md` describes it.
 */

/** @import { Pending, Store } from "./store.js" */

/** @typedef {{ number: number, title: string, url: string, snippet?: string }} Source */
/** @typedef {"positive" | "negative"} Rating */

/**
 * @typedef {object} Item  a message of a conversation that is read back
 * @property {string} id
 * @property {"user" | "assistant"} role
 * @property {string} content
 * @property {string | null} [selected_text]
 * @property {Source[] | null} [sources]
 * @property {{ rating: Rating, comment?: string } | null} [feedback]
 * @property {boolean} [truncated]
 * @property {boolean} [answering]
 */

/** @typedef {{ id: string, title: string | null, updated_at: string }} Session  a conversation in the list of the reader's own */

/** @typedef {{ response: string, session_id: string, message_id?: string, sources?: Source[], truncated?: boolean }} Done */

/**
 * @typedef {{ name: "session", data: { session_id: string } }
 *   | { name: "sources", data: { sources: Source[], unavailable?: boolean } }
 *   | { name: "delta", data: { text: string } }
 *   | { name: "follow_ups", data: { questions: string[] } }
 *   | { name: "done", data: Done }
 *   | { name: "waiting", data: { why: "reconnecting" | "offline" | "busy" | "waiting" } }} TurnEvent
 */

/** A stream is silent for 15 seconds at most; one that is silent for longer is lost, as after the computer has slept. */
const SILENCE_MS = 35_000;
/** The pauses before a question is sent again after its connection was lost. */
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];
const MOST_HISTORY_TRIES = 3;
/** Browsers are sometimes mistaken about being offline. */
const OFFLINE_PAUSE_MS = 10_000;
/** How long to wait for an answer that another request is fetching: longer than a turn may take. */
const MOST_WAITING_MS = 330_000;

/** Why something failed, in a word for programs. */
export class Failure extends Error {
  /**
   * @param {string} code  an error code of the service, or `network`, `refused_origin`
   * @param {{ message?: string, reference?: string, retryable?: boolean, retryAfter?: number, details?: { field: string, reason: string }[] }} [more]
   *   `retryable` says whether asking again may help; `retryAfter` is in seconds
   */
  constructor(code, more = {}) {
    super(more.message ?? code);
    this.code = code;
    this.reference = more.reference;
    this.retryable = more.retryable ?? true;
    this.retryAfter = more.retryAfter;
    this.details = more.details ?? [];
  }
}

export class Service {
  #base;
  #store;
  #note;
  /** Whether this page has had an answer of the API, so that it is allowed to ask. */
  #hasAnswered = false;

  /**
   * @param {string} base  the service's address @param {Store} store
   * @param {() => string | undefined} note  what the reader says of themselves, which is sent with each question
   */
  constructor(base, store, note) {
    this.#base = base;
    this.#store = store;
    this.#note = note;
  }

  /**
   * Returns a page of the conversation, the newest message first.
   * @param {string} session
   * @param {string | null} [after]
   * @returns {Promise<{ data: Item[], has_more: boolean, after: string | null }>}
   */
  async history(session, after) {
    const query = new URLSearchParams({ order: "desc", limit: "40", ...(after ? { after } : {}) });
    for (let tries = 0; ; tries++) {
      try {
        const response = await this.#call(`chat/${session}/messages?${query}`);
        return await response.json();
      } catch (error) {
        const isLost = error instanceof Failure && error.code === "network";
        if (!isLost || tries === MOST_HISTORY_TRIES) throw error;
        await pause(PAUSES_MS[tries], new AbortController().signal);
      }
    }
  }

  /**
   * Records what the reader thinks of an answer.
   * @param {string} session @param {string} messageId @param {Rating} rating @param {string} [comment]
   */
  async rate(session, messageId, rating, comment) {
    await this.#call(`chat/${session}/messages/${messageId}/feedback`, {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ rating, ...(comment ? { comment } : {}) }),
    });
  }

  /**
   * Yields the reader's own conversations, the newest first, a page at a time.
   * @returns {AsyncGenerator<Session[], void>}
   */
  async *sessions() {
    for (let after = null; ; ) {
      const query = new URLSearchParams({ order: "desc", limit: "100", ...(after ? { after } : {}) });
      const page = await (await this.#call(`chat?${query}`)).json();
      yield page.data;
      if (!page.has_more) return;
      after = page.after;
    }
  }

  /** Deletes all conversations that are this reader's own. */
  async deleteAll() {
    await this.#call("chat", { method: "DELETE" });
  }

  /**
   * Asks, and yields what is told until `done`, through lost connections and short refusals. The question is answered once,
   * since each try has the same key. After a lost connection the deltas begin anew, after another `session`.
   *
   * Throws a Failure, or the signal's reason.
   * @param {Pending} pending @param {AbortSignal} signal
   * @returns {AsyncGenerator<TurnEvent, void>}
   */
  async *ask(pending, signal) {
    const startedAt = Date.now();
    for (let lost = 0, busy = 0; ; ) {
      try {
        for await (const event of this.#stream(pending, signal)) {
          yield event;
          if (event.name === "done") return;
        }
        throw new Failure("network");
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof Failure)) throw error;
        if (error.code === "network" && lost < PAUSES_MS.length) {
          const isOnline = navigator.onLine;
          yield { name: "waiting", data: { why: isOnline ? "reconnecting" : "offline" } };
          await pause(isOnline ? PAUSES_MS[lost] : OFFLINE_PAUSE_MS, signal);
          if (isOnline) lost++;
        } else if (error.code === "overloaded" && busy < 3) {
          yield { name: "waiting", data: { why: "busy" } };
          await pause(Math.max(1000 * (error.retryAfter ?? 1), PAUSES_MS[busy]), signal);
          busy++;
        } else if (error.code === "turn_in_progress" && Date.now() - startedAt < MOST_WAITING_MS) {
          yield { name: "waiting", data: { why: "waiting" } };
          await pause(1000 * (error.retryAfter ?? 1), signal);
        } else {
          throw error;
        }
      }
    }
  }

  /**
   * @param {Pending} pending @param {AbortSignal} signal
   * @returns {AsyncGenerator<TurnEvent, void>}
   */
  async *#stream(pending, signal) {
    // It ends when the reader stops it, and when it has fallen silent.
    const end = new AbortController();
    const onAbort = () => end.abort();
    signal.addEventListener("abort", onAbort);
    let heardAt = Date.now();
    const watch = setInterval(() => Date.now() - heardAt > SILENCE_MS && end.abort(), 1000);
    try {
      const response = await this.#call("chat/stream", {
        method: "POST",
        headers: { "Content-Type": "application/json", "Idempotency-Key": pending.key },
        body: JSON.stringify({ ...pending.question, reader_note: this.#note() }),
        signal: end.signal,
      });
      if (!response.body) throw new Failure("network");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { done, value } = await reader.read().catch(() => ({ done: true, value: "" }));
        if (done) return;
        heardAt = Date.now();
        const blocks = (text + value).split("\n\n");
        text = blocks.pop() ?? "";
        for (const block of blocks) {
          const found = block.match(/^event: (.*)\ndata: (.*)$/s);
          if (!found) continue;
          const data = JSON.parse(found[2]);
          if (found[1] === "error") throw failureOf(data, null);
          yield/** @type {TurnEvent} */ ({ name: found[1], data });
        }
      }
    } finally {
      clearInterval(watch);
      signal.removeEventListener("abort", onAbort);
      end.abort();
    }
  }

  /**
   * @param {string} path @param {RequestInit} [options]
   * @returns {Promise<Response>}  a success
   */
  async #call(path, options = {}) {
    let response;
    try {
      const headers = { "X-Reader-Token": this.#store.token, ...options.headers };
      response = await fetch(this.#base + path, {
        ...options,
        headers,
        credentials: "omit",
        referrerPolicy: "no-referrer",
      });
    } catch {
      throw new Failure(!this.#hasAnswered && (await this.#isRefused()) ? "refused_origin" : "network");
    }
    this.#hasAnswered = true;
    if (response.ok) return response;
    /** @type {any} */
    const body = await response.json().catch(() => null);
    // A proxy whose service is starting answers in its own way.
    if (!body?.error?.code)
      throw new Failure(response.status >= 500 ? "network" : "http_error", {
        message: `HTTP ${response.status}`,
        retryable: response.status >= 500,
      });
    throw failureOf(body, response.headers.get("Retry-After"));
  }

  /**
   * Whether the service answers, but not this page: a browser does not tell a page which of its requests were refused. This script
   * may be loaded from everywhere, and the rest of the service only from where CORS_ORIGINS allows it.
   */
  async #isRefused() {
    /** @param {string} path */
    const succeeds = (path) =>
      fetch(this.#base + path, { cache: "no-store", credentials: "omit" }).then(
        () => true,
        () => false,
      );
    return (await succeeds("widget.js")) && !(await succeeds("health"));
  }
}

/**
 * @param {{ error: { code: string, message: string, request_id?: string, retryable?: boolean, details?: { field: string, reason: string }[] } }} body
 * @param {string | null} retryAfter
 */
function failureOf({ error }, retryAfter) {
  return new Failure(error.code, {
    message: error.message,
    reference: error.request_id,
    retryable: error.retryable,
    retryAfter: secondsOf(retryAfter),
    details: error.details,
  });
}

/**
 * Returns the seconds that a Retry-After means: it has a number, or a date.
 * @param {string | null} retryAfter
 */
function secondsOf(retryAfter) {
  if (!retryAfter) return undefined;
  const seconds = Number(retryAfter);
  if (Number.isFinite(seconds)) return Math.max(0, Math.ceil(seconds));
  const date = Date.parse(retryAfter);
  return Number.isNaN(date) ? undefined : Math.max(0, Math.ceil((date - Date.now()) / 1000));
}

/**
 * Waits, but not longer than until the browser is online again; rejects when the signal does.
 * @param {number} ms @param {AbortSignal} signal
 */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const end = new AbortController();
    /** @param {() => void} settle */
    const finish = (settle) => {
      clearTimeout(timer);
      end.abort();
      settle();
    };
    const timer = setTimeout(() => finish(() => resolve(undefined)), ms);
    addEventListener("online", () => finish(() => resolve(undefined)), { signal: end.signal });
    signal.addEventListener("abort", () => finish(() => reject(signal.reason)), { signal: end.signal });
  });
}
