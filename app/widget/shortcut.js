/**
 * A key that opens and closes the chat, as its owner writes it: `Control+K`, `Alt+Shift+A`, `?`. `Mod` is the key that the reader's
 * system has for shortcuts.
 */

const MODIFIERS = ["Control", "Alt", "Shift", "Meta"];

/** Whether the press of a key is this shortcut. @param {KeyboardEvent} event @param {string} shortcut */
export function isShortcut(event, shortcut) {
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
export function systemsOwn(shortcut) {
  return shortcut.replace(/\bMod\b/i, /Mac|iP/.test(navigator.platform) ? "Meta" : "Control");
}

/** @param {EventTarget} target */
function isField(target) {
  return target instanceof HTMLElement && (target.isContentEditable || target.matches("input, textarea, select"));
}
