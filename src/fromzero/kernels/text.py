"""What the quality rules count in a text: characters, words, lines, paragraphs, and what of them stood before.

`corpus.statistics` says what each number means, and tests/corpus/test_statistics.py has the plain reference. Texts are
code points (uint32); `classes` has the bits of each below KNOWN, and those above are symbols. What is repeated is found
by hashes of 64 bits in one table, which is not emptied between its uses, one after the other: a slot is taken when its
mark is the use's number.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import inlined, lean

BLANK, LETTER, WORD, UNSPACED, IDEOGRAPH, TERMINAL, DIGIT, MARK = 1, 2, 4, 8, 16, 32, 64, 128
KNOWN = 0x40000  # no script, blank or mark of punctuation lies above
NEWLINE, APOSTROPHES, DOT, COLON, SLASH, ELLIPSIS = 10, (0x27, 0x2019), 0x2E, 0x3A, 0x2F, 0x2026
JOINTS, NUMBER_JOINTS = (0x2E, 0x40, 0x5F), (0x2C, 0x3A)  # . @ _ and , :
CLOSING = (0x22, 0x27, 0x29, 0x5D, 0x2019, 0x201D, 0x300D, 0x300F, 0xFF09)  # " ' ) ] ’ ” 」 』 ）
OPEN, MARKED, ENDED = 0, 1, 2  # a sentence; marked as ended, if a blank follows
SHORT_LINE, LONG_LINE = 30, 200

COUNTS = (
    "characters", "solid", "letters", "alphanumeric", "digits", "ideographs", "han", "undecodable", "hashes",
    "ellipses", "parentheses", "newlines", "chunks", "chunk_characters", "first", "last", "tokens", "words",
    "word_characters", "spaced_words", "alpha_words", "stop_words", "lines", "line_characters", "repeated_lines",
    "repeated_line_characters", "stripped_characters", "repeated_stripped", "bullet_lines", "ellipsis_lines",
    "terminal_lines", "short_lines", "long_lines", "sentences", "paragraphs", "repeated_paragraphs",
    "repeated_paragraph_characters",
)  # fmt: skip
(
    CHARACTERS, SOLID, LETTERS, ALPHANUMERIC, DIGITS, IDEOGRAPHS, HAN, UNDECODABLE, HASHES, ELLIPSES, PARENTHESES,
    NEWLINES, CHUNKS, CHUNK_CHARACTERS, FIRST, LAST, TOKENS, WORDS, WORD_CHARACTERS, SPACED_WORDS, ALPHA_WORDS,
    STOP_WORDS, LINES, LINE_CHARACTERS, REPEATED_LINES, REPEATED_LINE_CHARACTERS, STRIPPED_CHARACTERS,
    REPEATED_STRIPPED, BULLET_LINES, ELLIPSIS_LINES, TERMINAL_LINES, SHORT_LINES, LONG_LINES, SENTENCES, PARAGRAPHS,
    REPEATED_PARAGRAPHS, REPEATED_PARAGRAPH_CHARACTERS,
) = range(len(COUNTS))  # fmt: skip

_MIX, _BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_HALF = np.uint64(32)


@inlined
def class_of(classes: Any, point: Any) -> Any:
    """The bits of a code point."""
    return classes[point] if point < KNOWN else 0


@inlined
def mix(mixed: Any) -> Any:
    """Spread a hash over all 64 bits."""
    mixed = (mixed ^ mixed >> _HALF) * _MIX
    return mixed ^ mixed >> _HALF


@lean
def hash_of(points: Any, start: Any, end: Any) -> Any:
    """A hash (uint64) of points[start:end]."""
    mixed = np.uint64(end - start)
    for i in range(start, end):
        mixed = mixed * _BASE + np.uint64(points[i])
    return mix(mixed)


@lean
def is_new(mixed: Any, use: Any, keys: Any, marks: Any) -> Any:
    """Whether a hash is seen for the first time in this use of the table, where it is kept."""
    slot = slot_of(mixed, use, keys, marks)
    if marks[slot] == use:
        return False
    keys[slot], marks[slot] = mixed, use
    return True


@inlined
def slot_of(mixed: Any, use: Any, keys: Any, marks: Any) -> Any:
    """Where a hash is in the table, or the free slot where it belongs."""
    slot = np.int64(mixed & np.uint64(len(keys) - 1))
    while marks[slot] == use and keys[slot] != mixed:
        slot = (slot + 1) & (len(keys) - 1)
    return slot


@lean
def count_characters(points: Any, classes: Any, kinds: Any, counts: Any) -> None:
    """Everything that is told from characters one by one; FIRST and LAST: the text without the blanks around it.
    SENTENCES: how many begin within a line. kinds: 256 zeros, for how often each class occurs, because one sum a
    character is faster than ten."""
    first, last, inside, dots, ended = len(points), 0, False, 0, OPEN
    for i in range(len(points)):
        point = points[i]
        kind = class_of(classes, point)
        kinds[kind] += 1
        if kind & BLANK:
            inside, dots = False, 0
            if point == NEWLINE:
                counts[NEWLINES] += 1
                ended = OPEN
            elif ended == MARKED:
                ended = ENDED
            continue
        first, last = min(first, i), i + 1
        counts[CHUNKS] += not inside and not kind & UNSPACED
        inside = not kind & UNSPACED
        if kind & IDEOGRAPH:
            counts[HAN] += not 0x3040 <= point <= 0x30FF
        if kind & TERMINAL:
            ended = ENDED if kind & UNSPACED else MARKED
        elif ended != OPEN and point not in CLOSING:
            counts[SENTENCES] += ended == ENDED
            ended = OPEN
        if kind & WORD:
            dots = 0
            continue
        dots = dots + 1 if point == DOT else 0
        if dots == 3 or point == ELLIPSIS:
            counts[ELLIPSES] += 1
            dots = 0
        counts[UNDECODABLE] += point == 0xFFFD
        counts[HASHES] += point == 0x23
        counts[PARENTHESES] += point in (0x28, 0x29, 0xFF08, 0xFF09)
    counts[CHARACTERS], counts[FIRST], counts[LAST] = len(points), first, last
    for kind in range(len(kinds)):
        counts[DIGITS] += kinds[kind] * ((kind & DIGIT) != 0)
        if not kind & BLANK:
            counts[SOLID] += kinds[kind]
            counts[LETTERS] += kinds[kind] * ((kind & LETTER) != 0)
            counts[ALPHANUMERIC] += kinds[kind] * ((kind & WORD) != 0)
            counts[IDEOGRAPHS] += kinds[kind] * ((kind & IDEOGRAPH) != 0)
            counts[CHUNK_CHARACTERS] += kinds[kind] * (not kind & UNSPACED)


@inlined
def is_spaced(kind: Any) -> Any:
    """Whether a character with these bits belongs to words that blanks divide."""
    return kind & (WORD | UNSPACED) == WORD


@lean
def is_joint(points: Any, classes: Any, at: Any) -> Any:
    """Whether a symbol inside the text joins what is before and behind it to one token."""
    if at + 1 == len(points):
        return False
    before, after = class_of(classes, points[at - 1]), class_of(classes, points[at + 1])
    if points[at] in NUMBER_JOINTS:
        return before & after & DIGIT and not (before | after) & UNSPACED
    return points[at] in JOINTS and is_spaced(before) and is_spaced(after)


@lean
def url_end(points: Any, classes: Any, at: Any) -> Any:
    """The next blank where '://' goes on from here, else here."""
    if at + 2 < len(points) and points[at] == COLON and points[at + 1] == SLASH and points[at + 2] == SLASH:
        while at < len(points) and not class_of(classes, points[at]) & BLANK:
            at += 1
    return at


@lean
def token_end(points: Any, classes: Any, start: Any) -> Any:
    """Where the token that begins at `start`, which is no blank, ends."""
    kind = class_of(classes, points[start])
    i = start + 1
    if not kind & WORD and points[start] in APOSTROPHES and start > 0:
        before = class_of(classes, points[start - 1])
        if is_spaced(before) and i < len(points):
            after = class_of(classes, points[i])
            if after & LETTER and is_spaced(after):
                kind = after
    if not kind & WORD:
        while i < len(points) and points[i] == points[start]:
            i += 1
        return i
    while i < len(points):
        following = class_of(classes, points[i])
        if not following & MARK:
            if kind & UNSPACED:
                break
            if not is_spaced(following) and not is_joint(points, classes, i):
                return url_end(points, classes, i)
        i += 1
    return i


@lean
def count_words(points: Any, classes: Any, stops: Any, hashes: Any, lengths: Any, counts: Any) -> None:
    """Cut the text into tokens. hashes and lengths: sums over those before, with room for one more than characters;
    that of hashes is a polynomial, so that the hash of any tokens in a row is a difference. stops: hashes."""
    i, number, seen = 0, 0, 0
    hashes[0], lengths[0] = 0, 0
    while i < len(points):
        kind = class_of(classes, points[i])
        if kind & BLANK:
            i += 1
            continue
        end = token_end(points, classes, i)
        mixed, bits = np.uint64(end - i), 0
        for j in range(i, end):  # the same as hash_of
            mixed = mixed * _BASE + np.uint64(points[j])
            bits |= class_of(classes, points[j])
        mixed = mix(mixed)
        hashes[number + 1] = hashes[number] * _BASE + mixed
        lengths[number + 1] = lengths[number] + end - i
        number += 1
        counts[ALPHA_WORDS] += (bits & LETTER) != 0
        counts[WORDS] += (bits & WORD) != 0
        if bits & WORD and not kind & UNSPACED:
            counts[SPACED_WORDS] += 1
            counts[WORD_CHARACTERS] += end - i
        for k in range(len(stops)):
            if stops[k] == mixed and not seen >> k & 1:
                seen |= 1 << k
                counts[STOP_WORDS] += 1
        i = end
    counts[TOKENS] = number


@lean
def ends_with_ellipsis(points: Any, start: Any, end: Any) -> Any:
    """Whether points[start:end] ends with '…' or '...'."""
    if end > start and points[end - 1] == ELLIPSIS:
        return True
    return end - start > 2 and points[end - 1] == DOT and points[end - 2] == DOT and points[end - 3] == DOT


@lean
def count_lines(points: Any, classes: Any, keys: Any, marks: Any, counts: Any) -> None:
    """Everything about lines that are not blank; use 1 of the table, two keys a line."""
    start = 0
    while start < len(points):
        end = start
        while end < len(points) and points[end] != NEWLINE:
            end += 1
        first, stop = start, end
        while first < stop and class_of(classes, points[first]) & BLANK:
            first += 1
        while stop > first and class_of(classes, points[stop - 1]) & BLANK:
            stop -= 1
        if first < stop:
            count_line(points, classes, start, end, first, stop, keys, marks, counts)
        start = end + 1


@lean
def count_line(
    points: Any, classes: Any, start: Any, end: Any, first: Any, stop: Any, keys: Any, marks: Any, counts: Any
) -> None:
    """One line from start to end, without the blanks around it from first to stop."""
    size = end - start
    counts[LINES] += 1
    counts[LINE_CHARACTERS] += size
    mixed = hash_of(points, first, stop)
    whole = mixed if stop - first == size else hash_of(points, start, end)
    if not is_new(whole, 1, keys, marks):
        counts[REPEATED_LINES] += 1
        counts[REPEATED_LINE_CHARACTERS] += size
    counts[STRIPPED_CHARACTERS] += stop - first
    if not is_new(~mixed, 1, keys, marks):
        counts[REPEATED_STRIPPED] += stop - first
    counts[BULLET_LINES] += points[first] in (0x2D, 0x2022)
    counts[ELLIPSIS_LINES] += ends_with_ellipsis(points, first, stop)
    counts[TERMINAL_LINES] += (class_of(classes, points[end - 1]) & TERMINAL) != 0
    counts[SHORT_LINES] += size <= SHORT_LINE
    counts[LONG_LINES] += size >= LONG_LINE


@lean
def count_paragraphs(points: Any, keys: Any, marks: Any, counts: Any) -> None:
    """What stands between blank lines, from FIRST to LAST; use 2 of the table."""
    start, stop = counts[FIRST], counts[LAST]
    while start < stop:
        end = start
        while end < stop and not (points[end] == NEWLINE and points[end + 1] == NEWLINE):
            end += 1
        counts[PARAGRAPHS] += 1
        if not is_new(hash_of(points, start, end), 2, keys, marks):
            counts[REPEATED_PARAGRAPHS] += 1
            counts[REPEATED_PARAGRAPH_CHARACTERS] += end - start
        start = end
        while start < stop and points[start] == NEWLINE:
            start += 1


@lean
def count_grams(
    hashes: Any, lengths: Any, tokens: Any, n: Any, before: Any, runs: Any, slots: Any, use: Any, keys: Any, marks: Any,
    tallies: Any, firsts: Any,
) -> Any:  # fmt: skip
    """Count each n tokens in a row. runs: at each place, how many from there on begin `before` tokens with copies.
    Only where all do can n have copies, and other places are not looked at. The same for n takes its place.

    Returns the number of copies of the most frequent that are looked at, and where the first one of them is.
    """
    power, best, chosen = np.uint64(1), 0, 0
    for _ in range(n):
        power *= _BASE
    for at in range(tokens - n + 1):
        if runs[at] > n - before:
            mixed = mix(hashes[at + n] - hashes[at] * power)
            slot = slot_of(mixed, use, keys, marks)
            if marks[slot] != use:
                keys[slot], marks[slot], tallies[slot], firsts[slot] = mixed, use, 0, at
            slots[at] = slot
            tallies[slot] += 1
            if tallies[slot] > best or (tallies[slot] == best and firsts[slot] < chosen):
                best, chosen = tallies[slot], firsts[slot]
    following = 0
    for back in range(tokens):
        at = tokens - 1 - back
        copied = at + n <= tokens and runs[at] > n - before and tallies[slots[at]] > 1
        following = following + 1 if copied else 0
        runs[at] = following
    return best, chosen


@lean
def copied_characters(lengths: Any, tokens: Any, n: Any, runs: Any, slots: Any, firsts: Any) -> Any:
    """Characters in n tokens in a row that stood before; what was counted is not counted again."""
    copied, at = 0, 0
    while at + n <= tokens:
        if runs[at] and firsts[slots[at]] < 0:
            copied += lengths[at + n] - lengths[at]
            at += n
        else:
            if runs[at]:
                firsts[slots[at]] = -1  # met
            at += 1
    return copied


@lean
def count_first(points: Any, classes: Any, stops: Any, kinds: Any, hashes: Any, lengths: Any, counts: Any) -> None:
    """The counts that need no table, and by which its size is known."""
    count_characters(points, classes, kinds, counts)
    count_words(points, classes, stops, hashes, lengths, counts)


@lean
def count_copies(
    points: Any, classes: Any, hashes: Any, lengths: Any, grams: Any, found: Any, runs: Any, slots: Any, keys: Any,
    marks: Any, tallies: Any, firsts: Any, counts: Any,
) -> None:  # fmt: skip
    """The other counts; and for each number in `grams`, from the smallest on, how many characters are in so many tokens
    in a row: in the copies of the most frequent ones with blanks between them (found[0]), in copies of any (found[1]).

    The table (keys, marks, tallies, firsts) has zeros in `marks`; runs and slots have room for a number a token.
    """
    count_lines(points, classes, keys, marks, counts)
    count_paragraphs(points, keys, marks, counts)
    tokens, before = counts[TOKENS], 0
    runs[:] = len(points) + 1
    for k in range(len(grams)):
        n = grams[k]
        if n > tokens:
            break
        best, chosen = count_grams(hashes, lengths, tokens, n, before, runs, slots, 3 + k, keys, marks, tallies, firsts)
        if best < 2:  # then they are alike in that, and the first of all counts
            best, chosen = 1, 0
        found[0, k] = best * (lengths[chosen + n] - lengths[chosen] + n - 1)
        found[1, k] = copied_characters(lengths, tokens, n, runs, slots, firsts)
        before = n
