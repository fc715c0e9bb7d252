/**
 * What is said to those who hear the page.
 */

import { h } from "./dom.js";

/**
 * Returns a paragraph that a screen reader says by itself. Only what changes is said, so its text comes a moment after it.
 * @param {string} text
 * @param {Record<string, unknown>} [properties]
 */
export function announced(text, properties = {}) {
  const paragraph = h("p", { role: "status", ...properties });
  setTimeout(() => paragraph.append(text), 50);
  return paragraph;
}
