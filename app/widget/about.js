/**
 * What readers say of themselves, so that answers suit them. It is kept in this browser, and sent with each question.
 */

import { announced } from "./announcement.js";
import { h } from "./dom.js";
import { fill } from "./languages.js";
import { LANGUAGES, nameOf } from "./translation.js";
import { viewOf } from "./view.js";

/** @import { Words } from "./languages.js" */
/** @import { About, Store } from "./store.js" */

/** With the language and the level it is less than the 500 characters that the service takes. */
const MOST_TEXT = 300;
const MOST_NOTE = 500;

export class AboutMe {
  #options;
  #state = h("div", { class: "saved" });

  /** @param {{ words: Words, lang: string, store: Store, onBack: () => void }} options */
  constructor(options) {
    const { words, lang } = options;
    this.#options = options;
    this.language = h("select", {}, h("option", { value: "" }, words.languageOfQuestion), ...languageOptions(lang));
    this.level = h("select", {}, ...words.levels.map((text, value) => h("option", { value }, text)));
    this.text = h("textarea", { rows: 3, maxlength: MOST_TEXT, placeholder: words.aboutMeExample, dir: "auto" });
    this.remove = h(
      "button",
      { type: "button", class: "quiet danger", onclick: () => this.#remove() },
      words.deleteAllYes,
    );
    const form = h(
      "form",
      { class: "about" },
      h("p", {}, words.aboutMeHint),
      h("label", {}, words.answerLanguage, this.language),
      h("label", {}, words.level, this.level),
      h("label", {}, words.aboutMeText, this.text),
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "retry" }, words.save), this.remove),
      this.#state,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    form.addEventListener("input", () => this.#state.replaceChildren());
    this.element = viewOf(words.aboutMe, options, form);
  }

  open() {
    this.#fill();
    this.#state.replaceChildren();
    this.element.hidden = false;
    this.element.scrollTop = 0;
    this.language.focus();
  }

  close() {
    this.element.hidden = true;
  }

  #fill() {
    const { language = "", level = 0, text = "" } = this.#options.store.about ?? {};
    this.language.value = language;
    this.level.selectedIndex = level;
    this.text.value = text;
    this.remove.hidden = this.#options.store.about === null;
  }

  #save() {
    const { store, words } = this.#options;
    const about = { language: this.language.value, level: this.level.selectedIndex, text: this.text.value.trim() };
    store.about = about.language || about.level || about.text ? about : null;
    this.#fill();
    this.#state.replaceChildren(announced(words.saved));
  }

  #remove() {
    this.#options.store.about = null;
    this.#fill();
    this.#state.replaceChildren(announced(this.#options.words.saved));
    this.language.focus();
  }
}

/** @param {string} lang */
function languageOptions(lang) {
  const order = new Intl.Collator(lang);
  const named = LANGUAGES.map((value) => ({ value, own: nameOf(value, value), name: nameOf(value, lang) }));
  return named
    .sort((one, other) => order.compare(one.name, other.name))
    .map(({ value, own, name }) => h("option", { value }, own === name ? name : `${name} – ${own}`));
}

/**
 * Returns what the service is told of the reader, in the language of the interface; undefined if there is nothing to tell.
 * @param {About | null} about @param {Words} words @param {string} lang
 */
export function noteOf(about, words, lang) {
  if (!about) return undefined;
  const { language, level, text } = about;
  const parts = [
    language && fill(words.aboutMeNote, { language: nameOf(language, lang) }),
    words.levels[level] && level > 0 && `${words.level}: ${words.levels[level]}`,
    text,
  ];
  const note = parts.filter(Boolean).join("\n");
  return [...note].slice(0, MOST_NOTE).join("") || undefined;
}
