/**
 * The address at which the reader's own assistant finds the book, where the service offers that.
 */

import { copyButton } from "./answer.js";
import { h } from "./dom.js";
import { viewOf } from "./view.js";

/** @import { Words } from "./languages.js" */

export class Assistant {
  /** @param {{ words: Words, service: string, onBack: () => void }} options */
  constructor(options) {
    const { words, service } = options;
    const address = new URL("mcp", service).href;
    this.element = viewOf(
      words.useInAssistant,
      options,
      h("p", {}, words.useInAssistantHint),
      h(
        "div",
        { class: "address" },
        h("code", { dir: "ltr" }, address),
        copyButton(() => address, words),
      ),
    );
  }

  open() {
    this.element.hidden = false;
    this.element.querySelector("h3")?.focus();
  }

  close() {
    this.element.hidden = true;
  }
}

/** Whether the service can be asked by assistants. It says so in a script, which every page may load. */
export async function isOffered() {
  try {
    return (await import("./features.js")).mcp;
  } catch {
    return false;
  }
}
