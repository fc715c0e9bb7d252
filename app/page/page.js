/**
 * Shows the sample page's Markdown, with what the widget shows answers with.
 */

import { Answer } from "../widget/answer.js";
import { wordsFor } from "../widget/languages.js";

const article = document.querySelector("article");
const source = article?.querySelector("pre");
if (article && source) {
  const { words } = wordsFor("en");
  article.replaceChildren();
  new Answer(article, { words, onVisit: () => {}, keepLevels: true }).show(source.textContent ?? "");
}

const code = document.querySelector(".line code");
const copy = document.querySelector(".line button");
if (copy instanceof HTMLButtonElement && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code?.textContent ?? "");
    copy.textContent = "Copied";
  });
}
