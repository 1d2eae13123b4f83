"""A golden document on each side of the limit of each rule."""

import itertools
import time
from collections.abc import Iterator

import pytest

from fromzero.corpus import document as reasons
from fromzero.corpus.filters import clean_lines, judge, limits_of, refine
from fromzero.corpus.rules import LEFT, LINES, RULES, STOP_WORDS, WHOLE
from fromzero.corpus.settings import CorpusConfig, Filters
from fromzero.corpus.statistics import NAMES, measure
from fromzero.errors import UserError

PROSE = (
    "The lamps went out along the quay one after another. Nobody spoke while the ferry turned into the current. "
    "From the far bank came the sound of a dog, then a door, then nothing at all until morning. "
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
OWN = [rule.name for rule in WHOLE if rule.source.startswith("fromzero")]
OFF = dict.fromkeys(OWN)


def words(count: int, length: int = 5) -> list[str]:
    """Different words of one length."""
    made = ("".join(letters) for letters in itertools.product(LETTERS[::-1], repeat=length))
    return list(itertools.islice(made, count))


def lines(count: int, special: int, mark: str, width: int = 49) -> str:
    """Different lines of one width, some of them with a mark at the end or (with a blank behind it) at the start."""
    plain = [f"{a} {b}".ljust(width, "x") for a, b in zip(words(count), words(2 * count)[count:], strict=True)]
    marked = [mark + line if mark.endswith(" ") else line + mark for line in plain[:special]]
    return "\n".join(marked + plain[special:])


def copied(parts: int, copies: int, between: str, width: int = 49) -> str:
    """Lines or paragraphs of one width, some of them copies of the first."""
    different = [word.ljust(width, "x") for word in words(parts - copies)]
    return between.join(different + different[:1] * copies)


def row(n: int, copies: int, total: int = 6000) -> str:
    """Words of five letters, among them n in a row so many times."""
    unit, plain = ["again"] * (n - 1) + ["twice"], iter(words(total))
    made = [word for _ in range(copies) for word in (*unit, next(plain))]
    return " ".join([*made, *(next(plain) for _ in range(total - len(made)))])


def tokens(special: int, mark: str, total: int = 100) -> str:
    """So many tokens, some of them a mark."""
    plain = words(total - special)
    return " ".join([f"{word} {mark}" for word in plain[:special]] + plain[special:])


def squeezed(limit: float) -> Iterator[str]:
    count = next(n for n in range(2, 100) if measure(PROSE * n, ["compressed"])["compressed"] < limit)
    return (PROSE * n for n in (count - 1, count))


def around(name: str, limit: float) -> tuple[str, str]:
    n = int("".join(filter(str.isdigit, name)))
    length = 6 * 6000 - 1
    copies = int(limit * length / (6 * n - 1)) if "top" in name else 1 + int(limit * length / (5 * n))
    return row(n, copies), row(n, copies + 1)


# Rule -> a document that it keeps and one that it drops, as near to the limit as whole characters or words allow.
GOLDEN: dict[str, tuple[str, str]] = {
    "min_length": ("x" * 20 + " " + "y" * 29, "x" * 20 + " " + "y" * 28),
    "max_undecodable": ("a" * 990 + "�" * 10, "a" * 989 + "�" * 11),
    "min_letters": ("7" * 70 + "a" * 30, "7" * 71 + "a" * 29),
    "min_word_length": (" ".join(words(60, 2)), " ".join([*words(60, 2), "a"])),
    "max_word_length": (" ".join(words(60, 15)), " ".join([*words(60, 15), "a" * 16])),
    "max_repeated_lines": (copied(100, 60, "\n  "), copied(100, 61, "\n  ")),
    "min_compressed": tuple(squeezed(0.08)),  # type: ignore[dict-item]
    "max_duplicate_paragraphs": (copied(100, 30, "\n\n"), copied(100, 31, "\n\n")),
    "max_duplicate_paragraph_characters": (copied(100, 20, "\n\n"), copied(100, 21, "\n\n")),
    "max_duplicate_lines": (copied(100, 30, "\n"), copied(100, 31, "\n")),
    "max_duplicate_line_characters": (copied(100, 20, "\n"), copied(100, 21, "\n")),
    "min_words": (" ".join(words(50)) + " - !", " ".join(words(49)) + " - !"),
    "max_words": ("a " * 100_000, "a " * 100_001),
    "min_mean_word_length": (" ".join(words(60, 3)), " ".join([*words(60, 3), "a"])),
    "max_mean_word_length": (" ".join(words(60, 10)), " ".join([*words(60, 10), "a" * 11])),
    "max_hashes": (tokens(10, "#"), tokens(11, "#")),
    "max_ellipses": (tokens(10, "..."), tokens(11, "…")),
    "max_bullets": (lines(100, 90, "- "), lines(100, 91, "• ")),
    "max_ellipsis_lines": (lines(100, 30, "..."), lines(100, 31, "…")),
    "min_word_share": (tokens(20, "1999"), tokens(21, "1999")),
    "min_stop_words": (PROSE, PROSE.replace("of", "off")),
    "min_han": ("字" * 30 + "a" * 70, "字" * 29 + "a" * 71),
    "min_characters": ("字 " * 200, "字 " * 199),
    "min_line_length": ("十个字的一行就是这样\n" * 5, "十个字的一行就是这样\n" * 5 + "这一行有九个字呢哦"),
    "max_symbols": ("+" * 25 + "a" * 75, "+" * 26 + "a" * 74),
    "max_digits": ("1" * 15 + "a" * 85, "1" * 16 + "a" * 84),
    "max_white_space": (" " * 25 + "a" * 75, " " * 26 + "a" * 74),
    "max_parentheses": ("(" * 10 + "a" * 90, "(" * 11 + "a" * 89),
    "max_urls": ("https://abc.example/ " + "a " * 39 + "b", "https://abc.example/ " + "a " * 39),
    "max_lorem_ipsum": ("Lorem, then ipsum.", "See: Lorem Ipsum."),
    "max_curly_brackets": ("f(x) [y]", "f(x) {y}"),
    "min_sentences": ("One. Two! Three?\nFour. Five", "One. Two! Three?\nFour 4.5"),
    "min_long_lines": (lines(3, 0, "", 200), lines(3, 2, "y", 199)),
    "min_line_ends": (lines(100, 12, "."), lines(100, 11, "。")),
    "max_short_lines": (lines(100, 33, "y", 30), lines(100, 32, "y", 30)),
    "max_duplicate_characters": (copied(100, 1, "\n"), copied(100, 2, "\n")),
    "max_newlines": ("word\n" * 30 + "word " * 70, "word\n" * 31 + "word " * 69),
}  # fmt: skip
GIVEN = {"max_symbols": 0.25, "max_digits": 0.15, "max_white_space": 0.25, "max_parentheses": 0.1, "max_urls": 0.2,
         "min_long_lines": 3}  # fmt: skip
LINE = "This line is kept."
GOLDEN_LINES: dict[str, tuple[float, str, str]] = {
    "max_line_word": (1000, "see " + "x" * 1000, "see " + "x" * 1001),
    "max_line_citations": (0, "as [x] wrote [n 1]", "as [12] wrote"),
    "min_line_end": (1, 'She said "no."', "She said no..."),
    "min_line_words": (3, "one two three", "one-two three"),
    "max_line_phrases": (0, "the policy of privacy", "Our Privacy Policy"),
}


def limit_of(name: str) -> float:
    rule = RULES[name]
    own = getattr(Filters(), name, None)
    return next(limit for limit in (own, GIVEN.get(name), rule.web, rule.chinese) if limit is not None)


@pytest.mark.parametrize("name", [rule.name for rule in (*WHOLE, *LEFT)])
def test_a_document_on_each_side(name: str) -> None:
    limit, statistic = limit_of(name), RULES[name].statistic
    kept, dropped = GOLDEN.get(name) or around(name, limit)
    settings = Filters(**{**OFF}, limits={name: limit})  # type: ignore[arg-type]
    assert judge(kept, settings, "en") is None
    assert (judge(dropped, settings, "en") or "").startswith(f"{RULES[name].reason}: {name} {limit:g}, found ")
    values = [measure(text, [statistic], STOP_WORDS["en"])[statistic] for text in (kept, dropped)]
    assert values == pytest.approx([limit, limit], rel=0.06, abs=1)
    assert abs(values[0] - limit) <= 0.06 * max(limit, 1)


@pytest.mark.parametrize("name", [rule.name for rule in LINES])
def test_a_line_on_each_side(name: str) -> None:
    limit, kept, dropped = GOLDEN_LINES[name]
    assert clean_lines(f"{LINE}\n{kept}\n{LINE}", {name: limit}) == f"{LINE}\n{kept}\n{LINE}"
    cleaned = f"{LINE}\nas  wrote\n{LINE}" if name == "max_line_citations" else f"{LINE}\n{LINE}"
    assert clean_lines(f"{LINE}\n{dropped}\n{LINE}", {name: limit}) == cleaned


def test_what_is_measured_has_a_rule() -> None:
    asked = {rule.statistic for rule in (*WHOLE, *LEFT)}
    assert asked <= set(NAMES)
    assert {name for name in set(NAMES) - asked if "grams" not in name} == set()
    assert {rule.reason for rule in RULES.values()} - {""} <= set(reasons.REASONS)


@pytest.mark.parametrize(
    "text",
    [
        "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
        "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。",
        "Tyger Tyger, burning bright,\nIn the forests of the night;\nWhat immortal hand or eye",
        "## sort(a, axis=-1)\n\nReturn a sorted copy.\n\n    >>> np.sort([3, 1, 2])\n    array([1, 2, 3])\n",
        "| name | bytes | share |\n|---|---|---|\n| text | 1200 | 0.45 |\n| code | 3100 | 0.55 |\n",
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
        PROSE,
    ],
    ids=["jueju", "traditional", "poem", "documentation", "table", "japanese", "prose"],
)
def test_real_text_is_kept(text: str) -> None:
    assert refine(text, Filters()) == (text, None)


ARTICLE = """A ferry has crossed the river here since the year 1820, and for most of that time it was rowed by hand.
The first boat could carry six people and a cow. It was built from oak that grew on the north bank.
Our website uses cookies
Passengers paid with eggs, with flour, or with an hour at the oars.[3]
When the bridge was opened, nobody expected that the boatmen would have anything left to do.
They were wrong: the bridge was closed for repairs every spring. A second boat was bought in 1931.
Home
Today the crossing takes four minutes. On Sundays there is music on the upper deck."""
ARTICLE_ZH = """这条河上从道光年间就有渡船，最早的船是用北岸的橡木造的，一次只能载六个人和一头牛。
过河的人有的给鸡蛋，有的给面粉，也有人替船夫摇一个钟头的桨，当作船钱。
后来修了桥，大家都以为渡口要关门了，没有想到桥每年春天都要停下来检修。
于是村里又添了第二条船，船夫的儿子也从城里回来，接过了父亲手里的长篙。
如今渡河只要四分钟，星期天的上层甲板上还有人拉琴，游客比从前赶集的人还多。
老人们说，水涨水落都看惯了，只要对岸还有灯，这条船就会一直开下去。"""


def test_the_profile_for_web_pages() -> None:
    web = Filters(profile="web")
    text, reason = refine(ARTICLE, web)
    assert reason is None
    assert text == ARTICLE.replace("Our website uses cookies\n", "").replace("Home\n", "").replace("[3]", "")
    assert refine(ARTICLE_ZH, web) == (ARTICLE_ZH, None)
    assert judge("\n".join(["Home", "About us", "Contact", "Log in"] * 20), web) is not None
    assert judge("首页 新闻 体育 财经\n" * 40, web) is not None


def test_limits_of_languages() -> None:
    settings = Filters(
        profile="web", limits={"min_words": 10, "max_hashes": None}, languages={"zh": {"min_words": 20, "max_urls": 0}}
    )
    english, chinese, german = (limits_of(settings, language) for language in ("en", "zh", "de"))
    assert (english["min_words"], chinese["min_words"], german["min_words"]) == (10, 20, 10)
    assert (english.get("max_urls"), chinese["max_urls"]) == (None, 0)
    assert "max_hashes" not in {**english, **chinese}
    assert limits_of(Filters(), "zh") == {name: getattr(Filters(), name) for name in OWN}
    many = Filters(limits={"min_stop_words": 9})
    assert judge(PROSE, many, "en") == "too few stop words: min_stop_words 9, found 2"
    assert judge(PROSE, many, "de") is None  # no list, no rule


def test_null_is_off_and_zero_is_a_limit() -> None:
    text = "One # mark in a line of text that is long enough to be kept."
    assert judge(text, Filters(limits={"max_hashes": None})) is None
    assert judge(text, Filters(limits={"max_hashes": 0})) == "too many symbols: max_hashes 0, found 0.0625"


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(
        UserError, match=r"filters\.limits: there is no rule 'max_top_2gram'; did you mean 'max_top_2gr"
    ):
        Filters(limits={"max_top_2gram": 0.2})
    with pytest.raises(UserError, match=r"filters\.languages\.zh: there is no rule 'words'"):
        Filters(languages={"zh": {"words": 0.2}})
    assert CorpusConfig.filters == Filters()


EVERYTHING = Filters(limits={name: 0.0 if name.startswith("min") else 1e9 for name in RULES})


@pytest.mark.parametrize("text", ["", " \n", "\n\n", "a", "。", "\ud800", "\u0301", "'", ".,"])
@pytest.mark.parametrize("settings", [Filters(), Filters(profile="web"), EVERYTHING], ids=["documents", "web", "all"])
def test_next_to_nothing_never_crashes(text: str, settings: Filters) -> None:
    found = judge(text, settings)
    assert found == reasons.EMPTY if not text.strip() else found is None or found.startswith(reasons.TOO_SHORT)


@pytest.mark.parametrize("unit", ["a", " ", "^", "\n", "e\u0301", "👍", "字", "a b ", "ab\n", "\ufffd", "[1", "use "])
def test_linear_time_on_one_long_line(unit: str) -> None:
    started = time.perf_counter()
    judge(unit * (500_000 // len(unit)), EVERYTHING)
    assert time.perf_counter() - started < 5  # quadratic time would be hours
