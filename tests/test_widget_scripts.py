"""The widget's scripts as files: small where every page loads them, and the packages' own where they are vendored."""

import gzip
import hashlib
import json
import re

import pytest

from app import widget
from tests.browser import TOOLS, Visit
from tests.conftest import ROOT, Service
from tests.marks import on_one_database

FIRST = ("widget.js", "dom.js", "labels.js", "theme.js")
"""What every page of a book loads."""

VENDORED = {
    "marked.js": (
        "marked/lib/marked.esm.js",
        "18.2.1",
        "5371fea86fd0656b4fc7bea7c94c663109d82789b69433eeee78d42895aa44de",
    ),
    "temml.js": ("temml/dist/temml.mjs", "0.13.5", "49753197751c1ff7fa2c76c3b8503b6cee03774c7c92ccd71c3c4b7fa5b31fe1"),
}
"""Each vendored script, the file of the npm package that it is, the package's version, and the script's SHA-256 digest."""


def test_what_every_page_loads_is_small() -> None:
    bundle = widget.load_bundle()

    assert set(
        re.findall(r'^import .* from "\./([\w.]+)";$', bundle.scripts["widget.js"].content.decode(), re.MULTILINE)
    ) == {*FIRST} - {"widget.js"}
    assert sum(len(bundle.scripts[name].compressed) for name in FIRST) <= 10_000


@pytest.mark.parametrize("name", VENDORED)
def test_a_vendored_script_is_the_packages_own(name: str) -> None:
    file, version, digest = VENDORED[name]
    content = (widget.SCRIPTS / "vendor" / name).read_bytes()

    assert hashlib.sha256(content).hexdigest() == digest
    assert (widget.SCRIPTS / "vendor" / name.replace(".js", ".LICENSE")).stat().st_size > 0
    locked = json.loads((ROOT / "tools" / "package-lock.json").read_text())["packages"]
    package = file.partition("/")[0]
    assert locked[f"node_modules/{package}"]["version"] == version
    if TOOLS.exists():
        assert (TOOLS / file).read_bytes() == content


def test_the_same_script_has_the_same_digest_in_every_process() -> None:
    first, second = widget.load_bundle(), widget.load_bundle()

    assert first.version == second.version
    assert first.entry.compressed == second.entry.compressed
    assert gzip.decompress(first.entry.compressed) == first.entry.content


PAGE = """
<article>
  <h2 id="heading">Legs<a class="hash-link" href="#heading">#</a></h2>
  <pre><code id="code">for leg in legs:
    leg.lift()</code></pre>
  <div id="blocks"><p>One
    line.<br>Another.</p><ul><li>first</li><li>second <button>Copy</button></li></ul>
    <table><tr><td>a</td><td>b</td></tr></table></div>
  <p id="force">The <b>force</b> is <span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi
    id="f">F</mi></mrow><annotation encoding="application/x-tex">F = ma</annotation></semantics></math></span><span
    class="katex-html" aria-hidden="true">F=ma</span></span>.</p>
  <div id="energy"><math display="block"><semantics><mi>E</mi><annotation
    encoding="application/x-tex">E = mc^2</annotation></semantics></math></div>
  <h2>A heading that is as long as a sentence, and longer than anybody would like to press</h2>
  <h2>Arms</h2><h2>Head</h2><h2>Feet</h2>
</article>
"""

HELPERS = r"""
  globalThis.within = selector => {
    const range = document.createRange();
    range.selectNodeContents(document.querySelector(selector));
    return range;
  };
  globalThis.inBrowser = (languages, call) => {
    Object.defineProperty(navigator, "languages", { value: languages, configurable: true });
    try { return call() } finally { delete navigator.languages }
  };
  globalThis.withoutStorage = call => {
    const own = ["localStorage", "sessionStorage"].map(area => [area, Object.getOwnPropertyDescriptor(window, area)]);
    const get = () => { throw new DOMException("No", "SecurityError") };
    for (const [area] of own) Object.defineProperty(window, area, { get, configurable: true });
    try { return call() } finally { for (const [area, before] of own) Object.defineProperty(window, area, before) }
  };
  globalThis.suggested = how => {
    const shown = welcome({ words: en, book: [document.querySelector("article")], onAsk() {}, ...how });
    return [...shown.querySelectorAll("button")].map(({ textContent }) => textContent);
  };
  globalThis.canonical = (href, call) => {
    const link = document.createElement("link");
    link.rel = "canonical";
    link.href = href;
    document.head.append(link);
    try { return call() } finally { link.remove() }
  };
  globalThis.keep = (store, days) =>
    store.keep({ key: `${days}`, question: { message: "Why?" }, askedAt: Date.now() - days * 86_400_000 });
  globalThis.presses = (shortcut, key, target = document.body) => {
    let count = 0;
    const launcher = document.createElement("button");
    watch(launcher, shortcut, () => count++);
    const press = new KeyboardEvent("keydown", { ...key, bubbles: true, cancelable: true });
    target.dispatchEvent(press);
    return [count, press.defaultPrevented, launcher.getAttribute("aria-keyshortcuts")];
  };
"""

CALLS: dict[str, list[tuple[str, object]]] = {
    "answer.js": [
        ("safeUrl('https://a.example/b')?.href", "https://a.example/b"),
        ("safeUrl('mailto:a@b.example')?.href", "mailto:a@b.example"),
        ("safeUrl('javascript:alert(1)')", None),
        ("safeUrl(' JaVa\\tScRiPt:alert(1)')", None),
        ("safeUrl('data:text/html,x')", None),
        ("safeUrl('vbscript:x')", None),
        ("safeUrl('https://[broken')", None),
    ],
    "passage.js": [
        (
            "markedAddress(new URL('https://a.example/b'), 'A well-known robot walks, on six legs, over soft ground')",
            "https://a.example/b#:~:text=A%20well%2Dknown%20robot%20walks%2C%20on%20six%20legs%2C%20over%20soft%20ground",
        ),
        (
            "markedAddress(new URL('https://a.example/b#gait'), 'Robots walk on legs')",
            "https://a.example/b#gait:~:text=Robots%20walk%20on%20legs",
        ),
        ("markedAddress(new URL('https://a.example/b'))", "https://a.example/b"),
        ("markedAddress(new URL('mailto:a@b.example'), 'Robots walk on legs')", "mailto:a@b.example"),
        # What a page may show in another way is not looked for, and no half of a word.
        (
            "markedAddress(new URL('https://a.example/b'), 'See how the robot\\'s leg moves')",
            "https://a.example/b#:~:text=See%20how%20the",
        ),
        ("markedAddress(new URL('https://a.example/b'), 'What the robot\\'s leg does')", "https://a.example/b"),
        ("markedAddress(new URL('https://a.example/b'), 'Legs.\\nArms.')", "https://a.example/b#:~:text=Legs."),
        (
            "decodeURI(markedAddress(new URL('https://a.example/b'), '机器人用两条腿走路。它重八十九公斤很重很重。'))",
            "https://a.example/b#:~:text=机器人用两条腿走路",
        ),
    ],
    "store.js": [
        ("new Store('a').token === new Store('a').token", True),
        ("new Store('a').token === new Store('b').token", False),
        ("((store) => [store.token, store.forgetReader()][0] === store.token)(new Store('a'))", False),
        ("(localStorage['book-chat a reader'] = 'short', new Store('a').token.length)", 36),
        ("(new Store('a').about = { language: 'ur', level: 1, text: '' }, new Store('a').about?.language)", "ur"),
        ("(localStorage['book-chat a about'] = '{', new Store('a').about)", None),
        ("new Store('a').layout.isDocked", False),
        ("(new Store('a').layout = { isDocked: true, width: 500 }, new Store('a').layout.width)", 500),
        ("(new Store('a').draft = 'half', [new Store('a').draft, new Store('b').draft])", ["half", ""]),
        (
            "([8, 1, 2].map(days => keep(new Store('a'), days)), new Store('a').pending.map(({ key }) => key))",
            ["2", "1"],
        ),
        ("(localStorage['book-chat a pending x'] = '{', new Store('a').pending.length)", 2),
        ("(new Store('a').forgetReader(), new Store('a').pending.length)", 0),
        # Where the browser keeps nothing, the page does.
        ("withoutStorage(() => new Store('c').token === new Store('c').token)", True),
        ("withoutStorage(() => (new Store('c').session = 's', new Store('c').session))", "s"),
        ("withoutStorage(() => (new Store('c').session = null, new Store('c').session))", None),
        ("withoutStorage(() => (keep(new Store('c'), 1), new Store('c').pending.length))", 1),
    ],
    "excerpt.js": [
        ("textOf(within('#heading'))", "Legs"),
        ("textOf(within('#code'))", "for leg in legs:\n    leg.lift()"),
        ("textOf(within('#blocks'))", "One line.\nAnother.\n\nfirst\n\nsecond\n\na\tb"),
        ("textOf(within('#force'))", "The force is $F = ma$."),
        # A formula of which a part is selected is taken whole.
        ("textOf(within('#f'))", "$F = ma$"),
        ("textOf(within('#energy'))", "$$E = mc^2$$"),
    ],
    "translation.js": [
        ("targetOf({ chosen: 'ur', lang: 'en' })", "ur"),
        # The page is English, and so is the browser.
        ("targetOf({ lang: 'en' })", None),
        ("targetOf({ lang: 'de' })", "de"),
        ("inBrowser(['en-GB', 'zh-TW', 'de'], () => targetOf({ lang: 'en' }))", "zh-Hant"),
        ("inBrowser(['de-AT'], () => targetOf({ lang: 'en' }))", "de"),
        ("nameOf('zh-Hant', 'en')", "Traditional Chinese"),
        ("nameOf('no language', 'en')", "no language"),
    ],
    "service.js": [("new Failure('paused').retryable", True)],
    "languages.js": [
        ("fill('{count} of {most}: {count}', { count: 3, most: '4' })", "3 of 4: 3"),
        ("(await loadWords('ur-PK')).lang", "ur"),
        ("(globalThis.en = wordsFor('en').words, globalThis.ur = wordsFor('ur').words, wordsFor('fi').lang)", "en"),
    ],
    "turn.js": [
        ("messageOf(new Failure('new_code', { message: 'Own.' }), en, 'en')", "Own."),
        # What there are no words for is said in the reader's language all the same.
        ("messageOf(new Failure('new_code', { message: 'Own.' }), ur, 'ur') === ur.errors.internal_error", True),
        ("messageOf(new Failure('paused', { message: 'On Monday.' }), ur, 'ur')", "On Monday."),
        ("messageOf(new Failure('openai_error', { retryable: false }), ur, 'ur') === ur.errors.out_of_order", True),
        ("messageOf(new Failure('openai_error'), ur, 'ur') === ur.errors.openai_error", True),
        ("messageOf(new Failure('refused_origin'), en, 'en').includes('http://localhost:3000 has to be')", True),
        ("quoted('Short.', en).querySelector('button')", None),
        (
            "((long) => (long.querySelector('button').click(), long.textContent.slice(-9)))(quoted('x'.repeat(151), en))",
            "Show less",
        ),
    ],
    "about.js": [
        ("noteOf(null, en, 'en')", None),
        ("noteOf({ language: '', level: 0, text: '' }, en, 'en')", None),
        (
            "noteOf({ language: 'ur', level: 1, text: 'I am a nurse.' }, en, 'en')",
            "Please answer in Urdu.\nWhat I know of the subject: I am new to it\nI am a nurse.",
        ),
        ("noteOf({ language: '', level: 0, text: '🤖'.repeat(600) }, en, 'en') === '🤖'.repeat(500)", True),
    ],
    "welcome.js": [
        ("suggested({})", ["Explain “Legs”", "Explain “Arms”", "Explain “Head”"]),
        ("suggested({ questions: ['Who was Newton?'] })", ["Who was Newton?"]),
    ],
    "conversation.js": [
        ("pageAddress()", "http://localhost:3000/part/page"),
        # A preview names the address of the site itself.
        ("canonical('https://book.example.org/page?token=1#top', pageAddress)", "https://book.example.org/page"),
        ("canonical('/elsewhere', pageAddress)", "http://localhost:3000/part/page"),
        ("canonical('javascript:1', pageAddress)", "http://localhost:3000/part/page"),
    ],
    "shortcut.js": [
        (
            "presses('Mod+Shift+K', { key: 'K', code: 'KeyK', ctrlKey: true, shiftKey: true })",
            [1, True, "Control+Shift+K"],
        ),
        ("presses('Mod+Shift+K', { key: 'K', code: 'KeyK', ctrlKey: true })", [0, False, "Control+Shift+K"]),
        # The key that has another letter on other keyboards.
        ("presses('Alt+A', { key: 'ش', code: 'KeyA', altKey: true })", [1, True, "Alt+A"]),
        ("presses('?', { key: '?', shiftKey: true })", [1, True, "?"]),
        ("presses('?', { key: '?', ctrlKey: true })", [0, False, "?"]),
        ("presses('Control++', { key: '+', ctrlKey: true })", [1, True, "Control++"]),
    ],
}
"""Expressions of the functions of a script, and their values."""


@on_one_database
async def test_a_scripts_functions_return_what_they_should(
    service: Service, visit: Visit, subtests: pytest.Subtests
) -> None:
    page = await visit(service, path="/part/page?token=secret", body=PAGE, script=HELPERS)

    for script, calls in CALLS.items():
        with subtests.test(script):
            values = await page.evaluate(
                f"""async () => {{
                    Object.assign(globalThis, await import("{scripts_of(service)}/{script}"));
                    return [{", ".join(expression for expression, _ in calls)}];
                }}"""
            )
            assert dict(zip(dict(calls), values, strict=True)) == dict(calls)


THEMES = r"""async scripts => {
  const { h, sheet } = await import(`${scripts}/dom.js`);
  const { Theme } = await import(`${scripts}/theme.js`);
  const probe = h("i", { hidden: true });
  const { style } = sheet(":host {}").cssRules[0];
  document.body.append(probe);
  /* What the chat makes of a page that looks like this. */
  const seen = looks => {
    const { body, documentElement } = document;
    for (const element of [body, documentElement]) element.style.cssText = "";
    for (const [name, value] of Object.entries(looks))
      (name === "color-scheme" ? documentElement : body).style.setProperty(name, value);
    new Theme(probe, style, () => document.querySelector("main")).update();
    return Object.fromEntries([...style].map(name => [name.replace("--", ""), style.getPropertyValue(name)]));
  };
  const parts = text => text.match(/[\d.]+/g).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const luminance = text => parts(text).reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const unreadable = [];
  for (const background of ["#fff", "#fdf6e3", "#ddd", "#888", "#333", "oklch(0.2 0.02 250)", "#000"])
    for (const accent of ["#25c2a0", "#ffd400", "#3578e5", "#111", "#fff", "hsl(120 100% 25%)"]) {
      const { surface, ink, muted, fill, focus } = seen({ background, "--bs-primary": accent });
      const least = { ink: [ink, surface, 4.5], muted: [muted, surface, 4.5], fill: [fill, "255, 255, 255", 4.5],
        focus: [focus, surface, 3] };
      for (const [name, [one, other, ratio]] of Object.entries(least))
        if (contrast(one, other) < ratio) unreadable.push([background, accent, name, contrast(one, other)]);
    }
  const accents = ["--book-chat-accent", "--ifm-color-primary", "--vp-c-brand-1", "--md-primary-fg-color",
    "--pst-color-primary", "--color-brand-primary", "--sl-color-accent", "--bs-primary"];
  return {
    unreadable,
    accents: accents.map(name => seen({ [name]: "hsl(120 100% 25%)" }).accent),
    own: seen({ "--bs-primary": "#111", "--book-chat-accent": "#222" }).accent,
    none: seen({ "--bs-primary": "transparent" }).accent,
    font: seen({ "font-family": "Georgia" }).font,
    scheme: ["#111", "#eee"].map(background => seen({ background })["color-scheme"]),
    dark: seen({ "color-scheme": "dark" })["color-scheme"],
    text: seen({ background: "#fff", color: "rgb(0, 0, 80)" }).ink,
    faint: seen({ background: "#fff", color: "#ccc" }).ink,
  };
}"""


@on_one_database
async def test_the_chat_is_readable_in_the_colours_of_any_page(service: Service, visit: Visit) -> None:
    page = await visit(service)

    assert await page.evaluate(THEMES, scripts_of(service)) == {
        "unreadable": [],
        "accents": ["rgb(0, 128, 0)"] * 8,
        "own": "rgb(34, 34, 34)",
        "none": "rgb(31, 111, 235)",
        "font": "Georgia",
        "scheme": ["dark", "light"],
        "dark": "dark",
        "text": "rgb(0, 0, 80)",
        "faint": "rgb(28, 28, 28)",
    }


LOG = """async scripts => {
  const { h } = await import(`${scripts}/dom.js`);
  const { wordsFor } = await import(`${scripts}/languages.js`);
  const { Log } = await import(`${scripts}/log.js`);
  const log = new Log(wordsFor("en").words);
  const { element, latest } = log;
  element.style.cssText = "height: 200px; overflow-y: auto; overflow-anchor: none";
  document.body.append(element);
  const found = {};
  const after = async (what, change) => {
    change();
    // The list hears of its scrolling with the next frame.
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    found[what] = [element.scrollTop, latest.hidden];
  };
  const turn = height => {
    const made = h("section");
    made.style.height = `${height}px`;
    return made;
  };
  const last = turn(0);
  const grow = height => {
    last.style.height = `${height}px`;
    log.follow(last);
  };
  element.append(turn(300), last);
  await after("asked", () => log.goTo(last));
  await after("half of an answer", () => grow(150));
  await after("more than is seen", () => grow(400));
  await after("read on", () => (element.scrollTop = 350));
  await after("more", () => grow(500));
  await after("scrolled back", () => (element.scrollTop = 250));
  await after("still more", () => grow(600));
  await after("latest", () => latest.click());
  await after("the end", () => grow(650));
  await after("asked again", () => log.goTo(last));

  const earlier = h("button", {}, "Earlier");
  element.prepend(earlier);
  const seen = () => Math.round(last.getBoundingClientRect().top);
  const before = seen();
  log.insertEarlier(earlier, [turn(400)]);
  return [found, seen() - before];
}"""


@on_one_database
async def test_the_conversation_keeps_up_with_an_answer_unless_the_reader_scrolls(
    service: Service, visit: Visit
) -> None:
    page = await visit(service)

    assert await page.evaluate(LOG, scripts_of(service)) == [
        {
            "asked": [100, True],
            "half of an answer": [250, True],
            # The question stays at the top, a little below the edge.
            "more than is seen": [288, False],
            "read on": [350, False],
            "more": [350, False],
            "scrolled back": [250, False],
            "still more": [250, False],
            "latest": [700, True],
            "the end": [700, False],
            "asked again": [288, False],
        },
        0,
    ]


COMPOSER = """async scripts => {
  const { wordsFor } = await import(`${scripts}/languages.js`);
  const { Composer } = await import(`${scripts}/composer.js`);
  const { Store } = await import(`${scripts}/store.js`);
  const asked = [];
  const made = () => {
    const options = { store: new Store("composer"), onAsk: (...question) => asked.push(question), onStop: () => asked.push("stop") };
    return new Composer({ ...wordsFor("en"), ...options });
  };
  const composer = made();
  const { textbox, send, stop, element, chosen } = composer;
  document.body.append(element);
  const press = name => [...element.querySelectorAll("button")]
    .find(button => (button.getAttribute("aria-label") ?? button.textContent) === name).click();
  const offered = () => [send, stop].map(button => !button.hidden && !button.disabled);
  const found = {};

  found.nothing = offered();
  composer.write("  ");
  found.blank = offered();
  composer.showRunning(true);
  found.running = offered();
  composer.write("Next?");
  found.next = offered();
  stop.focus();
  composer.showRunning(false);
  found.focus = document.activeElement === textbox;
  found.draft = made().textbox.value;

  composer.choose("x".repeat(20_001));
  composer.request("Explain");
  element.requestSubmit();
  found.tooLong = [offered()[0], textbox.value, asked.length];
  await new Promise(done => setTimeout(done, 60));
  found.told = chosen.querySelector(".too-long").textContent;
  press("Use the first 20,000");
  found.first = [offered()[0], composer.excerpt.length];
  press("Show all");
  found.whole = chosen.querySelector("[aria-expanded]").getAttribute("aria-expanded");
  press("Remove the selected text");
  found.removed = [composer.excerpt, chosen.hidden];

  composer.choose("Atlas walks.");
  composer.request("Explain");
  composer.attach({ url: "http://localhost:3000/", title: "Legs" });
  found.page = [composer.page.textContent, made().page.textContent];
  composer.choose("It trots.");
  element.requestSubmit();
  press("Ask about the whole book again");
  composer.write("Two?");
  composer.putBack("One?", "It runs.");
  found.back = [textbox.value, composer.excerpt];
  found.about = [composer.page.hidden, made().page.hidden];

  const dirOf = text => (composer.write(text), [textbox.dir, textbox.classList.contains("long")]);
  found.direction = ["", "یہ", "یہ ".repeat(3_000), "so ".repeat(3_000)].map(dirOf);
  composer.setAside(true);
  found.aside = [element.inert, element.getAttribute("aria-hidden")];
  composer.setAside(false);
  found.inPlace = [element.inert, element.getAttribute("aria-hidden")];
  return { ...found, asked };
}"""


@on_one_database
async def test_the_field_offers_to_send_what_can_be_asked_and_loses_nothing(service: Service, visit: Visit) -> None:
    page = await visit(service)

    assert await page.evaluate(COMPOSER, scripts_of(service)) == {
        # Whether it offers to send, and to stop.
        "nothing": [False, False],
        "blank": [False, False],
        "running": [False, True],
        "next": [True, True],
        "focus": True,
        "draft": "Next?",
        "tooLong": [False, "Next?", 0],
        "told": "20,001 characters are selected. A question can be about 20,000 at most.",
        "first": [True, 20_000],
        "whole": "true",
        "removed": [None, True],
        "page": ["This page: Legs"] * 2,
        "back": ["One?\nTwo?", "It runs."],
        "about": [True, True],
        "direction": [["", False], ["auto", False], ["rtl", True], ["ltr", True]],
        "aside": [True, "true"],
        "inPlace": [False, None],
        "asked": [
            ["Explain", "Atlas walks.", None],
            ["Next?", "It trots.", {"url": "http://localhost:3000/", "title": "Legs"}],
        ],
    }


def scripts_of(service: Service) -> str:
    """Where a service has the scripts of this version."""
    return f"{str(service.client.base_url).rstrip('/')}/widget/{widget.load_bundle().version}"
