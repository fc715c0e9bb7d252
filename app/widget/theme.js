/**
 * The chat's colours and font, taken from the page as it is shown: its real background and text, and the accent of its theme.
 *
 * They are computed here and not with CSS, whose functions for this are newer than the browsers that readers have, and which cannot
 * see what a theme sets on `body` or on an element within.
 */

/** @typedef {[red: number, green: number, blue: number, alpha: number]} Colour  the alpha is from 0 to 1, the others to 255 */

/** What themes call their accent: the owner's own word, Docusaurus, VitePress, Material, pydata, Furo, Starlight, Bootstrap. */
const ACCENTS = [
  "--book-chat-accent",
  "--ifm-color-primary",
  "--vp-c-brand-1",
  "--md-primary-fg-color",
  "--pst-color-primary",
  "--color-brand-primary",
  "--sl-color-accent",
  "--bs-primary",
];

/** @type {Colour} */
const WHITE = [255, 255, 255, 1];
/** @type {Colour} */
const BLACK = [0, 0, 0, 1];

/** How soon after a change the page is looked at again: some themes change something with each frame that is scrolled. */
const PAUSE_MS = 200;

export class Theme {
  #probe;
  #style;
  #book;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #timer = 0;

  /**
   * @param {HTMLElement} probe  a hidden element of the chat, on which colours are computed
   * @param {CSSStyleDeclaration} style  the rule that is to have the colours, as custom properties
   * @param {() => Element} book  an element of the book
   */
  constructor(probe, style, book) {
    this.#probe = probe;
    this.#style = style;
    this.#book = book;
    const soon = () => this.#soon();
    for (const event of ["click", "transitionend", "load"]) document.addEventListener(event, soon, { capture: true });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  }

  /** The page has changed: looks at it, at once unless it has just been looked at. */
  update() {
    if (performance.now() - this.#lookedAt < PAUSE_MS) this.#soon();
    else this.#look();
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), PAUSE_MS);
  }

  #look() {
    clearTimeout(this.#timer);
    this.#lookedAt = performance.now();
    const book = this.#book();
    const page = this.#backgroundOf(book);
    const isDark = luminance(page) < 0.18;
    this.#set("color-scheme", isDark ? "dark" : "light");
    const surface = isDark ? mix(page, WHITE, 0.04) : page;
    const text = this.#colour(getComputedStyle(book).color);
    const ink =
      text && contrast(text, surface) >= 7 ? text : isDark ? mix(BLACK, WHITE, 0.89) : mix(WHITE, BLACK, 0.89);
    const accent = this.#accent() ?? this.#colour(isDark ? "#58a6ff" : "#1f6feb") ?? ink;
    const danger = this.#colour(isDark ? "#ffb4ab" : "#b3261e") ?? ink;
    const colours = {
      surface,
      ink,
      accent,
      danger,
      line: mix(surface, ink, 0.13),
      faint: mix(surface, ink, 0.05),
      off: mix(surface, ink, 0.12),
      edge: mix(surface, ink, 0.5),
      muted: until(mix(surface, ink, 0.74), ink, (colour) => contrast(colour, surface) >= 4.5),
      tint: mix(surface, accent, 0.13),
      "danger-tint": mix(surface, danger, 0.09),
      "danger-line": mix(surface, danger, 0.35),
      focus: until(accent, ink, (colour) => contrast(colour, surface) >= 3),
      // White is written on it.
      fill: until(accent, BLACK, (colour) => contrast(colour, WHITE) >= 4.5),
    };
    for (const [name, colour] of Object.entries(colours)) this.#set(`--${name}`, css(colour));
    this.#set("--font", getComputedStyle(document.body).fontFamily);
  }

  /** @param {string} name @param {string} value */
  #set(name, value) {
    this.#style.setProperty(name, value, "important");
  }

  #accent() {
    const style = getComputedStyle(document.body);
    for (const name of ACCENTS) {
      const colour = this.#colour(style.getPropertyValue(name));
      if (colour && colour[3] > 0.5) return colour;
    }
    return null;
  }

  /** Returns the colour behind this element's text. @param {Element} element */
  #backgroundOf(element) {
    for (let at = /** @type {Element | null} */ (element); at; at = at.parentElement) {
      const colour = this.#colour(getComputedStyle(at).backgroundColor);
      if (colour && colour[3] > 0.5) return colour;
    }
    this.#probe.style.colorScheme = getComputedStyle(document.documentElement).colorScheme;
    return this.#colour("Canvas") ?? WHITE;
  }

  /** Returns what CSS means by a colour. @param {string} text @returns {Colour | null} */
  #colour(text) {
    const { style } = this.#probe;
    style.color = "";
    style.color = text;
    if (!style.color) return null;
    const computed = getComputedStyle(this.#probe).color;
    const rgb = computed.match(/^rgba?\(([\d.]+), ([\d.]+), ([\d.]+)(?:, ([\d.]+))?\)$/);
    if (rgb) return [Number(rgb[1]), Number(rgb[2]), Number(rgb[3]), Number(rgb[4] ?? 1)];
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    if (!context) return null;
    context.fillStyle = computed;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  }
}

/** @param {Colour} colour */
function css([red, green, blue]) {
  return `rgb(${Math.round(red)}, ${Math.round(green)}, ${Math.round(blue)})`;
}

/** @param {Colour} from @param {Colour} to @param {number} part  how much of the other colour @returns {Colour} */
function mix(from, to, part) {
  const [red, green, blue] = from.map((value, index) => Math.round(value + (to[index] - value) * part));
  return [red, green, blue, 1];
}

/** Returns the colour nearest to the first one, towards the other, that is good enough. */
/** @param {Colour} from @param {Colour} to @param {(colour: Colour) => boolean} isGood */
function until(from, to, isGood) {
  let colour = mix(from, to, 0);
  for (let part = 0.05; part < 1 && !isGood(colour); part += 0.05) colour = mix(from, to, part);
  return colour;
}

/** As WCAG measures it. @param {Colour} colour */
function luminance(colour) {
  const [red, green, blue] = colour.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** @param {Colour} one @param {Colour} other */
function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}
