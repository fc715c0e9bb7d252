/**
 * What the service offers. This file has what it offers at least; the service has its settings in place of it.
 */

/** Whether readers' own assistants may search the books. @type {boolean} */
export const mcp = false;
