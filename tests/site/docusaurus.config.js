// A book with formulas, in English and in Urdu. Where the service is becomes known after the site is built, and the
// tests put it into the pages then.

import rehypeKatex from "rehype-katex";
import remarkMath from "remark-math";

const docs = process.env.BOOK ?? "docs";

export default {
  title: "A Small Book of Robots",
  url: "https://book.example.org",
  baseUrl: "/",
  onBrokenLinks: "ignore",
  future: { v4: true, faster: true },
  markdown: {
    mdx1Compat: { headingIds: true, comments: true, admonitions: true },
    hooks: { onBrokenMarkdownLinks: "ignore" },
  },
  i18n: {
    defaultLocale: "en",
    locales: process.env.BOOK ? ["en"] : ["en", "ur"],
    localeConfigs: { ur: { direction: "rtl" } },
  },
  themeConfig: { navbar: { title: "A Small Book of Robots" }, colorMode: { respectPrefersColorScheme: true } },
  presets: [
    [
      "classic",
      {
        docs: { path: docs, routeBasePath: "/", remarkPlugins: [remarkMath], rehypePlugins: [rehypeKatex] },
        blog: false,
        theme: { customCss: "./node_modules/katex/dist/katex.min.css" },
      },
    ],
  ],
  scripts: [{ src: "http://widget.invalid/widget.js", type: "module" }],
};
