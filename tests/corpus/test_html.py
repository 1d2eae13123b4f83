"""Tricky pages: what a reader sees has to be in the text, in lines that mean what they did."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.html import decode_html, extract_html

CODE = "def f(x):\n    if x:\n        return 1\n\n    return 2"
PAGE = f"""<html><body><nav><ul><li><a href="/">Home page</a></li></ul></nav><main><article><h1>Loops</h1>
<p>A loop repeats a block of <b>statements</b> until a condition
   fails. Here is how it looks in practice, with <code>while</code> and <i>for</i>.</p>
<pre><code class="language-python">{CODE}
</code></pre>
<p>The list of the keywords follows, in the order in which they matter most to a learner:</p>
<ul><li>for</li><li>while<ul><li>nested <b>one</b></li><li>nested two</li></ul></li><li>break</li></ul>
<ol><li>First do this.</li><li>Then do that.</li></ol>
<p>这条河发源于城外的群山，蜿蜒九十里后
汇入大海。铁路修通以前，船只沿河运送羊毛和木材。</p>
<p>And the table of costs that everybody needs to know by heart before the first exam:</p>
<table><thead><tr><th>Name</th><th>Cost</th></tr></thead>
<tbody><tr><td>append</td><td>O(1)</td></tr><tr><td>insert</td><td>O(n)<br>at worst</td></tr></tbody></table>
<blockquote><p>Quoted words are kept too, as they are part of the text.</p></blockquote>
<p>A line<br>broken here.</p></article></main><footer><p>Copyright 2020 Someone</p></footer></body></html>"""


def test_structure_is_kept() -> None:
    blocks = extract_html(decode_html(PAGE.encode()), "precise").split("\n\n")
    assert blocks[:2] == [
        "Loops",
        "A loop repeats a block of statements until a condition fails. "
        "Here is how it looks in practice, with while and for.",
    ]
    assert "\n\n".join(blocks[2:4]) == CODE
    assert blocks[5:7] == [
        "- for\n- while\n  - nested one\n  - nested two\n- break",
        "1. First do this.\n2. Then do that.",
    ]
    assert blocks[7] == "这条河发源于城外的群山，蜿蜒九十里后汇入大海。铁路修通以前，船只沿河运送羊毛和木材。"
    assert [line for line in blocks[9].split("\n") if line] == [
        "Name | Cost",
        "append | O(1)",
        "insert | O(n) at worst",
    ]
    assert blocks[10:] == ["Quoted words are kept too, as they are part of the text.", "A line\nbroken here."]


@pytest.mark.parametrize("mode", ["precise", "fast"])
def test_navigation_and_footers_go(mode: str) -> None:
    text = extract_html(decode_html(PAGE.encode()), mode)
    assert "Home page" not in text
    assert "Copyright" not in text
    assert CODE in text


@pytest.mark.parametrize("mode", ["precise", "fast"])
@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 2_000 + "deep",
        "<table><tr><td>" * 3_000 + "deep",
        "<a " + "x=y " * 200_000 + ">text</a>",
        "<p>" * 20_000,
        "&" * 200_000,
        "<!--" * 100_000,
        "<![CDATA[" * 50_000 + "<svg><math>" * 5_000,
        "\0<p>\x01</p>" + "text " * 100,
        "\n" * 300_000 + "字",
        "<pre" * 50_000,
        "<frameset></frameset>",
    ],
    ids=[
        "nested",
        "tables",
        "attributes",
        "open",
        "entities",
        "comments",
        "foreign",
        "controls",
        "lines",
        "pre",
        "frames",
    ],
)
def test_hostile_pages_end(mode: str, html: str) -> None:
    assert isinstance(extract_html(decode_html(html.encode()), mode), str)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("<>/&;=\"' \nabpdtrliu中\x00!-"), max_size=80))
def test_any_text_is_a_page(text: str) -> None:
    for mode in ("precise", "fast"):
        assert isinstance(extract_html(text, mode), str)
