/**
 * What the widget keeps in the browser, so that a conversation outlives its page: the reader's token, the conversation's id, each
 * question until its answer is there, what readers say of themselves, and where they like the panel. Nothing else is kept, and
 * nothing of it is in a cookie.
 *
 * Storage can be forbidden or full. Then everything works until the page is closed.
 */

/**
 * @typedef {object} Question  what is sent to the service, the same each time
 * @property {string} message
 * @property {string} [session_id]
 * @property {string} [selected_text]
 * @property {string} [page_url]
 * @property {"page"} [scope]  the question is about the page alone
 * @property {boolean} [follow_ups]
 * @property {boolean} [snippets]
 */

/** @typedef {{ url: string, title: string }} Page  a page of the book that questions are about */

/** @typedef {{ language: string, level: number, text: string }} About  what readers say of themselves; what they do not say is empty */

/** @typedef {{ isDocked: boolean, width?: number }} Layout  where the panel is in a wide window, and how wide in pixels */

/**
 * @typedef {object} Pending  a question that is not answered yet
 * @property {string} key  the Idempotency-Key: however often the question is sent, it is answered once
 * @property {Question} question
 * @property {string | null} [session]  the conversation that it is in, as soon as there is one; `question` stays as it was sent
 * @property {string | null} after  the last message before it, as far as this page knew
 * @property {number} askedAt  in milliseconds
 * @property {"queued" | "asking" | "stopped" | "failed"} state  what became of it so far; only what waits or is being asked is asked
 *   again unbidden
 */

/** @typedef {"localStorage" | "sessionStorage"} Area */

/**
 * What the browser does not keep: one for the whole page, so that the panel that takes another's place has it too.
 * @type {Map<string, string>}
 */
const memory = new Map();

const TOKEN = /^[A-Za-z0-9._~-]{16,128}$/;
const MOST_PENDING_DAYS = 7;

export class Store {
  #prefix;

  /** @param {string} service  conversations with different services are kept apart */
  constructor(service) {
    this.#prefix = `book-chat ${service} `;
  }

  /** Returns the secret that makes a conversation this reader's own. */
  get token() {
    let token = this.#get("reader");
    if (!token || !TOKEN.test(token)) {
      token = newId();
      this.#set("reader", token);
    }
    return token;
  }

  /** Whether this reader may have conversations. */
  get hasReader() {
    return this.#get("reader") !== null;
  }

  /** What the reader says of themselves. @type {About | null} */
  get about() {
    const { language, level, text } = this.#read("about") ?? {};
    const isOwn = typeof language === "string" && typeof level === "number" && typeof text === "string";
    return isOwn ? { language, level, text } : null;
  }

  set about(about) {
    this.#set("about", about && JSON.stringify(about));
  }

  /** @type {Layout} */
  get layout() {
    const { isDocked, width } = this.#read("layout") ?? {};
    return { isDocked: isDocked === true, width: typeof width === "number" ? width : undefined };
  }

  set layout(layout) {
    this.#set("layout", JSON.stringify(layout));
  }

  /** Forgets the reader's conversations: what is asked from now on is another's. */
  forgetReader() {
    for (const pending of this.pending) this.forget(pending);
    this.draft = "";
    this.#set("reader", null);
  }

  /** The conversation's id. */
  get session() {
    return this.#get("session");
  }

  set session(id) {
    this.#set("session", id);
  }

  /** Returns the pending questions, oldest first. */
  get pending() {
    const oldest = Date.now() - MOST_PENDING_DAYS * 86_400_000;
    /** @type {Pending[]} */
    const found = [];
    for (const name of this.#names("pending ")) {
      try {
        const pending = JSON.parse(this.#get(name) ?? "");
        if (pending.askedAt > oldest && typeof pending.question.message === "string") found.push(pending);
        else this.#set(name, null);
      } catch {
        this.#set(name, null);
      }
    }
    return found.sort((a, b) => a.askedAt - b.askedAt);
  }

  /** @param {Pending} pending */
  keep(pending) {
    this.#set(`pending ${pending.key}`, JSON.stringify(pending));
  }

  /** @param {Pending} pending */
  forget(pending) {
    this.#set(`pending ${pending.key}`, null);
  }

  /**
   * Waits until no other tab has this lock, and returns what gives it back. Pages without HTTPS have no locks.
   * @param {AbortSignal} signal
   * @returns {Promise<() => void>}
   */
  lock(signal) {
    if (!navigator.locks) return Promise.resolve(() => {});
    return new Promise((resolve, reject) => {
      const hold = () => new Promise((release) => resolve(() => release(undefined)));
      navigator.locks.request(`${this.#prefix}begin`, { signal }, hold).catch(reject);
    });
  }

  /** What is typed but not sent, which only this tab needs. */
  get draft() {
    return this.#get("draft", "sessionStorage") ?? "";
  }

  set draft(text) {
    this.#set("draft", text || null, "sessionStorage");
  }

  /** The page that this tab's questions are about. @type {Page | null} */
  get page() {
    return this.#read("page", "sessionStorage");
  }

  set page(page) {
    this.#set("page", page && JSON.stringify(page), "sessionStorage");
  }

  /**
   * Calls back when another tab has changed the conversation, until the signal says not to.
   * @param {() => void} callback @param {AbortSignal} signal
   */
  onChange(callback, signal) {
    const names = [`${this.#prefix}session`, `${this.#prefix}pending `];
    /** @param {StorageEvent} event */
    const onStorage = ({ key }) => {
      if (key === null || names.some((name) => key.startsWith(name))) callback();
    };
    addEventListener("storage", onStorage, { signal });
  }

  /** @param {string} name @param {Area} [area] */
  #get(name, area = "localStorage") {
    const key = this.#prefix + name;
    try {
      // What could not be kept is newer than what is.
      return memory.get(key) ?? window[area].getItem(key);
    } catch {
      return null;
    }
  }

  /** Returns what is kept as JSON. @param {string} name @param {Area} [area] @returns {any} */
  #read(name, area) {
    try {
      return JSON.parse(this.#get(name, area) ?? "null");
    } catch {
      return null;
    }
  }

  /** @param {string} name @param {string | null} value @param {Area} [area] */
  #set(name, value, area = "localStorage") {
    const key = this.#prefix + name;
    memory.delete(key);
    try {
      if (value === null) window[area].removeItem(key);
      else window[area].setItem(key, value);
    } catch {
      if (value !== null) memory.set(key, value);
    }
  }

  /** @param {string} start */
  #names(start) {
    const keys = new Set(memory.keys());
    try {
      for (const key of Object.keys(localStorage)) keys.add(key);
    } catch {}
    return [...keys].filter((key) => key.startsWith(this.#prefix + start)).map((key) => key.slice(this.#prefix.length));
  }
}

/** Returns a random UUID, also on pages without HTTPS, which lack `crypto.randomUUID`. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
