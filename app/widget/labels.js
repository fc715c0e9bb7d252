/**
 * What every page needs of each language: the words outside of the panel, and which languages there are. All are loaded on every page:
 * keep them short.
 */

/** @typedef {{ ask: string, notLoaded: string }} Labels */

/** @type {Record<string, Labels>} */
export const labels = {
  ar: { ask: "اسأل الكتاب", notLoaded: "تعذّر تحميل الدردشة." },
  cs: { ask: "Zeptat se knihy", notLoaded: "Chat se nepodařilo načíst." },
  de: { ask: "Das Buch fragen", notLoaded: "Der Chat konnte nicht geladen werden." },
  en: { ask: "Ask the book", notLoaded: "The chat could not be loaded. Please try again." },
  es: { ask: "Preguntar al libro", notLoaded: "No se pudo cargar el chat." },
  fa: { ask: "از کتاب بپرسید", notLoaded: "چت بارگذاری نشد." },
  fr: { ask: "Interroger le livre", notLoaded: "Impossible de charger le chat." },
  hi: { ask: "किताब से पूछें", notLoaded: "चैट लोड नहीं हो सकी।" },
  id: { ask: "Tanya buku ini", notLoaded: "Obrolan tidak dapat dimuat." },
  it: { ask: "Chiedi al libro", notLoaded: "Impossibile caricare la chat." },
  ja: { ask: "この本に質問", notLoaded: "チャットを読み込めませんでした。" },
  ko: { ask: "책에 질문하기", notLoaded: "채팅을 불러올 수 없습니다." },
  nl: { ask: "Vraag het aan het boek", notLoaded: "De chat kon niet worden geladen." },
  pl: { ask: "Zapytaj książkę", notLoaded: "Nie udało się wczytać czatu." },
  pt: { ask: "Perguntar ao livro", notLoaded: "Não foi possível carregar o chat." },
  ru: { ask: "Спросить у книги", notLoaded: "Не удалось загрузить чат." },
  tr: { ask: "Kitaba sor", notLoaded: "Sohbet yüklenemedi." },
  uk: { ask: "Запитати книгу", notLoaded: "Не вдалося завантажити чат." },
  ur: { ask: "کتاب سے پوچھیں", notLoaded: "چیٹ لوڈ نہیں ہو سکی۔ براہ کرم دوبارہ کوشش کریں۔" },
  vi: { ask: "Hỏi cuốn sách", notLoaded: "Không tải được khung trò chuyện." },
  zh: { ask: "问问这本书", notLoaded: "聊天加载失败。" },
  "zh-Hant": { ask: "問問這本書", notLoaded: "聊天載入失敗。" },
};

/** The languages that are written from right to left. */
const RIGHT_TO_LEFT = ["ar", "fa", "ur"];

/**
 * Returns the language, of those that there are, for a page in this one.
 * @param {string} tag  such as `en-GB`
 */
export function languageOf(tag) {
  try {
    // Today's code of the language, and the script that the region writes: `in` is `id-Latn`, and `zh-TW` is `zh-Hant`.
    const { language, script } = new Intl.Locale(tag.trim().replaceAll("_", "-")).maximize();
    return [`${language}-${script}`, language].find((code) => code in labels) ?? "en";
  } catch {
    return "en"; // The page names none, or what is no language.
  }
}

/** @param {string} lang */
export function directionOf(lang) {
  return RIGHT_TO_LEFT.includes(lang) ? "rtl" : "ltr";
}
