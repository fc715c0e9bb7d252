// Asks about the book with `POST /chat/stream`, and still shows the conversation after a reload.

const api = globalThis.CHAT_API ?? "http://127.0.0.1:8000";

const book = document.querySelector("article");
const conversation = document.querySelector("ul");
const form = document.querySelector("form");
const excerpt = document.querySelector("blockquote");
const problem = document.querySelector("[role=alert]");

// A click into the form clears the selection, so it is remembered.
document.addEventListener("selectionchange", () => {
  const selection = document.getSelection();
  if (book.contains(selection.anchorNode) && !selection.isCollapsed) excerpt.textContent = selection.toString();
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = form.elements.message.value;
  problem.textContent = "";
  form.inert = true;
  const asked = show("user", message);
  const answer = show("assistant", "");
  try {
    for await (const [name, data] of ask(message, excerpt.textContent || null)) {
      if (name === "session") localStorage.setItem("chat-session", data.session_id);
      if (name === "delta") answer.textContent += data.text;
      if (name === "done") answer.textContent = data.response;
    }
    form.reset();
    excerpt.textContent = "";
  } catch (error) {
    // The question stays in the form, to be asked again.
    asked.remove();
    answer.remove();
    problem.textContent = error.message;
  } finally {
    form.inert = false;
  }
});

function show(role, text) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = text;
  conversation.append(item);
  return item;
}

// A question that failed is asked again with the same body and the same key, so it is never answered twice.
let pending = null;

async function* ask(message, selected_text) {
  if (pending?.question.message !== message || pending.question.selected_text !== selected_text) {
    const session_id = localStorage.getItem("chat-session");
    pending = { question: { message, session_id, selected_text }, key: crypto.randomUUID() };
  }
  const response = await call("/chat/stream", {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": pending.key },
    body: JSON.stringify(pending.question),
  });
  for await (const [name, data] of events(response)) {
    if (name === "error") throw readable(data);
    yield [name, data];
    if (name === "done") {
      pending = null;
      return;
    }
  }
  throw new Error("The answer broke off. Please ask again.");
}

async function call(path, options) {
  let body;
  try {
    const response = await fetch(api + path, options);
    if (response.ok) return response;
    body = await response.json();
  } catch {
    throw new Error("The assistant cannot be reached. Please try again later."); // Or a proxy answered with a page of its own.
  }
  throw readable(body);
}

function readable({ error }) {
  const details = (error.details ?? []).map(({ field, reason }) => `${field} ${reason}`);
  return Object.assign(new Error([error.message, ...details, `(${error.request_id})`].join(" ")), { code: error.code });
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const found = block.match(/^event: (.*)\ndata: (.*)$/s);
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}

// After a reload, the conversation is read back.
const session = localStorage.getItem("chat-session");
try {
  for (let after = "", more = session !== null; more; ) {
    const page = await (await call(`/chat/${session}/messages?${after && `after=${after}`}`)).json();
    page.data.forEach(({ role, content }) => show(role, content));
    [after, more] = [page.after, page.has_more];
  }
} catch (error) {
  if (error.code === "not_found") localStorage.removeItem("chat-session");
  else problem.textContent = error.message;
}
