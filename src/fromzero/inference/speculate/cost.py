"""What a step costs by the number of its tokens, learned from steps: processors and kernels differ widely in it."""

LONGEST = 32
"""Tokens of a step; a longer one is busy enough without drafts."""
FORGETTING = 0.98
"""What an observation counts after a step more."""
SLOPE, SURE = 0.1, 4.0
"""Before anything is known: what a token more adds to a step of one, and how much that counts."""


class Costs:
    """Seconds of a step: a straight line by least squares, of late."""

    def __init__(self) -> None:
        self._sums = [0.0] * 5

    def note(self, tokens: int, seconds: float) -> None:
        """A step took so long. One that was held up by something else counts as four at most."""
        if tokens > LONGEST:
            return
        seconds = min(seconds, 4 * self(tokens)) if self._sums[0] else seconds
        seen = (1.0, tokens, seconds, tokens**2, tokens * seconds)
        self._sums = [FORGETTING * total + new for total, new in zip(self._sums, seen, strict=True)]

    def __call__(self, tokens: int) -> float:
        """The line neither falls nor begins below 0."""
        count, length, seconds, squares, products = self._sums
        if not count:
            return 1.0
        length, seconds = length / count, seconds / count
        guess = SLOPE * seconds / (1 - SLOPE + SLOPE * length)
        slope = (products - count * length * seconds + SURE * guess) / (squares - count * length**2 + SURE)
        return seconds + min(max(slope, 0.0), seconds / length) * (tokens - length)
