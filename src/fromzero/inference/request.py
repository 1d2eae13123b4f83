"""What is asked of the engine, what it answers, and a sequence in the making."""

from collections import Counter
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from fromzero.errors import UserError
from fromzero.inference.pages import PageTable
from fromzero.inference.sampling import Sampler, SamplingConfig

if TYPE_CHECKING:
    from fromzero.inference.adapted import Adapter

Reason = Literal["stop", "length", "context", "cancelled", "error"]
"""Why an answer ended: a stop text or id; max_tokens; the context; nobody wants it any more; a fault of the engine."""


class Overloaded(UserError):  # noqa: N818 - a state, as the next one
    """The queue is full: try again later."""


class Unavailable(UserError):  # noqa: N818
    """The engine is stopping, or has failed."""


@dataclass(frozen=True)
class Request:
    """One prompt, and how its `sampling.n` answers are made."""

    id: str
    prompt: tuple[int, ...]
    """Token ids."""
    sampling: SamplingConfig
    priority: int = 0
    """Lower goes first; a later request of lower priority may take the pages of an earlier one of higher."""
    tenant: str = ""
    """Whose it is: tenants share the machine fairly, and never each other's cached prefixes."""
    prompt_logprobs: bool = False
    """Whether the log-probabilities of the prompt's tokens are wanted too."""
    source: tuple[int, ...] = ()
    """Of an encoder-decoder: what it reads; the prompt is then its start id."""
    adapter: "Adapter | None" = None
    """Small matrices that its answers go through beside the model; None: the model alone."""
    goes_on: bool = False
    """Whether the answer goes on from words of the prompt, so that a blank that comes first is kept."""
    drawn: bool = False
    """Whether log-probabilities are those that tokens are drawn by, at the temperature, and the last of them is that of
    the id which ends the answer, if one does: what training needs."""


class Logprob(NamedTuple):
    """A token's log-probability (nats) before temperature and filters, and those of the likeliest, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Timing:
    """When things happened to one answer, in seconds of time.monotonic(); 0: not yet."""

    queued: float = 0.0
    started: float = 0.0
    """Its first step was planned."""
    first: float = 0.0
    """Its first token was there ..."""
    last: float = 0.0
    """... and its newest."""


@dataclass
class Stats:
    """What an engine does now (the first four), and what it has done since it was made."""

    running: int = 0
    """Answers in the making."""
    waiting: int = 0
    """Answers not begun, or put back."""
    pages: int = 0
    """Pages of the cache."""
    pages_held: int = 0
    """Those that answers in the making need."""
    steps: int = 0
    prompt_tokens: int = 0
    """Of prompts that were read, once for all n answers."""
    generated_tokens: int = 0
    lookups: int = 0
    """Tokens that were looked for in the cache ..."""
    hits: int = 0
    """... and those that were found."""
    preemptions: int = 0
    finished: Counter[Reason] = field(default_factory=Counter)
    """Answers that ended, by reason."""
    drafted: int = 0
    """Tokens that speculation tried ..."""
    accepted: int = 0
    """... and those that it was right about ..."""
    drafted_at: Counter[int] = field(default_factory=Counter)
    accepted_at: Counter[int] = field(default_factory=Counter)
    """... by their place in the draft, from 1."""


@dataclass(frozen=True)
class Output:
    """What a step adds to one answer of a request."""

    request: str
    index: int
    """Which of its n answers."""
    tokens: tuple[int, ...] = ()
    text: str = ""
    """What is now sure to be in the answer: whole characters, and no beginning of a stop text."""
    logprobs: tuple[Logprob, ...] = ()
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    """Once, with the first output: None for the first token, which nothing comes before."""
    reason: Reason | None = None
    """Why it ended, in its last output."""
    stop: str | int | None = None
    """The stop text or id that ended it."""
    cached: int = 0
    """Tokens of the prompt that were found in the cache; said in the first and the last output."""
    message: str = ""
    """What went wrong, for reason `error`."""
    timing: Timing | None = None
    """In its last output."""


@dataclass(eq=False)
class Sequence:
    """One answer in the making: tokens of prompt and answer, and how many of them the cache holds."""

    request: Request
    index: int
    sampler: Sampler
    arrival: int
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    draft: list[int] = field(default_factory=list)
    """Tokens that are tried this step, behind `tokens`."""
    table: PageTable = field(default_factory=PageTable)
    cached: int = 0
    """Tokens of the prompt that the cache had when it began."""
    preemptions: int = 0
    timing: Timing = field(default_factory=Timing)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def missing(self) -> int:
        """Tokens that are to be computed, with those that are tried."""
        return len(self.tokens) + len(self.draft) - self.computed

    @property
    def answered(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.request.prompt)


class Span(NamedTuple):
    """Consecutive tokens of one sequence that a step computes."""

    ids: Ids[int]
    start: int
    """Tokens of the sequence before these, whose keys and values are there."""
    pages: Ids[int]
    """Pages of the sequence, with room for these too; they may change after the step."""
    wanted: int
    """Of how many of the last of these the logits are wanted; 0: of none."""
    source: Ids[int] = ()
    """Of an encoder-decoder: what it reads ..."""
    key: str = ""
    """... and by what name its states are kept meanwhile."""
    adapter: "Adapter | None" = None
