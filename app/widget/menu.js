/**
 * A button that opens a menu of what is needed rarely.
 */

import { h } from "./dom.js";
import { icon, iconButton } from "./icons.js";

/** @import { IconName } from "./icons.js" */

/** @typedef {{ label: string, icon: IconName, onChoose: () => void }} Item */

export class Menu {
  #items;
  /** What the menu was opened with last. @type {unknown} */
  #shown;

  /**
   * @param {string} label @param {() => (Item | Promise<Item | null>)[]} items  called when the menu is opened; what is only known later comes last
   */
  constructor(label, items) {
    this.#items = items;
    this.button = iconButton("more", label, () => (this.isOpen ? this.close() : this.open()), {
      "aria-haspopup": "menu",
      "aria-expanded": "false",
    });
    this.list = h("div", { class: "menu", role: "menu", "aria-label": label, hidden: true });
    this.element = h("div", { class: "menu-place" }, this.button, this.list);
    // Some browsers take the focus away with a press on a button, which would close the menu before the press ends.
    this.element.addEventListener("mousedown", (event) => event.preventDefault());
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.element.addEventListener("focusout", ({ relatedTarget }) => {
      if (!(relatedTarget instanceof Node && this.element.contains(relatedTarget))) this.close();
    });
  }

  get isOpen() {
    return !this.list.hidden;
  }

  open() {
    const items = this.#items();
    this.#shown = items;
    this.list.replaceChildren();
    for (const item of items) {
      if (item instanceof Promise) item.then((late) => late && items === this.#shown && this.#add(late));
      else this.#add(item);
    }
    this.#show(true);
    this.#buttons[0]?.focus();
  }

  close() {
    if (this.isOpen) this.#show(false);
  }

  /** @param {boolean} isOpen */
  #show(isOpen) {
    this.list.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
  }

  get #buttons() {
    return [...this.list.querySelectorAll("button")];
  }

  /** @param {Item} item */
  #add({ label, icon: name, onChoose }) {
    const onclick = () => {
      this.close();
      this.button.focus();
      onChoose();
    };
    this.list.append(h("button", { type: "button", role: "menuitem", tabindex: -1, onclick }, icon(name), label));
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const { key } = event;
    if (!this.isOpen) {
      if (key !== "ArrowDown" || event.target !== this.button) return;
      this.open();
    } else if (key === "Escape") {
      this.close();
      this.button.focus();
    } else {
      const buttons = this.#buttons;
      const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (event.target));
      /** @type {Record<string, number>} */
      const next = { ArrowDown: at + 1, ArrowUp: at < 0 ? -1 : at - 1, Home: 0, End: -1 };
      if (!(key in next)) return;
      buttons.at(next[key] % buttons.length)?.focus();
    }
    // Escape would also close the chat.
    event.preventDefault();
    event.stopPropagation();
  }
}
