/**
 * One question and its answer, as they are shown.
 */

import { announced } from "./announcement.js";
import { Answer, copyButton, safeUrl, sourceLink } from "./answer.js";
import { h } from "./dom.js";
import { icon, iconButton } from "./icons.js";
import { fill } from "./languages.js";
import { Failure } from "./service.js";

/** @import { Words } from "./languages.js" */
/** @import { Rating, Source } from "./service.js" */
/** @import { Page, Pending } from "./store.js" */

/**
 * @typedef {object} Answered  an answer that is complete
 * @property {string} text
 * @property {string} [messageId]
 * @property {Source[]} sources  what it cites
 * @property {Rating | null} feedback
 * @property {Source[]} [related]  what was found and not cited
 * @property {string[]} [followUps]  what to ask next
 * @property {boolean} [truncated]  whether the model was cut off before the answer's end
 */

/**
 * @typedef {object} TurnOptions
 * @property {Words} words
 * @property {string} lang
 * @property {(event: MouseEvent, url: URL) => void} onVisit
 * @property {(turn: Turn) => void} onRetry
 * @property {(question: string) => void} onFollowUp  called to ask one of the questions that an answer suggests
 * @property {() => void} onContinue  called to have an answer that was cut off continued
 * @property {(messageId: string, rating: Rating, comment?: string) => Promise<void>} onRate
 * @property {(isOpen: boolean) => void} onOwnWords  called when a field for reasons opens and closes
 */

/** What the reader is told when to ask again after: nothing is wrong that somebody would have to look up. */
const LIMITS = ["rate_limited", "budget_exhausted"];

const MOST_CHARS_A_FRAME = 800;

/** So many characters of a quotation are shown at first, more or less. */
const LONG_QUOTATION = 150;

export class Turn {
  /** @type {Pending | null} */
  pending = null;
  /** The id of the turn's last message that is known. @type {string | null} */
  lastId = null;
  /** @type {Answer} */
  #answer;
  #frame = 0;
  #next = "";
  #cited = "";
  #timer = 0;

  /**
   * @param {{ message: string, excerpt?: string | null, page?: Page | null }} question
   * @param {TurnOptions} options
   */
  constructor({ message, excerpt, page }, options) {
    const { words } = options;
    this.message = message;
    this.excerpt = excerpt ?? null;
    this.page = page ?? null;
    this.options = options;
    this.onGrow = () => {};
    const body = h("div", { class: "answer" });
    this.#answer = new Answer(body, options);
    this.bookless = h("div", { class: "bookless" });
    this.state = h("div", { class: "state" });
    this.extras = h("div", { class: "extras" });
    this.reply = h(
      "div",
      { class: "reply", hidden: true },
      h("span", { class: "sr" }, `${words.answer}: `),
      this.bookless,
      body,
      this.state,
      this.extras,
    );
    this.element = h(
      "section",
      { class: "turn" },
      h(
        "div",
        { class: message ? "question" : "question empty" },
        h("span", { class: "sr" }, `${words.you}: `),
        excerpt && quoted(excerpt, words),
        h("p", { dir: "auto" }, message),
      ),
      this.reply,
    );
  }

  /** Shows that an answer is on its way. @param {string} why */
  wait(why) {
    this.reply.hidden = false;
    this.#clear();
    const dots = h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    this.state.replaceChildren(h("div", { class: "waiting" }, dots, announced(why)));
    this.onGrow();
  }

  /** Shows that it is asked later, and offers to take it back. @param {() => void} onTakeBack */
  waitInLine(onTakeBack) {
    const { words } = this.options;
    this.reply.hidden = false;
    const takeBack = h("button", { type: "button", class: "quiet", onclick: onTakeBack }, words.takeBack);
    this.state.replaceChildren(h("div", { class: "waiting" }, announced(words.queued), takeBack));
  }

  /** Sets what the `[n]` of the answer lead to. @param {Source[]} sources */
  cite(sources) {
    const cited = JSON.stringify(sources);
    if (cited !== this.#cited) this.#answer.cite(sources);
    this.#cited = cited;
  }

  /** Says whether the book could not be searched, so that the answer is from elsewhere. @param {boolean} isBookless */
  tellWithoutBook(isBookless) {
    if (isBookless === this.bookless.hasChildNodes()) return;
    this.bookless.replaceChildren(...(isBookless ? [icon("warn"), announced(this.options.words.withoutBook)] : []));
  }

  /** Shows what there is of the answer, with the browser's next frame. @param {string} text */
  stream(text) {
    // After a lost connection the text comes again from its beginning.
    if (this.#next.startsWith(text)) return;
    this.#next = text;
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => this.#draw());
  }

  /** Draws the next piece of what there is: a lot at once, as after a lost connection, would hold up the page. */
  #draw() {
    const next = this.#next.slice(0, this.#answer.text.length + MOST_CHARS_A_FRAME);
    this.#frame = next.length < this.#next.length ? requestAnimationFrame(() => this.#draw()) : 0;
    if (this.state.hasChildNodes()) this.state.replaceChildren();
    this.reply.hidden = false;
    this.reply.classList.add("streaming");
    this.#answer.show(next);
    this.onGrow();
  }

  /** Shows the complete answer, and returns what it says in plain text. @param {Answered} answered */
  finish({ text, messageId, sources, feedback, truncated, related = [], followUps = [] }) {
    this.#clear();
    this.reply.hidden = false;
    this.state.replaceChildren();
    if (truncated) this.#offerMore();
    this.cite(sources);
    this.#answer.show(text);
    this.lastId = messageId ?? this.lastId;
    this.extras.replaceChildren(
      ...[
        this.#sources(sources, this.options.words.sources),
        this.#actions(messageId, feedback),
        this.#sources(related, this.options.words.related, "related"),
        this.#followUps(followUps),
      ].filter((part) => part !== null),
    );
    this.onGrow();
    return this.#answer.element.textContent ?? "";
  }

  /** Says that the answer was stopped. */
  stop() {
    this.#clear();
    this.reply.hidden = false;
    this.#say(announced(this.options.words.stopped), { canRetry: true });
    this.onGrow();
  }

  /** Says that there is no answer. */
  leaveUnanswered() {
    this.#clear();
    this.reply.hidden = false;
    this.#say(h("p", {}, this.options.words.unanswered), { canRetry: true });
  }

  /** Says why there is no answer, and when to ask again. @param {Failure} failure */
  fail(failure) {
    this.#clear();
    this.reply.hidden = false;
    const { words, lang } = this.options;
    const isLimit = LIMITS.includes(failure.code);
    const retry = this.#say(h("p", {}, messageOf(failure, words, lang)), {
      isProblem: true,
      canRetry: failure.retryable,
      reference: isLimit ? undefined : failure.reference,
    });
    if (retry && failure.retryAfter && isLimit) this.#countDown(failure.retryAfter, retry);
    this.onGrow();
  }

  /** Takes away what is offered under the newest answer alone. */
  withdrawFollowUps() {
    this.extras.querySelector(".follow-ups")?.remove();
  }

  /** Takes away the button that asks again: the conversation has gone on. */
  settle() {
    if (this.reply.hidden) this.leaveUnanswered();
    clearInterval(this.#timer);
    this.state.querySelector(".retry")?.remove();
    this.state.querySelector(".countdown")?.remove();
  }

  #clear() {
    if (this.#frame) {
      cancelAnimationFrame(this.#frame);
      this.#answer.show(this.#next);
    }
    this.#frame = 0;
    this.#next = "";
    clearInterval(this.#timer);
    this.reply.classList.remove("streaming");
  }

  #offerMore() {
    const { words, onContinue } = this.options;
    const button = h("button", { type: "button", class: "retry", onclick: onContinue }, words.more);
    this.state.append(h("div", { class: "notice" }, announced(words.truncated), button));
  }

  /** @param {HTMLElement} text @param {{ isProblem?: boolean, canRetry: boolean, reference?: string }} how */
  #say(text, { isProblem = false, canRetry, reference }) {
    const { words } = this.options;
    const retry = canRetry
      ? h("button", { type: "button", class: "retry", onclick: () => this.options.onRetry(this) }, words.retry)
      : null;
    const note = reference ? h("small", {}, fill(words.reference, { id: reference })) : null;
    const message = h("div", isProblem ? { role: "alert" } : {}, text, note);
    this.state.replaceChildren(
      h("div", { class: isProblem ? "problem" : "notice" }, isProblem && icon("warn"), message, retry),
    );
    return retry;
  }

  /** @param {number} seconds @param {HTMLButtonElement} retry */
  #countDown(seconds, retry) {
    const { words, lang } = this.options;
    const until = Date.now() + seconds * 1000;
    const time = new Intl.DateTimeFormat(lang, { timeStyle: "short" }).format(until);
    const countdown = h("p", { class: "countdown", role: "timer", "aria-live": "off" });
    retry.before(countdown);
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      retry.disabled = left > 0;
      if (left > 90) countdown.textContent = fill(words.fromTime, { time });
      else if (left > 0) countdown.textContent = fill(words.inSeconds, { seconds: left });
      else {
        countdown.setAttribute("aria-live", "polite");
        countdown.textContent = words.again;
        clearInterval(this.#timer);
      }
    };
    tick();
    this.#timer = setInterval(tick, 500);
  }

  /** @param {string[]} questions */
  #followUps(questions) {
    const { words, onFollowUp } = this.options;
    const buttons = questions.map((text) =>
      h(
        "button",
        { type: "button", class: "suggestion", onclick: () => onFollowUp(text) },
        h("span", { dir: "auto" }, text),
      ),
    );
    return buttons.length > 0
      ? h(
          "div",
          { class: "follow-ups", role: "group", "aria-label": words.followUps },
          h("p", {}, words.followUps),
          ...buttons,
        )
      : null;
  }

  /** @param {Source[]} sources @param {string} title @param {string} [kind] */
  #sources(sources, title, kind = "cited") {
    const { onVisit } = this.options;
    const items = sources.map((source) => {
      const { number, title: name, url } = source;
      const parts = [
        ...(kind === "cited" ? [h("span", { class: "number", "aria-hidden": "true" }, String(number))] : []),
        h("span", { class: "title", dir: "auto" }, name),
      ];
      const shown = safeUrl(url) ? sourceLink(source, {}, onVisit, ...parts) : h("span", {}, ...parts);
      return h("li", { value: number }, shown);
    });
    return items.length > 0
      ? h("div", { class: `sources ${kind}` }, h("p", {}, title), h("ol", { "aria-label": title }, ...items))
      : null;
  }

  /** @param {string | undefined} messageId @param {Rating | null} feedback */
  #actions(messageId, feedback) {
    const { words } = this.options;
    const row = h(
      "div",
      { class: "actions" },
      copyButton(() => this.#answer.text, words),
    );
    if (messageId) row.append(...this.#feedback(messageId, feedback, row));
    return row.hasChildNodes() ? row : null;
  }

  /** @param {string} messageId @param {Rating | null} feedback @param {HTMLElement} row */
  #feedback(messageId, feedback, row) {
    const { words } = this.options;
    const good = iconButton("up", words.goodAnswer, () => rate("positive"));
    const bad = iconButton("thumbDown", words.badAnswer, () => rate("negative"));
    /** @param {Rating | null} rating */
    const mark = (rating) => {
      good.setAttribute("aria-pressed", String(rating === "positive"));
      bad.setAttribute("aria-pressed", String(rating === "negative"));
    };
    /** @param {...(Node | string)} parts */
    const follow = (...parts) => {
      row.nextElementSibling?.remove();
      if (parts.length > 0)
        row.after(h("div", { class: "reasons", role: "group", "aria-label": words.reason }, ...parts));
      this.onGrow();
      row.nextElementSibling?.scrollIntoView({ block: "nearest" });
    };
    /** @param {string} text @param {...Node} parts */
    const say = (text, ...parts) => follow(announced(text), ...parts);
    /** @param {Rating} rating @param {string} [comment] */
    const send = async (rating, comment) => {
      const before = feedback;
      mark(rating);
      try {
        await this.options.onRate(messageId, rating, comment);
        feedback = rating;
        return true;
      } catch (error) {
        mark(before);
        if (!(error instanceof Failure)) throw error;
        follow(h("p", { role: "alert" }, words.errors.feedback));
        return false;
      }
    };
    /** @param {Rating} rating */
    const rate = async (rating) => {
      /** @param {string} text */
      const comment = async (text) => {
        if (await send(rating, text)) say(words.thanks);
      };
      if (await send(rating)) say(rating === "positive" ? words.whyGood : words.whyBad, this.#reasons(rating, comment));
    };
    mark(feedback);
    return [good, bad];
  }

  /** @param {Rating} rating @param {(text: string) => void} onReason */
  #reasons(rating, onReason) {
    const { words } = this.options;
    const chips = rating === "positive" ? words.reasonsGood : words.reasonsBad;
    const other = h(
      "button",
      { type: "button", class: "chip", onclick: () => this.#ownWords(box, onReason) },
      words.otherReason,
    );
    const box = h(
      "div",
      { class: "chips" },
      ...chips.map((text) => h("button", { type: "button", class: "chip", onclick: () => onReason(text) }, text)),
      other,
    );
    return box;
  }

  /** @param {HTMLElement} box @param {(text: string) => void} onReason */
  #ownWords(box, onReason) {
    const { words } = this.options;
    const input = h("input", {
      type: "text",
      "aria-label": words.reason,
      placeholder: words.reason,
      maxlength: 1000,
      dir: "auto",
      autocomplete: "off",
    });
    const chips = [...box.childNodes];
    // Meanwhile there is no other field to write in.
    this.options.onOwnWords(true);
    const form = h("form", { class: "own-words" }, input, h("button", { type: "submit", class: "chip" }, words.submit));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!input.value.trim()) return;
      this.options.onOwnWords(false);
      onReason(input.value.trim());
    });
    const leave = () => {
      this.options.onOwnWords(false);
      if (form.isConnected) box.replaceChildren(...chips);
    };
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      // It would also close the chat.
      event.preventDefault();
      event.stopPropagation();
      leave();
    });
    form.addEventListener("focusout", ({ relatedTarget }) => {
      if (!(relatedTarget instanceof Node && form.contains(relatedTarget)) && !input.value.trim()) leave();
    });
    box.replaceChildren(form);
    input.focus();
    this.onGrow();
  }
}

/** Returns selected text as it is shown: the beginning of a long one, and a button for all of it. @param {string} text @param {Words} words */
export function quoted(text, words) {
  const quote = h("blockquote", { class: "quoted", dir: "auto", "aria-label": words.excerpt }, text);
  const isLong = text.length > LONG_QUOTATION || text.split("\n").length > 3;
  if (!isLong) return h("div", { class: "quotation" }, quote);
  const toggle = () => {
    const isWhole = quote.classList.toggle("whole");
    quote.tabIndex = isWhole ? 0 : -1;
    button.setAttribute("aria-expanded", String(isWhole));
    button.textContent = isWhole ? words.showLess : words.showAll;
  };
  const button = h(
    "button",
    { type: "button", class: "quiet", "aria-expanded": false, onclick: toggle },
    words.showAll,
  );
  return h("div", { class: "quotation" }, quote, button);
}

/** Returns what a reader is told of a failure. @param {Failure} failure @param {Words} words @param {string} lang */
export function messageOf(failure, words, lang) {
  const isOutOfOrder = failure.code === "openai_error" && !failure.retryable;
  const own = words.errors[isOutOfOrder ? "out_of_order" : failure.code];
  // The owner of a service that is paused says so in words of their own.
  const isOwners = failure.code === "paused";
  const text = isOwners
    ? failure.message
    : (own ?? (lang === "en" || !words.errors.internal_error ? failure.message : words.errors.internal_error));
  const details = failure.details.map(({ field, reason }) => `${field} ${reason}`).join("; ");
  return [fill(text, { origin: location.origin }), details && `(${details})`].filter(Boolean).join(" ");
}
