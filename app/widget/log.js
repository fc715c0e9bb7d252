/**
 * The conversation on the screen, as a list that scrolls. It keeps up with an answer that grows, until the reader scrolls back.
 */

import { announced } from "./announcement.js";
import { h } from "./dom.js";
import { iconButton } from "./icons.js";

/** @import { Words } from "./languages.js" */

/** How near to its end the list counts as scrolled to it. */
const END_PX = 40;

export class Log {
  element;
  latest;
  #isFollowing = true;

  /** @param {Words} words */
  constructor(words) {
    this.element = h("div", {
      class: "log",
      role: "log",
      "aria-live": "off",
      "aria-label": words.conversation,
      tabindex: 0,
    });
    this.latest = iconButton("down", words.latest, () => this.toLatest(), {
      class: "icon-button latest",
      hidden: true,
    });
    let lastTop = 0;
    const onScroll = () => {
      const { scrollTop } = this.element;
      if (this.#isAtEnd) this.#isFollowing = true;
      else if (scrollTop < lastTop - 2) this.#isFollowing = false;
      lastTop = scrollTop;
      this.latest.hidden = this.#isAtEnd;
    };
    this.element.addEventListener("scroll", onScroll, { passive: true });
  }

  get #isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.element;
    return scrollHeight - scrollTop - clientHeight < END_PX;
  }

  toLatest() {
    this.element.scrollTop = this.element.scrollHeight;
    this.#isFollowing = true;
  }

  /**
   * Keeps up with a growing answer until its question is at the top, where the reader begins to read. Who has read on stays there.
   * @param {HTMLElement} turn
   */
  follow(turn) {
    if (this.#isFollowing) this.element.scrollTop = Math.max(this.element.scrollTop, this.#placeOf(turn));
    this.latest.hidden = this.#isAtEnd;
  }

  /** Goes to this turn, wherever the reader has scrolled to. @param {HTMLElement} turn */
  goTo(turn) {
    this.#isFollowing = true;
    this.element.scrollTop = this.#placeOf(turn);
    this.latest.hidden = this.#isAtEnd;
  }

  /** Returns how far the list is scrolled with this turn at the top, or with its own end at the bottom. @param {HTMLElement} turn */
  #placeOf(turn) {
    const { element } = this;
    const top = turn.offsetTop - element.offsetTop - 12;
    return Math.min(element.scrollHeight - element.clientHeight, Math.max(top, 0));
  }

  /**
   * Puts earlier messages in the place of this button, without moving what the reader sees.
   * @param {Element} button @param {HTMLElement[]} elements
   */
  insertEarlier(button, elements) {
    const { scrollHeight, scrollTop } = this.element;
    button.replaceWith(...elements);
    this.element.scrollTop = scrollTop + this.element.scrollHeight - scrollHeight;
  }
}

/** @param {Words} words */
export function loading(words) {
  return h("div", { class: "loading" }, announced(words.loading, { class: "sr" }), h("i"), h("i"), h("i"));
}
