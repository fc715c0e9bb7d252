/**
 * The words of the interface. English is here, and each other language in a file of its own, which only its readers load. To add one,
 * write all the keys of `en` in `languages/`, such as `de.js`, and what every page needs in `labels.js`.
 *
 * `{…}` is filled in. `errors` has what a reader is told for each error code of the service, and as `out_of_order` for an `openai_error`
 * that asking again does not help; in English the service's own message is shown if there is none here.
 */

import { languageOf } from "./labels.js";

const en = {
  askAbout: "Ask about this",
  send: "Send",
  stop: "Stop",
  retry: "Retry",
  close: "Close",
  newConversation: "New conversation",
  conversations: "Conversations",
  searchConversations: "Search your conversations",
  loadingConversations: "Loading your conversations…",
  noConversations: "You have no conversations yet.",
  noneFound: "No conversation has these words.",
  menu: "More",
  expand: "Wider",
  shrink: "Narrower",
  dock: "Beside the page",
  undock: "Over the page",
  resize: "Width of the chat",
  question: "Your question",
  conversation: "Conversation",
  excerpt: "Selected text",
  removeExcerpt: "Remove the selected text",
  showAll: "Show all",
  showLess: "Show less",
  tooLong: "{count} characters are selected. A question can be about {most} at most.",
  useFirst: "Use the first {most}",
  queued: "This is asked as soon as the answer above is there.",
  takeBack: "Take back",
  notCopied: "Could not be copied",
  welcome: "What would you like to know?",
  hint: "Ask anything about the book. Or select some text on the page, to get an answer from that text alone.",
  suggestions: "On this page",
  summarize: "Summarise “{heading}”",
  explain: "Explain “{heading}”",
  summarizePage: "Summarise this page",
  quizMe: "Quiz me",
  explainSimply: "Explain simply",
  removePage: "Ask about the whole book again",
  thisPage: "This page",
  explainText: "Explain",
  simplifyText: "Simplify",
  translateText: "Translate",
  translateInto: "Translate into {language}",
  followUps: "Ask next",
  related: "Related in the book",
  aboutMe: "About me",
  aboutMeHint: "Each question is sent with this, so that answers suit you. It is kept in this browser only.",
  answerLanguage: "Language of the answers",
  languageOfQuestion: "That of the question",
  level: "What I know of the subject",
  levels: ["Nothing said", "I am new to it", "I know the basics", "I am an expert"],
  aboutMeText: "A sentence about me",
  aboutMeExample: "I am a nurse and like examples from the hospital.",
  aboutMeNote: "Please answer in {language}.",
  save: "Save",
  saved: "Saved",
  useInAssistant: "Use this book in your assistant",
  useInAssistantHint: "Add this address as an MCP server to ChatGPT, Claude, Cursor, VS Code or another assistant:",
  withoutBook: "Answered without the book, which could not be searched.",
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
    network: "The assistant cannot be reached. Please check your connection and try again.",
    refused_origin:
      "This website may not ask the assistant. Its owner can allow it: {origin} has to be in the service's setting CORS_ORIGINS.",
    rate_limited: "You are asking too often.",
    budget_exhausted: "The assistant has answered all it can for today.",
    not_found: "This conversation no longer exists.",
    feedback: "Your feedback could not be saved. Please try again.",
    history: "The conversation could not be loaded.",
    conversations: "Your conversations could not be loaded.",
    deletion: "Your conversations could not be deleted. Please try again.",
  },
};

/** @typedef {Omit<typeof en, "errors"> & { errors: Record<string, string> }} Words */

/** The words that are loaded. @type {Record<string, Words>} */
const loaded = { en };

/**
 * Loads the words for a page in this language, and returns them as `wordsFor` does.
 * @param {string} tag  the page's `lang`, such as `en-GB`
 */
export async function loadWords(tag) {
  const lang = languageOf(tag);
  loaded[lang] ??= (await import(`./languages/${lang}.js`)).default;
  return wordsFor(tag);
}

/**
 * Returns the words for a page in this language, and the language that they are in: English, if no others are loaded.
 * @param {string} tag
 * @returns {{ lang: string, words: Words }}
 */
export function wordsFor(tag) {
  const lang = languageOf(tag);
  return loaded[lang] ? { lang, words: loaded[lang] } : { lang: "en", words: en };
}

/**
 * Returns the text with each `{name}` replaced.
 * @param {string} text
 * @param {Record<string, string | number>} values
 */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}
