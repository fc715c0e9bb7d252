/**
 * What is shown in the place of the conversation, with a heading and a way back.
 */

import { h } from "./dom.js";
import { icon } from "./icons.js";

/** @import { Words } from "./languages.js" */

/**
 * @typedef {object} View
 * @property {HTMLElement} element
 * @property {() => void} open  shows it, and gives it the focus
 * @property {() => void} close
 */

/**
 * Returns the element of a view, which is not shown yet.
 * @param {string} title @param {{ words: Words, onBack: () => void }} options @param {...Node} parts
 */
export function viewOf(title, { words, onBack }, ...parts) {
  const back = h(
    "button",
    { type: "button", class: "to-conversation", onclick: onBack },
    icon("back"),
    words.conversation,
  );
  const heading = h("h3", { tabindex: -1 }, title);
  return h("section", { class: "view", "aria-label": title, hidden: true }, back, heading, ...parts);
}
