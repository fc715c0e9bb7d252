/**
 * A key that opens and closes the chat, as its owner writes it: `Control+K`, `Alt+Shift+A`, `?`. `Mod` is the key that the reader's
 * system has for shortcuts.
 */

const MODIFIERS = ["Control", "Alt", "Shift", "Meta"];

/**
 * Calls back whenever the shortcut is pressed.
 * @param {HTMLElement} launcher  which tells of the shortcut @param {string} shortcut @param {() => void} onPress
 */
export function watch(launcher, shortcut, onPress) {
  launcher.setAttribute("aria-keyshortcuts", systemsOwn(shortcut));
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (!isShortcut(event, shortcut)) return;
    event.preventDefault();
    event.stopPropagation();
    onPress();
  };
  // Before the page's own, and also while the reader is in the chat, where keys end.
  addEventListener("keydown", onKey, { capture: true });
}

/** Whether the press of a key is this shortcut. @param {KeyboardEvent} event @param {string} shortcut */
function isShortcut(event, shortcut) {
  const names = systemsOwn(shortcut).split(/\+(?=.)/);
  const key = names.pop()?.trim().toLowerCase() ?? "";
  const wanted = names.map((name) => name.trim().toLowerCase());
  const isLetter = /^[a-z]$/.test(key);
  // Which keys type a sign differs from keyboard to keyboard.
  const counted = isLetter || key.length > 1 ? MODIFIERS : MODIFIERS.filter((name) => name !== "Shift");
  const isPressed = event.key?.toLowerCase() === key || (isLetter && event.code === `Key${key.toUpperCase()}`);
  const isTyping = isField(event.composedPath()[0]) && !wanted.some((name) => name !== "shift");
  return (
    isPressed &&
    !isTyping &&
    counted.every((name) => event.getModifierState(name) === wanted.includes(name.toLowerCase()))
  );
}

/** Returns the shortcut with the key of this system for `Mod`. @param {string} shortcut */
function systemsOwn(shortcut) {
  return shortcut.replace(/\bMod\b/i, /Mac|iP/.test(navigator.platform) ? "Meta" : "Control");
}

/** @param {EventTarget} target */
function isField(target) {
  return target instanceof HTMLElement && (target.isContentEditable || target.matches("input, textarea, select"));
}
