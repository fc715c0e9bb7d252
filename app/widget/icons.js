/**
 * The icons of the panel, and the buttons that show nothing else.
 */

import { draw, h } from "./dom.js";

const ICONS = {
  book: "M12 6.5C10 5 7 4.5 3 5v13.5c4-.5 7 0 9 1.5 2-1.5 5-2 9-1.5V5c-4-.5-7 0-9 1.5Zm0 0V20",
  close: "M6 6l12 12M18 6 6 18",
  fresh:
    "M12 5H6a2 2 0 0 0-2 2v11a2 2 0 0 0 2 2h11a2 2 0 0 0 2-2v-6M17.5 3.8a1.8 1.8 0 0 1 2.7 2.7L12 14.7 8.5 15.5l.8-3.5Z",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  back: "M15 5l-7 7 7 7",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM4.500 20.500c.7-4 3.700-6 7.500-6s6.800 2 7.500 6",
  dock: "M4 5h16v14H4ZM14 5v14",
  undock: "M4 5h16v14H4ZM11 10h6v6h-6Z",
  plug: "M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0ZM12 17v4",
  list: "M4 5h16v11H9l-5 4ZM8 9h8M8 12.500h5",
  widen: "M9 4H4v5M4 4l6 6M15 20h5v-5M20 20l-6-6",
  narrow: "M4 10h6V4M10 10 4 4M20 14h-6v6M14 14l6 6",
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  down: "M12 5v14M5.5 12.5 12 19l6.5-6.5",
  quote: "M5 17c2.5-1 4-3 4-6V7H4v5h4M15 17c2.5-1 4-3 4-6V7h-5v5h4",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  check: "M5 12.5 10 17.5 19 7.5",
  up: "M7 11v9M7 11l4-8c1.7 0 2.8 1.3 2.5 3l-.5 3h5a2 2 0 0 1 2 2.4l-1.2 6A2 2 0 0 1 16.9 20H4v-9Z",
  thumbDown: "M7 13V4M7 13l4 8c1.7 0 2.8-1.3 2.5-3l-.5-3h5a2 2 0 0 0 2-2.4l-1.2-6A2 2 0 0 0 16.9 4H4v9Z",
  warn: "M12 8v5M12 16.500v.1M12 3.5 2.5 20h19Z",
};

/** @typedef {keyof typeof ICONS} IconName */

/**
 * Returns an icon, which says nothing to a screen reader.
 * @param {IconName} name
 */
export function icon(name) {
  return draw(name, ICONS[name]);
}

/**
 * Returns a button that shows an icon and is called by its label.
 * @param {IconName} name
 * @param {string} label
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, unknown>} [properties]
 */
export function iconButton(name, label, onclick, properties = {}) {
  return h(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...properties },
    icon(name),
  );
}
