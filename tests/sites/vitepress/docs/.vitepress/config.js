// A book in VitePress, whose pages and languages change without a reload.

export default {
  title: "A Small Book of Robots",
  head: [["script", { type: "module", src: "http://widget.invalid/widget.js" }]],
  locales: { root: { label: "English", lang: "en" }, ur: { label: "اردو", lang: "ur", dir: "rtl" } },
  themeConfig: { search: { provider: "local" } },
};
