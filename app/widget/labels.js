/**
 * What every page needs of each language: the words outside of the panel, and which languages there are.
 */

/** @typedef {{ ask: string, notLoaded: string }} Labels */

/** @type {Record<string, Labels>} */
export const labels = {
  en: {
    ask: "Ask the book",
    notLoaded: "The chat could not be loaded. Please try again.",
  },
  ur: {
    ask: "کتاب سے پوچھیں",
    notLoaded: "چیٹ لوڈ نہیں ہو سکی۔ براہ کرم دوبارہ کوشش کریں۔",
  },
};

/** The languages that are written from right to left. */
const RIGHT_TO_LEFT = ["ar", "fa", "he", "ur"];

/** Returns the language, of those that there are, for a page in this one. @param {string} tag  such as `en-GB` */
export function languageOf(tag) {
  const wanted = tag.toLowerCase().replace("_", "-");
  const codes = Object.keys(labels);
  return (
    codes.find((code) => code.toLowerCase() === wanted) ?? codes.find((code) => code === wanted.split("-")[0]) ?? "en"
  );
}

/** @param {string} lang */
export function directionOf(lang) {
  return RIGHT_TO_LEFT.includes(lang) ? "rtl" : "ltr";
}
