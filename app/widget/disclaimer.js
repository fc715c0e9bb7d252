/**
 * What stands below the field: that answers can be wrong, and the offer to delete what there is of them.
 */

import { h } from "./dom.js";

/** @import { Words } from "./languages.js" */

export class Disclaimer {
  element = h("div", { class: "disclaimer" });
  #options;
  #isAsking = false;

  /**
   * @param {{ words: Words, hasReader: () => boolean, onDelete: () => Promise<boolean> }} options
   *   `onDelete` deletes all conversations, and returns whether it could
   */
  constructor(options) {
    this.#options = options;
    this.show();
  }

  /** Shows the offer to delete once there is something to delete. The reader who is asked about it goes on being asked. */
  update() {
    if (!this.#isAsking) this.show();
  }

  /** Shows the offer to delete, if there is something to delete, and returns its button. */
  show() {
    this.#isAsking = false;
    const { words, hasReader } = this.#options;
    const ask = quiet(words.deleteAll, () => this.#askToDelete());
    this.element.replaceChildren(h("span", {}, words.disclaimer), " ", ...(hasReader() ? [ask] : []));
    return ask;
  }

  #askToDelete() {
    const { words } = this.#options;
    this.#isAsking = true;
    const no = quiet(words.deleteAllNo, () => this.show().focus());
    const yes = quiet(words.deleteAllYes, () => this.#delete());
    yes.classList.add("danger");
    this.element.replaceChildren(h("span", { role: "alert" }, words.deleteAllSure), " ", yes, " ", no);
    no.focus();
  }

  async #delete() {
    for (const button of this.element.querySelectorAll("button")) button.disabled = true;
    if (await this.#options.onDelete()) this.show();
    else {
      this.show().focus();
      this.element.firstChild?.replaceWith(h("span", { role: "alert" }, this.#options.words.errors.deletion));
    }
  }
}

/** @param {string} text @param {() => void} onclick */
function quiet(text, onclick) {
  return h("button", { type: "button", class: "quiet", onclick }, text);
}
