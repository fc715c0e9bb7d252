/**
 * What an empty conversation shows: what the chat is for, and questions about the page that the reader is on.
 */

import { h } from "./dom.js";
import { textOf } from "./excerpt.js";
import { icon } from "./icons.js";
import { fill } from "./languages.js";

/** @import { Words } from "./languages.js" */

/**
 * @param {{ words: Words, book: Element[], questions?: string[], onAsk: (question: string) => void }} options
 *   `book` has the parts of the page that are the book; `questions` are the owner's own
 */
export function welcome({ words, book, questions, onAsk }) {
  const suggestions = (questions ?? suggestionsFor(book, words)).map((text) =>
    h("button", { type: "button", class: "suggestion", onclick: () => onAsk(text) }, h("span", { dir: "auto" }, text)),
  );
  return h(
    "div",
    { class: "welcome" },
    icon("book"),
    h("h3", {}, words.welcome),
    h("p", {}, words.hint),
    suggestions.length > 0 &&
      h("div", { class: "suggestions" }, !questions && h("p", {}, words.suggestions), ...suggestions),
  );
}

/**
 * Returns questions about the page that the reader is on.
 * @param {Element[]} book @param {Words} words
 */
function suggestionsFor(book, words) {
  /** @param {string} selector */
  const headings = (selector) =>
    book
      .flatMap((part) => [...part.querySelectorAll(selector)])
      .map((heading) => {
        const range = document.createRange();
        range.selectNodeContents(heading);
        return textOf(range);
      })
      .filter((text) => text && text.length <= 70);
  const [title] = headings("h1");
  return [
    ...(title ? [fill(words.summarize, { heading: title })] : []),
    ...headings("h2")
      .slice(0, title ? 2 : 3)
      .map((heading) => fill(words.explain, { heading })),
  ];
}
