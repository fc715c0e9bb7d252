/**
 * Links of the chat to pages of the book: on a site that changes its pages without a reload, the chat stays as it is.
 */

/** How long a page may take to load, to have its passage marked: afterwards the reader is elsewhere. */
const MOST_LOADING_MS = 3000;

/**
 * Follows a link within a single-page site without a reload. A site can do so itself, by answering the event `book-chat:navigate`
 * with `preventDefault()`. Returns whether the link leads to another page of this window.
 * @param {MouseEvent} event @param {URL} url
 */
export function visit(event, url) {
  const isElsewhere = url.origin !== location.origin || event.button !== 0;
  if (isElsewhere || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return false;
  // The browser itself marks a passage, unless a router takes its page.
  const isHere = url.pathname === location.pathname && url.search === location.search;
  const navigate = new CustomEvent("book-chat:navigate", {
    bubbles: true,
    composed: true,
    cancelable: true,
    detail: { url: url.href },
  });
  if (!event.currentTarget?.dispatchEvent(navigate)) event.preventDefault();
  else if (isDocusaurusPage(url) && !isHere) {
    event.preventDefault();
    // Its router listens to the history.
    history.pushState(null, "", url.href);
    dispatchEvent(new PopStateEvent("popstate", { state: null }));
    const { href } = /** @type {HTMLAnchorElement} */ (event.currentTarget);
    if (href !== url.href) markPassage(href, url);
  }
  return true;
}

/**
 * Has the browser mark a passage on the page that the router is loading, once it is there.
 * @param {string} href  the address that says what to mark @param {URL} url  the page's
 */
async function markPassage(href, url) {
  const until = performance.now() + MOST_LOADING_MS;
  const anchor = url.hash.slice(1);
  while (performance.now() < until && location.href === url.href) {
    await new Promise(requestAnimationFrame);
    // The ids of other languages are percent-encoded in addresses.
    if (!document.getElementById(decoded(anchor))) continue;
    // Its own scrolling to the anchor comes first.
    await new Promise(requestAnimationFrame);
    return location.replace(href);
  }
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Whether this address is a page of the Docusaurus site that the widget is on. @param {URL} url */
function isDocusaurusPage(url) {
  if (!("docusaurus" in window) || /\.(?!html$)\w+$/.test(url.pathname)) return false;
  const home = document.querySelector("a.navbar__brand")?.getAttribute("href") ?? "/";
  return url.href.startsWith(new URL(home, location.href).href);
}
