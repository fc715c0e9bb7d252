/**
 * The panel's looks. Its colours are those of `theme.js`, and its sizes follow from the font size that the reader has set in the
 * browser, whatever the page makes of it. A style sheet that is adopted works under any Content-Security-Policy, which a `<style>`
 * element does not.
 */

export const css = `
.panel {
  --round: 1em;
  --mono: var(--ifm-font-family-monospace, ui-monospace, SFMono-Regular, Menlo, Consolas, monospace);
  box-sizing: border-box;
  position: fixed;
  inset: auto var(--right) calc(20px + env(safe-area-inset-bottom)) var(--left);
  margin: 0;
  padding: 0;
  border: 0;
  inline-size: min(26em / 0.9375, 100vw - 40px);
  max-inline-size: none;
  block-size: min(44em / 0.9375, 100dvh - 40px);
  max-block-size: none;
  flex-direction: column;
  overflow: hidden;
  border-radius: var(--round);
  background: var(--surface);
  color: var(--ink);
  box-shadow: 0 0 0 1px var(--line), 0 2px 6px #0000001f, 0 16px 48px #0005;
  font-size: 0.9375em;
  overflow-wrap: anywhere;
  text-align: start;
  scrollbar-color: var(--edge) transparent;
}
.panel[open] { display: flex; animation: open 0.18s cubic-bezier(0.2, 0.8, 0.3, 1) }
.panel.wide { inline-size: min(48em / 0.9375, 100vw - 40px); block-size: calc(100dvh - 40px) }
.panel.modal {
  inset: 0;
  inset-block-start: var(--top, 0);
  inline-size: 100%;
  block-size: var(--height, 100dvh);
  border-radius: 0;
  box-shadow: none;
}
.panel.modal::backdrop { background: var(--surface) }
.panel.docked { inset: 0 0 0 auto; inline-size: var(--dock); block-size: 100dvh; border-radius: 0; box-shadow: -1px 0 var(--line); animation: none }
.panel.docked.on-left { inset: 0 auto 0 0; box-shadow: 1px 0 var(--line) }
.separator { position: absolute; inset: 0 auto 0 0; z-index: 2; inline-size: 8px; cursor: col-resize; touch-action: none }
.on-left > .separator { inset: 0 0 0 auto }
.separator::after { content: ""; position: absolute; inset: 0 auto 0 0; inline-size: 3px; background: var(--accent); opacity: 0; transition: opacity 0.12s }
.on-left > .separator::after { inset: 0 0 0 auto }
.separator:hover::after, .separator:focus-visible::after, .separator:active::after { opacity: 1 }
.panel .separator:focus-visible { outline-offset: -2px }
.panel *, .panel *::before, .panel *::after { box-sizing: border-box }

.panel button { font: inherit; color: inherit; margin: 0; -webkit-tap-highlight-color: transparent; cursor: pointer }
.panel button:disabled { cursor: default }
.panel :focus-visible { outline: 2px solid var(--focus); outline-offset: 2px }
.panel h2:focus-visible, .panel .log:focus-visible { outline-offset: -2px }

.head {
  display: flex;
  align-items: center;
  gap: 0.15em;
  padding-block: calc(0.55em + env(safe-area-inset-top)) 0.55em;
  padding-inline: 1.1em 0.6em;
  border-block-end: 1px solid var(--line);
}
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
  border-radius: 0.3em;
}
.icon-button {
  display: inline-grid;
  place-items: center;
  inline-size: 2.4em;
  block-size: 2.4em;
  padding: 0;
  border: 0;
  border-radius: 0.6em;
  background: none;
  color: var(--muted) !important;
}
.icon-button:hover, .icon-button[aria-expanded=true] { background: var(--faint); color: var(--ink) !important }
.icon-button .icon { inline-size: 1.25em; block-size: 1.25em }
.icon.more { stroke-width: 3 }
:host([dir=rtl]) .icon.back { transform: scaleX(-1) }

.menu-place { position: relative }
.menu {
  position: absolute;
  inset-block-start: calc(100% + 0.3em);
  inset-inline-end: -2.4em;
  z-index: 3;
  inline-size: max-content;
  max-inline-size: min(20em, 100vw - 40px);
  max-block-size: calc(100dvh - 5em);
  overflow-y: auto;
  padding: 0.35em;
  border: 1px solid var(--line);
  border-radius: 0.8em;
  background: var(--surface);
  box-shadow: 0 2px 6px #0002, 0 8px 28px #0004;
}
.panel .menu button { display: flex; align-items: center; gap: 0.7em; inline-size: 100%; padding: 0.55em 0.75em; border: 0; border-radius: 0.55em; background: none; text-align: start; line-height: 1.35 }
.panel .menu button:hover, .panel .menu button:focus { background: var(--tint) }
.panel .menu button:focus-visible { outline-offset: -2px }
.menu .icon { inline-size: 1.2em; block-size: 1.2em; color: var(--muted) }

.passage {
  position: absolute;
  z-index: 2;
  inline-size: max-content;
  max-inline-size: min(24em, 100% - 20px);
  overflow-y: auto;
  padding: 0.65em 0.85em;
  border: 1px solid var(--line);
  border-radius: 0.75em;
  background: var(--surface);
  box-shadow: 0 2px 6px #0002, 0 6px 22px #0004;
  font-size: 0.88em;
  line-height: 1.45;
}
.passage strong { display: block; margin-block-end: 0.2em }
.passage p { margin: 0; color: var(--muted); white-space: pre-line }

.log {
  flex: 1;
  min-block-size: 0;
  overflow-y: auto;
  overscroll-behavior: contain;
  overflow-anchor: none;
  padding: 1.1em 1.1em 1.4em;
  scrollbar-width: thin;
}
.turn + .turn, .note + .turn, .turn + .note, .earlier + .turn { margin-block-start: 1.6em }
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
.question.empty { display: none }
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
.question .quotation { margin-block-end: 0.55em }
.reply { margin-block-start: 0.9em }

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
.code { margin: 0 0 0.9em; border: 1px solid var(--line); border-radius: 0.7em; background: var(--faint); overflow: hidden }
.code-head { display: flex; align-items: center; min-block-size: 2.7em; padding-inline-start: 1.1em; font-size: 0.8em; color: var(--muted) }
.code-head .icon-button { inline-size: 2.7em; block-size: 2.7em; border-radius: 0 }
.code-head .icon-button .icon { inline-size: 1.3em; block-size: 1.3em }
.code-head > span { flex: 1 }
.code pre { margin: 0; padding: 0.1em 0.9em 0.8em; max-block-size: 26em; overflow: auto; overflow-wrap: normal; line-height: 1.5; scrollbar-width: thin; tab-size: 4 }
.code pre:focus-visible { outline-offset: -3px; border-radius: 0.7em }
.table { margin: 0 0 0.9em; overflow-x: auto; border: 1px solid var(--line); border-radius: 0.7em; scrollbar-width: thin }
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

.sources { margin-block-start: 0.9em; font-size: 0.9em }
.sources > p { margin: 0 0 0.4em; color: var(--muted); font-size: 0.88em; font-weight: 650 }
.sources ol { margin: 0; padding: 0; list-style: none; display: flex; flex-direction: column; gap: 0.3em }
.sources li > * {
  display: flex;
  gap: 0.6em;
  align-items: baseline;
  padding: 0.45em 0.7em;
  border: 1px solid var(--line);
  border-radius: 0.7em;
  color: inherit;
  text-decoration: none;
  line-height: 1.4;
}
.sources a:hover { border-color: var(--accent); background: var(--tint) }
.sources .number { color: var(--muted); font-weight: 650; font-variant-numeric: tabular-nums; min-inline-size: 0.8em; text-align: center }
.sources .title { flex: 1; min-inline-size: 0; text-align: match-parent }
.sources a:hover .title { text-decoration: underline; text-decoration-color: var(--accent); text-underline-offset: 0.18em }

.actions { display: flex; gap: 0.1em; margin-block-start: 0.45em; margin-inline-start: -0.45em }
.actions .icon-button { inline-size: 2.1em; block-size: 2.1em }
.actions .icon-button .icon { inline-size: 1.1em; block-size: 1.1em }
.icon-button[aria-pressed=true] { color: var(--ink) !important; background: var(--tint) }
.icon-button[aria-pressed=true] .icon { fill: var(--accent); fill-opacity: 0.35 }
.icon-button > .copy ~ .icon, .icon-button.done > .copy, .icon-button.refused > .copy { display: none }
.icon-button.done > .check, .icon-button.refused > .close { display: block !important }
.not-copied { align-self: center; margin: 0; padding-inline-end: 0.6em; color: var(--muted); font-size: 0.85em }
.reasons { margin-block-start: 0.5em; padding: 0.7em 0.85em; border-radius: 0.8em; background: var(--faint); font-size: 0.93em }
.reasons p { margin: 0 }
.chips { display: flex; flex-wrap: wrap; gap: 0.4em; margin-block-start: 0.6em }
.panel .chip {
  padding: 0.35em 0.85em;
  border: 1px solid var(--line);
  border-radius: 99px;
  background: var(--surface);
}
.panel .chip:hover { border-color: var(--accent); background: var(--tint) }
.own-words { display: flex; gap: 0.4em; inline-size: 100% }
.own-words input { flex: 1; min-inline-size: 0; padding: 0.35em 0.8em; border: 1px solid var(--edge); border-radius: 0.6em; background: var(--surface); color: inherit; font: inherit }
.earlier { display: block; margin: 0 auto 1.4em !important; font-size: 0.9em !important; color: var(--muted) !important }

.waiting { display: flex; align-items: center; gap: 0.7em; color: var(--muted) }
.waiting p { margin: 0 }
.dots { display: inline-flex; gap: 0.28em; flex: none }
.dots i { inline-size: 0.45em; block-size: 0.45em; border-radius: 50%; background: var(--accent); animation: pulse 1.2s ease-in-out infinite }
.dots i:nth-child(2) { animation-delay: 0.15s }
.dots i:nth-child(3) { animation-delay: 0.3s }
.answer:not(:empty) + .state:not(:empty) { margin-block-start: 0.9em }
.notice, .problem { display: flex; flex-wrap: wrap; align-items: center; gap: 0.5em 0.7em; padding: 0.7em 0.9em; border-radius: 0.8em; background: var(--faint) }
.notice > div, .problem > div { flex: 1 1 12em; min-inline-size: 0 }
.notice p, .problem p { margin: 0 }
.problem { background: var(--danger-tint); box-shadow: inset 0 0 0 1px var(--danger-line) }
.problem > .icon { color: var(--danger); align-self: start; margin-block-start: 0.1em }
.problem small { display: block; margin-block-start: 0.25em; color: var(--muted); font-size: 0.8em }
.problem > p { flex: 1 1 12em }
.panel .countdown { flex: 1 1 100%; color: var(--muted); font-variant-numeric: tabular-nums }
.panel .retry { padding: 0.4em 1em; border: 0; border-radius: 0.6em; background: var(--fill); color: #fff; font-weight: 600 }
.panel .retry:hover:not(:disabled) { filter: brightness(1.07) }
.panel .retry:disabled { background: var(--off); color: var(--muted) }
.note { margin: 1.6em 0 0; color: var(--muted); font-size: 0.9em; text-align: center; text-wrap: balance }
.note:first-child { margin-block-start: 0 }

.welcome { display: flex; flex-direction: column; align-items: center; min-block-size: 100%; justify-content: center; text-align: center }
.welcome > .icon { inline-size: 3em; block-size: 3em; padding: 0.7em; border-radius: 1em; background: var(--tint); stroke-width: 1.6 }
.welcome h3 { margin: 1em 0 0.35em; font-size: 1.2em; font-weight: 650; line-height: 1.3 }
.welcome > p { margin: 0; max-inline-size: 21em; color: var(--muted); text-wrap: pretty }
.suggestions { align-self: stretch; margin-block-start: 1.6em; display: flex; flex-direction: column; gap: 0.5em }
.suggestions p { margin: 0; color: var(--muted); font-size: 0.85em; font-weight: 650; text-align: start }
.panel .suggestion { display: block; padding: 0.65em 0.95em; border: 1px solid var(--line); border-radius: 0.8em; background: none; text-align: start; text-wrap: wrap; transition: border-color 0.12s, background 0.12s }
.panel .suggestion:hover { border-color: var(--accent); background: var(--tint) }

.page-actions { display: flex; flex-wrap: wrap; gap: 0.4em; margin-block: 0.3em 0.6em }
.page-actions .chip { font-size: 0.85em }
.chosen.page p { flex: 1; min-inline-size: 0; margin: 0; font-size: 0.92em; line-height: 1.4; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.follow-ups { display: grid; gap: 0.5em; margin-block-start: 1em }
.follow-ups p { margin: 0; color: var(--muted); font-size: 0.85em; font-weight: 650 }

.view { flex: 1; min-block-size: 0; overflow-y: auto; padding: 1.1em; scrollbar-width: thin }
.view h3 { margin: 0.5em 0 0.4em; font-size: 1.2em; font-weight: 650; line-height: 1.3; border-radius: 0.3em }
.view p { margin: 0 0 1em }
.panel .to-conversation { display: inline-flex; align-items: center; gap: 0.35em; margin-inline-start: -0.4em; padding: 0.25em 0.5em 0.25em 0.3em; border: 0; border-radius: 0.5em; background: none; color: var(--muted); font-size: 0.92em }
.panel .to-conversation:hover { background: var(--faint); color: var(--ink) }
.to-conversation .icon { inline-size: 1.1em; block-size: 1.1em }
.about > p { color: var(--muted); font-size: 0.93em }
.about label { display: grid; gap: 0.35em; margin-block-end: 1em; font-weight: 600; font-size: 0.93em }
.about :is(select, textarea) { inline-size: 100%; max-block-size: none; margin: 0; padding: 0.55em 0.8em; border: 1px solid var(--edge); border-radius: 0.8em; background: var(--surface); color: inherit; font: inherit; font-weight: 400; font-size: max(16px, 1em) }
.about textarea { resize: vertical }
.panel .about textarea:focus-visible { outline: 2px solid var(--focus) !important }
.about .buttons { display: flex; flex-wrap: wrap; align-items: center; gap: 0.9em }
.saved p { margin: 0.7em 0 0; color: var(--muted) }
.address { display: flex; align-items: center; gap: 0.3em; padding-block: 0.3em; padding-inline: 0.9em 0.3em; border: 1px solid var(--line); border-radius: 0.7em; background: var(--faint) }
.address code { flex: 1; min-inline-size: 0; font-family: var(--mono); font-size: 0.88em }
.bookless:not(:empty) { display: flex; gap: 0.6em; margin-block-end: 0.8em; padding: 0.55em 0.85em; border-radius: 0.8em; background: var(--faint); font-size: 0.92em; line-height: 1.45 }
.bookless .icon { inline-size: 1.3em; block-size: 1.3em; margin-block-start: 0.1em; color: var(--muted) }
.bookless p { margin: 0 }
.panel input[type=search] { inline-size: 100%; margin: 0; padding: 0.5em 0.8em; border: 1px solid var(--edge); border-radius: 0.8em; background: var(--surface); color: inherit; font: inherit; font-size: max(16px, 1em) }
.conversations ul { display: grid; gap: 0.5em; margin: 0.9em 0 0; padding: 0; list-style: none }
.conversations .suggestion { inline-size: 100% }
.conversations [aria-current] { border-color: var(--accent); background: var(--tint) }
.conversations small { display: block; margin-block-start: 0.15em; color: var(--muted); font-size: 0.8em }
.list-state p { margin: 1em 0 0.6em; color: var(--muted) }

.loading { display: grid; gap: 0.8em }
.loading i { block-size: 0.95em; border-radius: 0.4em; background: var(--off); animation: pulse 1.4s ease-in-out infinite }
.loading i:nth-of-type(1) { inline-size: 55%; block-size: 2.2em; border-radius: 1em; justify-self: end }
.loading i:nth-of-type(2) { inline-size: 92% }
.loading i:nth-of-type(3) { inline-size: 70% }

.bottom { position: relative; padding: 0.2em 0.9em calc(0.55em + env(safe-area-inset-bottom)) }
.latest { position: absolute; inset-block-end: calc(100% + 0.5em); inset-inline-start: calc(50% - 1.1em); inline-size: 2.2em; block-size: 2.2em; border-radius: 50%; background: var(--surface); box-shadow: 0 0 0 1px var(--line), 0 3px 12px #0003 }
.composer { border: 1px solid var(--edge); border-radius: 1.15em; background: var(--surface); transition: border-color 0.12s, box-shadow 0.12s }
.composer:focus-within { border-color: var(--accent); box-shadow: 0 0 0 2px var(--focus) }
.field { display: flex; align-items: flex-end; gap: 0.4em; padding: 0.32em }
textarea {
  flex: 1;
  min-inline-size: 0;
  max-block-size: 9em;
  margin: 0;
  padding-block: 0.42em;
  padding-inline: 0.75em 0.3em;
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
textarea.long { block-size: 9em }
.panel ::placeholder { color: var(--muted); opacity: 1 }
.round { flex: none; display: grid; place-items: center; inline-size: 2.3em; block-size: 2.3em; padding: 0; border: 0; border-radius: 50%; background: var(--fill); color: #fff !important; transition: background 0.12s }
.round:hover:not(:disabled) { filter: brightness(1.07) }
.round:disabled { background: var(--off); color: var(--muted) !important }
.round .icon { stroke-width: 2.2 }
.stop i { inline-size: 0.8em; block-size: 0.8em; border-radius: 0.2em; background: currentColor }
.chosen { display: flex; align-items: flex-start; gap: 0.6em; margin: 0.5em 0.5em 0; padding: 0.5em 0.3em 0.5em 0.7em; border-radius: 0.75em; background: var(--tint) }
.chosen > .icon { inline-size: 1.1em; block-size: 1.1em; margin-block-start: 0.15em; flex: none; color: var(--muted) }
.chosen .quotation { flex: 1; min-inline-size: 0 }
.chosen .quoted { padding: 0; border: 0; -webkit-line-clamp: 2 }
.chosen .too-long { margin: 0; font-size: 0.92em; line-height: 1.4 }
.chosen .chip { margin-block-start: 0.4em; font-size: 0.92em }
.chosen .quoted.whole { max-block-size: 30vh }
.chosen .icon-button { inline-size: 1.7em; block-size: 1.7em; flex: none }
.chosen .icon-button .icon { inline-size: 1em; block-size: 1em }
.disclaimer { margin: 0.45em 0 0; color: var(--muted); font-size: 0.78em; line-height: 1.3; text-align: center }
.quotation .quiet { font-size: 0.85em }
.panel .quiet { padding: 0.25em 0.3em; border: 0; border-radius: 0.4em; background: none; color: var(--muted); text-decoration: underline; text-underline-offset: 0.2em }
.panel .quiet:hover { color: var(--ink) }
.panel .quiet.danger { color: var(--danger); font-weight: 600 }

.sr { position: absolute; inline-size: 1px; block-size: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
[hidden] { display: none !important }

@keyframes open { from { opacity: 0; transform: translateY(12px) scale(0.985) } }
@keyframes pulse { 0%, 100% { opacity: 0.35 } 50% { opacity: 1 } }
/* A screen that is zoomed to 400 % is as low as this: the conversation needs it. */
@media (max-height: 440px) {
  .panel .head { padding-block: calc(0.1em + env(safe-area-inset-top)) 0.1em }
  .panel .head .icon-button { inline-size: 2.2em; block-size: 2.2em }
  .panel .log { padding-block: 0.6em }
  .panel .field { padding: 0.1em 0.15em }
  .panel .bottom { padding: 0.1em 0.5em calc(0.2em + env(safe-area-inset-bottom)) }
  .panel .disclaimer { margin: 0.2em 0 0 }
  .panel .chosen { margin: 0.2em; padding-block: 0.2em }
  .panel .chosen .quoted { -webkit-line-clamp: 1 }
  .panel .chosen .quoted.whole { max-block-size: 4em }
  .panel .welcome > .icon { display: none }
  .panel .view { padding-block: 0.5em }
  .panel .menu { max-block-size: calc(100dvh - 3em) }
  /* The menu has them. */
  .panel .page-actions { display: none }
  .panel .welcome h3 { margin-block-start: 0 }
  .panel textarea { max-block-size: 4.5em }
}
@media (forced-colors: active) {
  .panel, .question, .round, .panel .retry, .citation, .separator { border: 1px solid }
  .panel .icon { color: inherit }
  .stop i { background: ButtonText }
}
@media (prefers-reduced-motion: reduce) {
  .panel, .panel * { animation: none !important; transition: none !important; scroll-behavior: auto !important }
}
`;
