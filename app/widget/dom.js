/**
 * Small things that build the interface as DOM nodes, never as HTML: pages may forbid that (Trusted Types).
 */

/** Where the chat fills the screen, and the page behind it is out of reach. */
export const SMALL = matchMedia("(max-width: 640px), (max-height: 440px)");

/**
 * Returns a new element. `class` and attributes that are not properties are set as attributes; `on…` adds a listener.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

/**
 * Returns an icon, which says nothing to a screen reader.
 * @param {string} name @param {string} lines  what is drawn, in a square of 24
 */
export function draw(name, lines) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon ${name}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", lines);
  svg.append(path);
  return svg;
}

/** Returns a style sheet, which works under any Content-Security-Policy. @param {string} text */
export function sheet(text) {
  const styles = new CSSStyleSheet();
  styles.replaceSync(text);
  return styles;
}
