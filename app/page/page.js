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

for (const line of document.querySelectorAll(".line")) {
  const copy = line.querySelector("button");
  if (!copy || !navigator.clipboard) continue;
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(line.querySelector("code")?.textContent ?? "");
    copy.textContent = "Copied";
  });
}
