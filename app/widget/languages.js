/**
 * The words of the interface. To add a language, add an entry with all the keys of `en` under its code, such as `de` or `pt-BR`.
 *
 * The page's `lang` selects the language; English is used where there is none. `{…}` is filled in. `errors` has what a reader is
 * told for each error code of the service, and as `out_of_order` for an `openai_error` that asking again does not help; in English the
 * service's own message is shown if there is none here.
 */

const en = {
  dir: "ltr",
  ask: "Ask the book",
  askAbout: "Ask about this",
  send: "Send",
  stop: "Stop",
  retry: "Retry",
  close: "Close",
  newConversation: "New conversation",
  expand: "Wider",
  shrink: "Narrower",
  question: "Your question",
  conversation: "Conversation",
  excerpt: "Selected text",
  removeExcerpt: "Remove the selected text",
  welcome: "What would you like to know?",
  hint: "Ask anything about the book. Or select some text on the page, to get an answer from that text alone.",
  suggestions: "On this page",
  summarize: "Summarize “{heading}”",
  explain: "Explain “{heading}”",
  disclaimer: "Answers can contain mistakes.",
  deleteAll: "Delete my conversations",
  deleteAllSure: "Delete all your conversations with this book?",
  deleteAllYes: "Delete",
  deleteAllNo: "Keep",
  deletedAll: "Your conversations were deleted.",
  you: "You",
  answer: "Answer",
  thinking: "Looking it up…",
  waiting: "The answer is being written…",
  reconnecting: "The connection was lost. Trying again…",
  offline: "You are offline. The question is asked again as soon as you are back.",
  busy: "The assistant is busy. Trying again…",
  stopped: "Stopped. The whole answer is kept.",
  truncated: "The answer was cut off here.",
  more: "Continue",
  unanswered: "This question was not answered.",
  reference: "Reference: {id}",
  inSeconds: "You can ask again in {seconds} s.",
  fromTime: "You can ask again from {time}.",
  again: "You can ask again now.",
  sources: "Sources",
  source: "Source {number}: {title}",
  earlier: "Earlier messages",
  latest: "Latest message",
  loading: "Loading the conversation…",
  deleted: "The earlier conversation no longer exists. A new one begins here.",
  copy: "Copy",
  copied: "Copied",
  code: "Code",
  table: "Table",
  formula: "Formula",
  goodAnswer: "Good answer",
  badAnswer: "Bad answer",
  whyGood: "Thank you! What was good?",
  whyBad: "Thank you. What was wrong?",
  reasonsGood: ["Clear", "Complete", "Good example"],
  reasonsBad: ["Incorrect", "Does not answer the question", "Incomplete", "Hard to understand"],
  otherReason: "Something else…",
  reason: "Your reason",
  submit: "Submit",
  thanks: "Thank you for your feedback.",
  errors: {
    not_loaded: "The chat could not be loaded. Please try again.",
    network: "The assistant cannot be reached. Please check your connection and try again.",
    refused_origin:
      "This website may not ask the assistant. Its owner can allow it: {origin} has to be in the service's setting CORS_ORIGINS.",
    rate_limited: "You are asking too often.",
    budget_exhausted: "The assistant has answered all it can for today.",
    not_found: "This conversation no longer exists.",
    feedback: "Your feedback could not be saved. Please try again.",
    history: "The conversation could not be loaded.",
    deletion: "Your conversations could not be deleted. Please try again.",
  },
};

/** @typedef {Omit<typeof en, "errors"> & { errors: Record<string, string> }} Words */

/** @type {Record<string, Words>} */
const languages = {
  en,
  ur: {
    dir: "rtl",
    ask: "کتاب سے پوچھیں",
    askAbout: "اس کے بارے میں پوچھیں",
    send: "بھیجیں",
    stop: "روکیں",
    retry: "دوبارہ کوشش کریں",
    close: "بند کریں",
    newConversation: "نئی گفتگو",
    expand: "چوڑا کریں",
    shrink: "تنگ کریں",
    question: "آپ کا سوال",
    conversation: "گفتگو",
    excerpt: "منتخب متن",
    removeExcerpt: "منتخب متن ہٹائیں",
    welcome: "آپ کیا جاننا چاہتے ہیں؟",
    hint: "کتاب کے بارے میں کچھ بھی پوچھیں۔ یا صفحے پر کوئی متن منتخب کریں، تو جواب صرف اسی متن سے ملے گا۔",
    suggestions: "اس صفحے پر",
    summarize: "”{heading}“ کا خلاصہ کریں",
    explain: "”{heading}“ کی وضاحت کریں",
    disclaimer: "جوابات میں غلطیاں ہو سکتی ہیں۔",
    deleteAll: "میری گفتگوئیں حذف کریں",
    deleteAllSure: "اس کتاب کے ساتھ آپ کی تمام گفتگوئیں حذف کر دی جائیں؟",
    deleteAllYes: "حذف کریں",
    deleteAllNo: "رہنے دیں",
    deletedAll: "آپ کی گفتگوئیں حذف کر دی گئیں۔",
    you: "آپ",
    answer: "جواب",
    thinking: "تلاش جاری ہے…",
    waiting: "جواب لکھا جا رہا ہے…",
    reconnecting: "رابطہ ٹوٹ گیا۔ دوبارہ کوشش ہو رہی ہے…",
    offline: "آپ آف لائن ہیں۔ رابطہ بحال ہوتے ہی سوال دوبارہ بھیجا جائے گا۔",
    busy: "معاون مصروف ہے۔ دوبارہ کوشش ہو رہی ہے…",
    stopped: "روک دیا گیا۔ پورا جواب محفوظ رہتا ہے۔",
    truncated: "جواب یہاں کٹ گیا۔",
    more: "جاری رکھیں",
    unanswered: "اس سوال کا جواب نہیں ملا۔",
    reference: "حوالہ: {id}",
    inSeconds: "آپ {seconds} سیکنڈ میں دوبارہ پوچھ سکتے ہیں۔",
    fromTime: "آپ {time} سے دوبارہ پوچھ سکتے ہیں۔",
    again: "اب آپ دوبارہ پوچھ سکتے ہیں۔",
    sources: "حوالے",
    source: "حوالہ {number}: {title}",
    earlier: "پچھلے پیغامات",
    latest: "تازہ ترین پیغام",
    loading: "گفتگو لوڈ ہو رہی ہے…",
    deleted: "پچھلی گفتگو اب موجود نہیں۔ یہاں سے نئی گفتگو شروع ہوتی ہے۔",
    copy: "نقل کریں",
    copied: "نقل ہو گیا",
    code: "کوڈ",
    table: "جدول",
    formula: "فارمولا",
    goodAnswer: "اچھا جواب",
    badAnswer: "خراب جواب",
    whyGood: "شکریہ! کیا اچھا لگا؟",
    whyBad: "شکریہ۔ کیا غلط تھا؟",
    reasonsGood: ["واضح", "مکمل", "اچھی مثال"],
    reasonsBad: ["غلط", "سوال کا جواب نہیں", "نامکمل", "سمجھنا مشکل"],
    otherReason: "کچھ اور…",
    reason: "آپ کی وجہ",
    submit: "جمع کریں",
    thanks: "آپ کی رائے کا شکریہ۔",
    errors: {
      not_loaded: "چیٹ لوڈ نہیں ہو سکی۔ براہ کرم دوبارہ کوشش کریں۔",
      network: "معاون تک رسائی نہیں ہو رہی۔ اپنا رابطہ دیکھیں اور دوبارہ کوشش کریں۔",
      refused_origin:
        "اس ویب سائٹ کو معاون سے پوچھنے کی اجازت نہیں۔ سائٹ کا مالک اجازت دے سکتا ہے: {origin} کو سروس کی ترتیب CORS_ORIGINS میں ہونا چاہیے۔",
      validation_error: "سوال درست نہیں ہے۔",
      payload_too_large: "سوال بہت لمبا ہے۔",
      rate_limited: "آپ بہت جلدی جلدی پوچھ رہے ہیں۔",
      budget_exhausted: "معاون آج کے لیے اپنی حد پوری کر چکا ہے۔",
      overloaded: "معاون مصروف ہے۔ تھوڑی دیر بعد دوبارہ کوشش کریں۔",
      openai_timeout: "جواب میں بہت دیر لگی۔ براہ کرم دوبارہ کوشش کریں۔",
      openai_rate_limited: "معاون مصروف ہے۔ تھوڑی دیر بعد دوبارہ کوشش کریں۔",
      too_long_for_model: "یہ سوال معاون کے لیے بہت لمبا ہے۔ براہ کرم اسے مختصر کریں یا کم متن منتخب کریں۔",
      openai_refused: "معاون اس سوال کا جواب نہیں دے گا۔ براہ کرم کسی اور طرح پوچھیں۔",
      openai_error: "معاون جواب نہیں دے سکا۔ براہ کرم دوبارہ کوشش کریں۔",
      out_of_order: "معاون خراب ہے۔ جب تک اس کا منتظم اسے ٹھیک نہیں کرتا، دوبارہ پوچھنے سے فائدہ نہیں۔",
      turn_in_progress: "اس سوال کا جواب لکھا جا رہا ہے۔ تھوڑی دیر بعد دوبارہ پوچھیں۔",
      idempotency_conflict: "یہ سوال پہلے کسی اور شکل میں پوچھا جا چکا ہے۔ براہ کرم اسے نئے سرے سے پوچھیں۔",
      database_error: "گفتگو پڑھی یا محفوظ نہیں کی جا سکی۔ براہ کرم دوبارہ کوشش کریں۔",
      internal_error: "ہماری طرف سے کچھ خرابی ہوئی۔",
      not_found: "یہ گفتگو اب موجود نہیں۔",
      feedback: "آپ کی رائے محفوظ نہیں ہو سکی۔ براہ کرم دوبارہ کوشش کریں۔",
      history: "گفتگو لوڈ نہیں ہو سکی۔",
      deletion: "آپ کی گفتگوئیں حذف نہیں ہو سکیں۔ براہ کرم دوبارہ کوشش کریں۔",
    },
  },
};

/**
 * Returns the words for a page in this language, and the language that they are in.
 * @param {string} tag  the page's `lang`, such as `en-GB`
 * @returns {{ lang: string, words: Words }}
 */
export function wordsFor(tag) {
  const [primary] = tag.toLowerCase().split(/[-_]/);
  const lang = Object.keys(languages).find((code) => code.toLowerCase() === tag.toLowerCase()) ?? primary;
  return languages[lang] ? { lang, words: languages[lang] } : { lang: "en", words: en };
}

/**
 * Returns the text with each `{name}` replaced.
 * @param {string} text
 * @param {Record<string, string | number>} values
 */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}
