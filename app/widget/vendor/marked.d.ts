export * from "../../../tools/node_modules/marked/lib/marked.js";
