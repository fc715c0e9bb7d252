/** The part of temml that the widget uses: its own types lack the default export. */
declare const temml: {
  render(expression: string, element: Element, options?: Record<string, unknown>): void;
};
export default temml;
