/**
 * The languages that readers can have answers in, and the one to translate a page into.
 */

/** The largest languages of the web and of readers, in the order of their codes. */
export const LANGUAGES = (
  "ar bg bn ca cs da de el en es et fa fi fil fr gu he hi hr hu id it ja kk kn ko lt lv ml mr ms my nb ne nl pa pl ps pt " +
  "ro ru sk sl sr sv sw ta te th tr uk ur uz vi zh-Hans zh-Hant"
).split(" ");

/** Returns what a language is called in another one, or its code. @param {string} language @param {string} lang */
export function nameOf(language, lang) {
  try {
    return new Intl.DisplayNames([lang], { type: "language" }).of(language) ?? language;
  } catch {
    return language;
  }
}

/**
 * Returns the language to translate the page into: the one that the reader has chosen, or the reader's first one in the browser that is
 * not the page's, or the interface's if that is not; null if none is known.
 * @param {{ chosen?: string, lang: string }} known  `lang` is the interface's language
 */
export function targetOf({ chosen, lang }) {
  if (chosen) return chosen;
  const page = document.documentElement.lang || lang;
  const other = [...navigator.languages, lang].find((language) => base(language) !== base(page));
  return other ? written(other) : null;
}

/** Returns the language without its country, which decides little but how Chinese is written. @param {string} tag */
function written(tag) {
  try {
    const { language, script } = new Intl.Locale(tag).maximize();
    return language === "zh" ? `zh-${script}` : language;
  } catch {
    return tag;
  }
}

/** @param {string} language */
function base(language) {
  return language.toLowerCase().split(/[-_]/)[0];
}
