"""The chat page in a real browser, against a real server."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fromzero.inference.engine import EngineConfig
from tests.serving.browser import CHROMIUM, Browser
from tests.serving.conftest import Live, StartServer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
HOSTILE = (
    '<img src=x onerror="hurt=1"><script>hurt=1</script> [x](javascript:hurt=1) ![p](http://203.0.113.1/p.png) </div>'
)
DONE = "!document.querySelector('.running') && document.querySelector('#stop').hidden"
ANSWERS = "[...document.querySelectorAll('.assistant .body')].map((e) => e.innerText)"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Browser, live: Live) -> Iterator[Browser]:
    """A page without a past, of a reader of English at a desk; nothing it asks for may leave the server."""
    chromium.size(1280, 800)
    chromium.prefer(prefers_color_scheme="light")
    fresh(chromium, live)
    yield chromium
    assert all(url.startswith(("http://127.0.0.1", "about:", "blob:")) for url in chromium.requests)
    assert chromium.problems == []


def fresh(browser: Browser, live: Live, max_tokens: int = 12, **sampling: object) -> None:
    """Open the page as if for the first time, but for what is asked of answers."""
    browser.call("Storage.clearDataForOrigin", origin=live.url, storageTypes="all")
    browser.open(live.url)
    settings = {"language": "en", "sampling": {"max_tokens": max_tokens, "ignore_eos": True, **sampling}}
    browser.run(
        f"localStorage.setItem('fromzero.settings', {json.dumps(json.dumps(settings))}), sessionStorage.clear()"
    )
    browser.problems.clear()
    browser.requests.clear()
    browser.open(live.url)


def ask(page: Browser, text: str) -> None:
    page.click("#text")
    page.type(text)
    page.press("Enter")


def answered(page: Browser, count: int = 1) -> list[str]:
    """The answers on the page once there are so many and the last is complete."""
    page.wait(f"document.querySelectorAll('.assistant').length === {count} && {DONE}")
    return page.run(ANSWERS)


def test_an_answer_comes_word_by_word_and_stays(page: Browser, live: Live) -> None:
    page.run("""(window.seen = new Set(), new MutationObserver(() => seen.add(document.querySelector('.assistant .body')
        ?.innerText.length)).observe(document.querySelector('#messages'), {childList: true, subtree: true}))""")
    fresh_count = 300
    page.run("document.querySelector('#tune').click()")
    page.run("document.querySelector('#settings input[max=\"1000000\"]').select()")
    page.type(str(fresh_count))
    page.run("document.activeElement.blur(), document.querySelector('#settings').close()")
    ask(page, "the river")
    page.wait("seen.size > 5")
    (text,) = answered(page)
    assert len(text) > 100
    stats = page.run("document.querySelector('.stats').textContent")
    assert "300 tokens" in stats
    assert "tokens/s" in stats
    assert "first after" in stats
    assert "length limit" in stats
    page.wait("document.querySelector('#count').textContent.endsWith('of 1,024 tokens')")
    page.call("Page.reload")
    page.wait("document.querySelector('#list a')?.textContent === 'the river' && document.querySelector('.stats')")
    assert page.run(ANSWERS) == [text]
    assert "length limit" in page.run(
        "document.querySelector('#live').textContent + document.querySelector('.stats').textContent"
    )


def test_an_answer_can_be_stopped(page: Browser, live: Live) -> None:
    fresh(page, live, 900)
    ask(page, "the cloud")
    page.wait("document.querySelector('.assistant .body')?.innerText.length > 5")
    page.press("Escape")
    assert answered(page)[0]
    assert "stopped" in page.run("document.querySelector('.stats').textContent")
    live.wait(live.idle)


def test_other_answers_and_other_questions_are_branches(page: Browser) -> None:
    ask(page, "the forest")
    first = answered(page)
    page.click("[aria-label='Another answer']")
    page.wait("document.querySelector('.versions')?.innerText.trim() === '2 of 2'")
    second = answered(page)
    page.click("[aria-label='Previous version']")
    assert page.run(ANSWERS) == first != second
    page.press("ArrowUp")  # in the list of messages it does nothing ...
    page.click("#text")
    page.press("ArrowUp")  # ... in the empty field it edits the last question
    page.wait("document.activeElement.value === 'the forest'")
    page.run("document.activeElement.select()")
    page.type("the stone")
    page.press("Enter")
    page.wait("document.querySelector('.user .plain')?.innerText === 'the stone'")
    answered(page)
    page.click(".user [aria-label='Previous version']")
    page.wait("document.querySelector('.user .plain').innerText === 'the forest'")
    assert page.run(ANSWERS) == first
    page.press("k", 2)
    page.wait("!document.querySelector('.message') && document.activeElement.id === 'text'")


def test_conversations_are_found_renamed_deleted_exported_and_brought_back(page: Browser) -> None:
    for number, text in enumerate(("silver morning", "quiet winter")):
        ask(page, text)
        answered(page)
        page.click("#new")
        page.wait(
            f"document.querySelectorAll('#list li').length === {number + 1} && !document.querySelector('.message')"
        )
    titles = "[...document.querySelectorAll('#list a')].map((e) => e.textContent)"
    page.click("#search")
    page.type("SILVER")
    page.wait("document.querySelectorAll('#list li').length === 1")
    page.run("document.querySelector('#list button').click()")
    page.type("<b>renamed</b>")
    page.press("Enter")
    page.run("((e) => (e.value = '', e.dispatchEvent(new Event('input'))))(document.querySelector('#search'))")
    page.wait(f"{titles}.join() === 'quiet winter,<b>renamed</b>'")
    exported = page.run("import('/page/store.js').then((store) => store.exportAll()).then((blob) => blob.text())")
    page.run("document.querySelector('#list li:last-child button:last-child').click()")
    page.wait("document.querySelectorAll('#list li').length === 1")
    page.click("#toast button")
    page.wait("document.querySelectorAll('#list li').length === 2")
    bring = "import('/page/store.js').then((store) => store.importAll(new File([{}], 'x.json'))).catch(String)"
    assert page.run(bring.format(json.dumps(exported))) == 2
    page.wait("document.querySelectorAll('#list li').length === 2 || true")
    foreign = json.loads(exported)
    foreign["conversations"][0]["nodes"][0]["parent"] = foreign["conversations"][0]["nodes"][1]["id"]
    for wrong in ("{}", "[", json.dumps(foreign), json.dumps({**foreign, "format": "x"})):
        assert isinstance(page.run(bring.format(json.dumps(wrong))), str)
    page.call("Page.reload")
    page.wait("document.querySelectorAll('#list li').length === 4")


def test_chinese_and_dark_by_the_reader_s_system_or_choice(page: Browser) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.prefer(prefers_color_scheme="dark")
    assert page.run(colour) != light
    page.click("#tune")
    for at, value in ((0, "zh"), (1, "light")):
        page.run(f"""((e) => (e.value = '{value}', e.dispatchEvent(new Event('change'))))(
            document.querySelectorAll('#settings select')[{at}])""")
    assert page.run("document.querySelector('#settings-title').textContent") == "设置"
    page.call("Page.reload")
    page.wait("document.querySelector('#greeting h2')?.textContent === '想聊点什么？'")
    assert page.run("document.documentElement.lang") == "zh-CN"
    assert page.run(colour) == light


def test_what_a_model_writes_never_runs(page: Browser, live: Live) -> None:
    fresh(page, live, 600, structured_outputs={"choice": [HOSTILE]}, ignore_eos=False)
    ask(page, HOSTILE)
    (text,) = answered(page)
    assert "<script>hurt=1</script>" in text
    page.click("#bars")
    ask(page, HOSTILE)
    answered(page, 2)
    assert page.run("document.querySelector('.tokens').innerText").strip() == HOSTILE
    assert page.run("window.hurt === undefined && !document.querySelector('main img:not(#greeting img), main script')")
    assert page.run("[...document.querySelectorAll('main a')].every((a) => /^https?:/.test(a.href))")
    refused = "try { document.body.innerHTML = '<b>'; 'ran' } catch (e) { e.name }"
    assert page.run(refused) == "TypeError"  # the policy holds even where the page would err
    page.problems.clear()  # of that attempt


def test_markdown_becomes_elements(page: Browser) -> None:
    shown = """import('/page/markdown.js').then(({{showMarkdown}}) => {{
        const place = document.createElement('div');
        showMarkdown(place, {}); return place.innerHTML; }})"""
    for text, wanted in {
        "a **b** *c* `d*` ~~e~~ 2*3*4 a_b_c": '<p dir="auto">a <strong>b</strong> <em>c</em> <code>d*</code> <del>e</del> 2<em>3</em>4 a_b_c</p>',  # noqa: E501
        "# T\ntext": '<h3>T</h3><p dir="auto">text</p>',
        "1. a\n2. b\n   - c\n\nd": '<ol><li dir="auto">a</li><li dir="auto">b<ul><li dir="auto">c</li></ul></li></ol><p dir="auto">d</p>',  # noqa: E501
        "|a|b|\n|-|-:|\n|1|2|": '<div class="scroll" tabindex="0"><table><thead><tr><th>a</th><th class="right">b</th></tr></thead><tbody><tr><td>1</td><td class="right">2</td></tr></tbody></table></div>',  # noqa: E501
        "> q\n> > r": '<blockquote><p dir="auto">q</p><blockquote><p dir="auto">r</p></blockquote></blockquote>',
        "**open and * alone_ `": '<p dir="auto">**open and * alone_ `</p>',
        "<b>&amp;": '<p dir="auto">&lt;b&gt;&amp;amp;</p>',
    }.items():  # fmt: skip
        assert page.run(shown.format(json.dumps(text))) == wanted
    code = page.run(shown.format(json.dumps("```js\nlet a = '<b>' // c\n```\nafter")))
    assert "&lt;b&gt;" in code
    assert code.endswith('<p dir="auto">after</p>')
    link = page.run(shown.format(json.dumps("[a](https://e.org/(x)) https://e.org/y.")))
    assert 'href="https://e.org/(x)"' in link
    assert 'href="https://e.org/y"' in link


@pytest.mark.parametrize(
    "unit",
    ["*a ", "**", "[", "[a](", "`", "``a`", "> ", "- ", "|a", "a|\n-|\n", "\"'", "_a_", "1. a\n", "# ", "```\n", "~~a"],
)
def test_no_text_takes_more_than_linear_time(page: Browser, unit: str) -> None:
    took = page.run(f"""import('/page/markdown.js').then(({{showMarkdown}}) => [20000, 80000].map((length) => {{
        const start = performance.now();
        showMarkdown(document.createElement('div'), {json.dumps(unit)}.repeat(length / {len(unit)}));
        return performance.now() - start; }}))""")
    assert took[1] < 10 * took[0] + 200


def test_probabilities_show_by_mouse_and_by_key(page: Browser) -> None:
    page.click("#bars")
    ask(page, "the garden")
    answered(page)
    assert page.run("document.querySelectorAll('.tokens span').length") == 12
    page.run("document.querySelector('.tokens').focus()")
    for _ in range(3):
        page.press("ArrowRight")
    row = "document.querySelector('#tip .chosen').innerText"
    assert page.run("document.querySelector('#tip').matches(':popover-open')")
    assert "%" in page.run(row)
    assert page.run("document.querySelector('#live').textContent").endswith("%")
    assert page.run("document.querySelectorAll('#tip tr').length") >= 5
    page.press("Escape")
    assert not page.run("document.querySelector('#tip').matches(':popover-open')")
    page.click("#bars")
    assert page.run("document.querySelector('.markdown') !== null && document.querySelector('.tokens') === null")


def test_a_key_is_asked_for_in_place_and_kept_for_the_tab(chromium: Browser, start_server: StartServer) -> None:
    locked = start_server(api_key="secret-key")
    browser = chromium
    browser.call("Storage.clearDataForOrigin", origin=locked.url, storageTypes="all")
    browser.open(locked.url, "document.querySelector('#count').textContent")
    ask(browser, "the letter")
    browser.click(".problem input[type=password]")
    browser.type("secret-key")
    browser.press("Enter")
    browser.wait("!document.querySelector('.problem')")
    assert answered(browser)[0]
    assert browser.run(
        "[JSON.stringify(sessionStorage), JSON.stringify(localStorage)].map((s) => s.includes('secret'))"
    ) == [True, False]
    browser.problems.clear()  # the browser's own lines of 401


def test_errors_are_told_in_place_and_tried_again(page: Browser, live: Live) -> None:
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.emulateNetworkConditions", **offline)
    ask(page, "the window")
    page.wait("document.querySelector('.problem [role=alert]')?.textContent === 'The server cannot be reached.'")
    page.call("Network.emulateNetworkConditions", **{**offline, "offline": False})
    page.click(".problem button")
    page.wait("!document.querySelector('.problem')")
    assert answered(page)[0]
    page.click("#text")
    page.type("stone " * 2000)
    page.wait("document.querySelector('#count.over')")
    page.press("Enter")
    assert "context" in page.wait("document.querySelector('.problem [role=alert]')?.textContent")
    page.problems.clear()  # the browser's own lines of what failed


def test_a_full_queue_says_when_to_come_again(chromium: Browser, start_server: StartServer) -> None:
    busy = start_server(engine=EngineConfig(queued=1, running=1))
    fresh(chromium, busy)
    body = {"model": "tiny", "prompt": "a", "max_tokens": 900, "ignore_eos": True}
    crowd = [
        threading.Thread(target=lambda: httpx.post(f"{busy.url}/v1/completions", json=body, timeout=60))
        for _ in range(2)
    ]
    crowd[0].start()
    busy.wait(lambda: busy.engine.busy and busy.engine.stats.waiting == 0)
    crowd[1].start()
    busy.wait(lambda: busy.engine.stats.waiting == 1)
    ask(chromium, "the mountain")
    assert "busy" in chromium.wait("document.querySelector('.problem [role=alert]')?.textContent")
    assert chromium.run("document.querySelector('.problem button').textContent").startswith("Try again in")
    for thread in crowd:
        thread.join()
    chromium.wait("document.querySelector('.problem button').disabled === false")
    chromium.click(".problem button")
    chromium.wait("!document.querySelector('.problem')")
    assert answered(chromium)[0]
    chromium.problems.clear()


def test_a_model_without_chat_template_goes_on_with_the_text(
    chromium: Browser, start_server: StartServer, served_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(served_model, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    plain = start_server(model=folder)
    fresh(chromium, plain)
    assert "no chat template" in chromium.wait("document.querySelector('#note:not([hidden])')?.textContent")
    ask(chromium, "The river near the")
    assert answered(chromium)[0]
    assert chromium.problems == []
    assert any(url.endswith("/v1/completions") for url in chromium.requests)


def test_phone_width_has_a_drawer_and_nothing_sticks_out(page: Browser) -> None:
    seen = "document.querySelector('#side').getBoundingClientRect().right > 0"
    page.size(390, 844, phone=True)
    page.wait(f"!({seen})")
    ask(page, "the quiet " + "verylongword" * 30)
    answered(page)
    assert page.run("document.documentElement.scrollWidth") == 390
    page.click("#menu")
    page.wait(f"{seen} && document.querySelector('#side').getBoundingClientRect().left === 0")
    assert page.run("document.querySelector('main').inert && document.activeElement.id === 'new'")
    page.press("Escape")
    page.wait("!document.querySelector('main').inert")


CONTRAST = """(() => {
    const pixel = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const parts = (colour) => (pixel.clearRect(0, 0, 1, 1), pixel.fillStyle = colour, pixel.fillRect(0, 0, 1, 1),
        [...pixel.getImageData(0, 0, 1, 1).data]);
    const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = (e) => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
        if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
    const low = [];
    for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || e.matches('input, textarea');
        if (!own || !e.checkVisibility({opacityProperty: true}) || e.matches(':disabled, .skip, .heard')) continue;
        const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))];
        if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5) low.push(e.outerHTML.slice(0, 80));
    }
    return low;
})()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_and_named_by_everyone(page: Browser, theme: str) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3), and a name for all that can be used, as the browser tells readers."""
    page.prefer(prefers_color_scheme=theme)
    page.click("#bars")
    ask(page, "`code`")
    answered(page)
    for open_settings in (False, True):
        if open_settings:
            page.click("#tune")
        assert page.run(CONTRAST) == []
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        used = {"button", "textbox", "searchbox", "combobox", "checkbox", "link", "spinbutton", "article", "dialog"}
        found = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
        assert [role for role, name in found if role in used and not name.strip()] == []
        roles = {role for role, _ in found}
        assert (
            "dialog" in roles
            if open_settings
            else {"main", "navigation", "banner", "heading", "article"} - roles <= {"banner"}
        )


def test_the_page_s_files_are_these_and_nothing_else(live: Live) -> None:
    answer = live.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert live.get("/", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    for path in (
        "/page/..%2f__init__.py",
        "/page/__init__.py",
        "/page/%2e%2e/__init__.py",
        "/page/",
        "/page/index.html",
    ):
        assert live.get(path).status_code == 404
    text = answer.text + "".join(live.get(f"/page/{name}").text for name in ("app.js", "style.css"))
    assert "style=" not in text
    assert "onclick" not in text
    assert "https://" not in text
