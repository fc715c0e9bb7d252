/**
 * The panel's looks. Colours come from the page: Infima's variables where there are any, and its `color-scheme`. A style sheet that
 * is adopted works under any Content-Security-Policy, which a `<style>` element does not.
 */

export const css = `
.panel {
  --line: color-mix(in srgb, var(--ink) 13%, transparent);
  --faint: color-mix(in srgb, var(--ink) 5%, var(--surface));
  --muted: color-mix(in srgb, var(--ink) 72%, var(--surface));
  --tint: color-mix(in oklab, var(--accent) 13%, var(--surface));
  --danger: light-dark(#b3261e, #ffb4ab);
  --round: 1rem;
  --mono: var(--ifm-font-family-monospace, ui-monospace, SFMono-Regular, Menlo, Consolas, monospace);
  box-sizing: border-box;
  position: fixed;
  z-index: var(--layer);
  inset: auto;
  inset-block-end: calc(1.25rem + env(safe-area-inset-bottom));
  inset-inline-end: 1.25rem;
  margin: 0;
  padding: 0;
  border: 0;
  inline-size: min(26rem, calc(100vw - 2.5rem));
  max-inline-size: none;
  block-size: min(44rem, calc(100dvh - 2.5rem));
  max-block-size: none;
  flex-direction: column;
  overflow: hidden;
  border-radius: var(--round);
  background: var(--surface);
  color: var(--ink);
  box-shadow: 0 0 0 1px var(--line), 0 2px 6px #0000001f, 0 16px 48px light-dark(#0003, #000a);
  overflow-wrap: anywhere;
  text-align: start;
  scrollbar-color: color-mix(in srgb, var(--ink) 35%, transparent) transparent;
}
.panel[open] { display: flex; animation: open 0.18s cubic-bezier(0.2, 0.8, 0.3, 1) }
.panel.wide { inline-size: min(48rem, calc(100vw - 2.5rem)); block-size: calc(100dvh - 2.5rem) }
.panel.modal {
  inset: 0;
  inset-block-start: var(--top, 0);
  inline-size: 100%;
  block-size: var(--height, 100dvh);
  border-radius: 0;
  box-shadow: none;
}
.panel.modal::backdrop { background: var(--surface) }
.panel.modal .width { display: none }
.panel *, .panel *::before, .panel *::after { box-sizing: border-box }

.panel button { font: inherit; color: inherit; margin: 0; -webkit-tap-highlight-color: transparent; cursor: pointer }
.panel button:disabled { cursor: default }
.panel :focus-visible { outline: 2px solid var(--focus, color-mix(in oklab, var(--accent) 75%, var(--ink))); outline-offset: 2px }
.panel h2:focus-visible, .panel .log:focus-visible { outline-offset: -2px }

.head {
  display: flex;
  align-items: center;
  gap: 0.15rem;
  padding: 0.55rem 0.6rem 0.55rem 1.1rem;
  padding-block-start: calc(0.55rem + env(safe-area-inset-top));
  border-block-end: 1px solid var(--line);
}
.head:dir(rtl) { padding-inline: 1.1rem 0.6rem }
.head h2 {
  flex: 1;
  min-inline-size: 0;
  margin: 0;
  font-size: 1.05em;
  font-weight: 650;
  line-height: 1.3;
  white-space: nowrap;
  overflow: hidden;
  text-overflow: ellipsis;
  border-radius: 0.3rem;
}
.icon-button {
  display: inline-grid;
  place-items: center;
  inline-size: 2.4rem;
  block-size: 2.4rem;
  padding: 0;
  border: 0;
  border-radius: 0.6rem;
  background: none;
  color: var(--muted) !important;
}
.icon-button:hover { background: var(--faint); color: var(--ink) !important }
.icon-button .icon { inline-size: 1.25rem; block-size: 1.25rem }

.log {
  flex: 1;
  min-block-size: 0;
  overflow-y: auto;
  overscroll-behavior: contain;
  overflow-anchor: none;
  padding: 1.1rem 1.1rem 1.4rem;
  scrollbar-width: thin;
}
.turn + .turn, .note + .turn, .turn + .note, .earlier + .turn { margin-block-start: 1.6rem }
.question {
  inline-size: fit-content;
  max-inline-size: 88%;
  margin-inline-start: auto;
  padding: 0.6em 0.95em;
  border-radius: 1.1em;
  border-end-end-radius: 0.35em;
  background: var(--tint);
  white-space: pre-wrap;
}
.question p { margin: 0 }
.question:not(:has(p:not(:empty))) { display: none }
.quoted {
  margin: 0;
  padding-inline-start: 0.75em;
  border-inline-start: 3px solid var(--accent);
  color: var(--muted);
  font-size: 0.92em;
  line-height: 1.45;
  white-space: pre-line;
  display: -webkit-box;
  -webkit-box-orient: vertical;
  -webkit-line-clamp: 3;
  overflow: hidden;
}
.quoted.whole { display: block; max-block-size: 40vh; overflow: auto }
.question .quoted { margin-block-end: 0.55em }
.reply { margin-block-start: 0.9rem }

.answer > :first-child, .answer blockquote > :first-child { margin-block-start: 0 }
.answer > :last-child, .answer blockquote > :last-child { margin-block-end: 0 }
.answer p { margin: 0 0 0.8em }
.answer h3 { margin: 1.3em 0 0.5em; font-size: 1em; font-weight: 700; line-height: 1.35 }
.answer :is(.depth1, .depth2) { font-size: 1.14em }
.answer .depth3 { font-size: 1.06em }
.answer :is(ul, ol) { margin: 0 0 0.8em; padding: 0; padding-inline-start: 1.5em }
.answer li { margin-block: 0.25em; padding-inline-start: 0.15em }
.answer li > :is(ul, ol) { margin-block: 0.25em }
.answer li > p { margin-block-end: 0.4em }
.answer li.task { list-style: none; margin-inline-start: -1.2em }
.answer li::marker { color: var(--muted) }
.answer blockquote { margin: 0 0 0.8em; padding-inline-start: 0.9em; border-inline-start: 3px solid var(--line); color: var(--muted) }
.answer hr { margin: 1.3em 0; border: 0; border-block-start: 1px solid var(--line) }
.answer a:not(.citation) { color: inherit; text-decoration: underline; text-decoration-color: var(--accent); text-decoration-thickness: 2px; text-underline-offset: 0.18em }
.answer a:not(.citation):hover { background: var(--tint) }
.answer :not(pre) > code { padding: 0.1em 0.35em; border-radius: 0.35em; background: var(--faint); box-shadow: inset 0 0 0 1px var(--line) }
.answer code { font-family: var(--mono); font-size: 0.88em }
.code { margin: 0 0 0.9em; border: 1px solid var(--line); border-radius: 0.7rem; background: var(--faint); overflow: hidden }
.code-head { display: flex; align-items: center; justify-content: space-between; min-block-size: 2.1rem; padding-inline-start: 0.9rem; font-size: 0.8em; color: var(--muted) }
.code-head .icon-button { inline-size: 2.1rem; block-size: 2.1rem; border-radius: 0 }
.code-head .icon-button .icon { inline-size: 1rem; block-size: 1rem }
.code pre { margin: 0; padding: 0.1rem 0.9rem 0.8rem; max-block-size: 26rem; overflow: auto; overflow-wrap: normal; line-height: 1.5; scrollbar-width: thin; tab-size: 4 }
.code pre:focus-visible { outline-offset: -3px; border-radius: 0.7rem }
.table { margin: 0 0 0.9em; overflow-x: auto; border: 1px solid var(--line); border-radius: 0.7rem; scrollbar-width: thin }
.table table { border-collapse: collapse; inline-size: max-content; min-inline-size: 100%; font-size: 0.93em; overflow-wrap: normal }
.table :is(th, td) { padding: 0.5em 0.8em; text-align: start; vertical-align: top; max-inline-size: 15em; overflow-wrap: break-word }
.table th { background: var(--faint); font-weight: 650 }
.table tr + tr td, .table tbody tr:first-child td { border-block-start: 1px solid var(--line) }
.table :is(.center) { text-align: center }
.table :is(.right) { text-align: end }
.formula { unicode-bidi: isolate; overflow-wrap: normal }
.formula.tex { font-family: var(--mono); font-size: 0.88em; color: var(--muted); overflow-wrap: anywhere }
.formula.display { display: block; margin: 0 0 0.9em; padding-block: 0.3em 0.7em; overflow-x: auto; overflow-y: hidden; text-align: center; scrollbar-width: thin }
math { font-family: "Cambria Math", "STIX Two Math", "Latin Modern Math", "STIX Math", "DejaVu Math TeX Gyre", math; direction: ltr; line-height: normal }
math * { border-color: currentColor }
math.tml-display { display: block; inline-size: 100% }
.citation {
  margin-inline-start: 0.25em;
  padding: 0.15em 0.45em;
  border-radius: 0.5em;
  background: var(--tint);
  color: inherit;
  font-size: 0.76em;
  font-weight: 650;
  line-height: 1;
  text-decoration: none;
  vertical-align: 0.2em;
  white-space: nowrap;
}
.citation:hover { background: var(--fill); color: #fff }

.sources { margin-block-start: 0.9rem; font-size: 0.9em }
.sources > p { margin: 0 0 0.4em; color: var(--muted); font-size: 0.88em; font-weight: 650 }
.sources ol { margin: 0; padding: 0; list-style: none; display: flex; flex-direction: column; gap: 0.3rem }
.sources li > * {
  display: flex;
  gap: 0.6em;
  align-items: baseline;
  padding: 0.45em 0.7em;
  border: 1px solid var(--line);
  border-radius: 0.7rem;
  color: inherit;
  text-decoration: none;
  line-height: 1.4;
}
.sources a:hover { border-color: var(--accent); background: var(--tint) }
.sources .number { color: var(--muted); font-weight: 650; font-variant-numeric: tabular-nums; min-inline-size: 0.8em; text-align: center }
.sources .title { flex: 1; min-inline-size: 0; text-align: match-parent }
.sources a:hover .title { text-decoration: underline; text-decoration-color: var(--accent); text-underline-offset: 0.18em }

.actions { display: flex; gap: 0.1rem; margin-block-start: 0.45rem; margin-inline-start: -0.45rem }
.actions .icon-button { inline-size: 2.1rem; block-size: 2.1rem }
.actions .icon-button .icon { inline-size: 1.1rem; block-size: 1.1rem }
.icon-button[aria-pressed=true]:not(.width) { color: var(--ink) !important; background: var(--tint) }
.icon-button[aria-pressed=true]:not(.width) .icon { fill: color-mix(in oklab, var(--accent) 35%, transparent) }
.icon-button > .check, .icon-button.done > .copy { display: none }
.icon-button.done > .check { display: block }
.reasons { margin-block-start: 0.5rem; padding: 0.7rem 0.85rem; border-radius: 0.8rem; background: var(--faint); font-size: 0.93em }
.reasons p { margin: 0 }
.chips { display: flex; flex-wrap: wrap; gap: 0.4rem; margin-block-start: 0.6rem }
.panel .chip {
  padding: 0.35em 0.85em;
  border: 1px solid var(--line);
  border-radius: 99px;
  background: var(--surface);
}
.panel .chip:hover { border-color: var(--accent); background: var(--tint) }
.own-words { display: flex; gap: 0.4rem; inline-size: 100% }
.own-words input { flex: 1; min-inline-size: 0; padding: 0.35em 0.8em; border: 1px solid color-mix(in srgb, var(--ink) 45%, transparent); border-radius: 0.6rem; background: var(--surface); color: inherit; font: inherit }
.earlier { display: block; margin: 0 auto 1.4rem !important; font-size: 0.9em !important; color: var(--muted) !important }

.waiting { display: flex; align-items: center; gap: 0.7em; color: var(--muted) }
.waiting p { margin: 0 }
.dots { display: inline-flex; gap: 0.28em; flex: none }
.dots i { inline-size: 0.45em; block-size: 0.45em; border-radius: 50%; background: var(--accent); animation: pulse 1.2s ease-in-out infinite }
.dots i:nth-child(2) { animation-delay: 0.15s }
.dots i:nth-child(3) { animation-delay: 0.3s }
.answer:not(:empty) + .state:not(:empty) { margin-block-start: 0.9rem }
.notice, .problem { display: flex; flex-wrap: wrap; align-items: center; gap: 0.5rem 0.7rem; padding: 0.7rem 0.9rem; border-radius: 0.8rem; background: var(--faint) }
.notice > div, .problem > div { flex: 1 1 12rem; min-inline-size: 0 }
.notice p, .problem p { margin: 0 }
.problem { background: color-mix(in oklab, var(--danger) 9%, var(--surface)); box-shadow: inset 0 0 0 1px color-mix(in srgb, var(--danger) 35%, transparent) }
.problem > .icon { color: var(--danger); align-self: start; margin-block-start: 0.1em }
.problem small { display: block; margin-block-start: 0.25em; color: var(--muted); font-size: 0.8em }
.problem > p { flex: 1 1 12rem }
.panel .countdown { flex: 1 1 100%; color: var(--muted); font-variant-numeric: tabular-nums }
.panel .retry { padding: 0.4em 1em; border: 0; border-radius: 0.6rem; background: var(--fill); color: #fff; font-weight: 600 }
.panel .retry:hover:not(:disabled) { filter: brightness(1.07) }
.panel .retry:disabled { background: color-mix(in srgb, var(--ink) 12%, var(--surface)); color: var(--muted) }
.note { margin: 1.6rem 0 0; color: var(--muted); font-size: 0.9em; text-align: center; text-wrap: balance }
.note:first-child { margin-block-start: 0 }

.welcome { display: flex; flex-direction: column; align-items: center; min-block-size: 100%; justify-content: center; text-align: center }
.welcome > .icon { inline-size: 3rem; block-size: 3rem; padding: 0.7rem; border-radius: 1rem; background: var(--tint); stroke-width: 1.6 }
.welcome h3 { margin: 1rem 0 0.35rem; font-size: 1.2em; font-weight: 650; line-height: 1.3 }
.welcome > p { margin: 0; max-inline-size: 21rem; color: var(--muted); text-wrap: pretty }
.suggestions { align-self: stretch; margin-block-start: 1.6rem; display: flex; flex-direction: column; gap: 0.5rem }
.suggestions p { margin: 0; color: var(--muted); font-size: 0.85em; font-weight: 650; text-align: start }
.panel .suggestion { display: block; padding: 0.65em 0.95em; border: 1px solid var(--line); border-radius: 0.8rem; background: none; text-align: start; text-wrap: wrap; transition: border-color 0.12s, background 0.12s }
.panel .suggestion:hover { border-color: var(--accent); background: var(--tint) }

.loading { display: grid; gap: 0.8rem }
.loading i { block-size: 0.95rem; border-radius: 0.4rem; background: color-mix(in srgb, var(--ink) 9%, var(--surface)); animation: pulse 1.4s ease-in-out infinite }
.loading i:nth-of-type(1) { inline-size: 55%; block-size: 2.2rem; border-radius: 1rem; justify-self: end }
.loading i:nth-of-type(2) { inline-size: 92% }
.loading i:nth-of-type(3) { inline-size: 70% }

.bottom { position: relative; padding: 0.2rem 0.9rem calc(0.55rem + env(safe-area-inset-bottom)) }
.latest { position: absolute; inset-block-end: calc(100% + 0.5rem); inset-inline-start: calc(50% - 1.1rem); inline-size: 2.2rem; block-size: 2.2rem; border-radius: 50%; background: var(--surface); box-shadow: 0 0 0 1px var(--line), 0 3px 12px #0003 }
.composer { border: 1px solid color-mix(in srgb, var(--ink) 45%, transparent); border-radius: 1.15rem; background: var(--surface); transition: border-color 0.12s, box-shadow 0.12s }
.composer:focus-within { border-color: var(--accent); box-shadow: 0 0 0 3px color-mix(in oklab, var(--accent) 30%, transparent) }
.field { display: flex; align-items: flex-end; gap: 0.4rem; padding: 0.32rem }
textarea {
  flex: 1;
  min-inline-size: 0;
  max-block-size: 9.5rem;
  margin: 0;
  padding: 0.42rem 0.3rem 0.42rem 0.75rem;
  border: 0;
  outline: none !important;
  background: none;
  color: inherit;
  font: inherit;
  font-size: max(16px, 1em);
  line-height: 1.45;
  resize: none;
  overflow-y: auto;
  scrollbar-width: thin;
}
textarea:dir(rtl) { padding-inline: 0.3rem 0.75rem }
.panel ::placeholder { color: var(--muted); opacity: 1 }
.round { flex: none; display: grid; place-items: center; inline-size: 2.3rem; block-size: 2.3rem; padding: 0; border: 0; border-radius: 50%; background: var(--fill); color: #fff !important; transition: background 0.12s }
.round:hover:not(:disabled) { filter: brightness(1.07) }
.round:disabled { background: color-mix(in srgb, var(--ink) 12%, var(--surface)); color: var(--muted) !important }
.round .icon { stroke-width: 2.2 }
.stop i { inline-size: 0.8rem; block-size: 0.8rem; border-radius: 0.2rem; background: currentColor }
.chosen { display: flex; align-items: flex-start; gap: 0.6rem; margin: 0.5rem 0.5rem 0; padding: 0.5rem 0.3rem 0.5rem 0.7rem; border-radius: 0.75rem; background: var(--tint) }
.chosen > .icon { inline-size: 1.1rem; block-size: 1.1rem; margin-block-start: 0.15rem; flex: none; color: var(--muted) }
.chosen .quoted { flex: 1; min-inline-size: 0; padding: 0; border: 0; -webkit-line-clamp: 2 }
.chosen .quoted.whole { max-block-size: 30vh }
.chosen .icon-button { inline-size: 1.7rem; block-size: 1.7rem; flex: none }
.chosen .icon-button .icon { inline-size: 1rem; block-size: 1rem }
.disclaimer { margin: 0.45rem 0 0; color: var(--muted); font-size: 0.78em; line-height: 1.3; text-align: center }
.panel .quiet { padding: 0.25em 0.3em; border: 0; border-radius: 0.4em; background: none; color: var(--muted); text-decoration: underline; text-underline-offset: 0.2em }
.panel .quiet:hover { color: var(--ink) }
.panel .quiet.danger { color: var(--danger); font-weight: 600 }

.sr { position: absolute; inline-size: 1px; block-size: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
[hidden] { display: none !important }

@keyframes open { from { opacity: 0; transform: translateY(12px) scale(0.985) } }
@keyframes pulse { 0%, 100% { opacity: 0.35 } 50% { opacity: 1 } }
@media (forced-colors: active) {
  .panel, .question, .round, .panel .retry, .citation { border: 1px solid }
  .stop i { background: ButtonText }
}
@media (prefers-reduced-motion: reduce) {
  .panel, .panel * { animation: none !important; transition: none !important; scroll-behavior: auto !important }
}
`;
