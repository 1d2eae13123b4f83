"""What may be asked: OpenAI's fields, and vLLM's names for what OpenAI lacks. Any other field is an error."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fromzero.inference import SamplingConfig
from fromzero.serving.config import LimitsConfig
from fromzero.serving.errors import bad

Id = int


class Strict(BaseModel):
    """No unknown fields, no text for a number, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Asked(Strict):
    """What all requests may have."""

    model: str | None = None
    # Clients of OpenAI send these; they mean nothing to one model on one machine.
    user: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class UnloadRequest(Strict):
    """An adapter that is not needed any more."""

    lora_name: str = Field(pattern=r"^[\w.-]{1,100}$")


class LoadRequest(UnloadRequest):
    """An adapter, and its folder below the one that the server allows."""

    lora_path: str


class StreamOptions(Strict):
    """What a stream says beside the answer."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool | None = None


class Rules(Strict):
    """What an answer must look like, one of them."""

    json_schema: Any = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None


class Sampled(Asked):
    """How answers are chosen."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    min_tokens: int = 0
    stop: str | list[str] | None = None
    stop_token_ids: list[Id] | None = None
    ignore_eos: bool = False
    n: int | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: Rules | None = None
    priority: int = 0
    cache_salt: str | None = None

    def sampling(self, limits: LimitsConfig, max_tokens: int, logprobs: int | None, n: int = 1) -> SamplingConfig:
        """The same as the engine has it. Raises ApiError and UserError."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        ids = self.stop_token_ids or []
        if len(stops) + len(ids) > limits.stop or any(len(text) > limits.stop_characters for text in stops):
            raise bad(f"stop may have {limits.stop} texts or ids of {limits.stop_characters} characters", "stop")
        if logprobs is not None and not 0 <= logprobs <= limits.logprobs:
            raise bad(f"logprobs are {logprobs}; they must be from 0 to {limits.logprobs}", "logprobs")
        if not 1 <= n <= limits.n:
            raise bad(f"n is {n}; it must be from 1 to {limits.n}", "n")
        if max_tokens < self.min_tokens:
            raise bad(f"min_tokens is {self.min_tokens}, and {max_tokens} fit", "min_tokens")
        return SamplingConfig(
            temperature=_or(self.temperature, 1.0),
            top_k=max(0, self.top_k or 0),  # vLLM has -1 for all
            top_p=_or(self.top_p, 1.0),
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            logit_bias=self._bias(),
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            stop=tuple(stops),
            stop_ids=tuple(ids),
            ignore_end=self.ignore_eos,
            n=n,
            logprobs=logprobs,
            seed=self.seed,
        )

    def _bias(self) -> dict[int, float]:
        bias = self.logit_bias or {}
        if len(bias) > 1024 or any(not key.isdecimal() or not -100 <= bias[key] <= 100 for key in bias):
            raise bad("logit_bias must have at most 1024 token ids, with numbers from -100 to 100", "logit_bias")
        return {int(key): value for key, value in bias.items()}


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


class TextPart(Strict):
    """A part of a message: this server reads text only."""

    type: Literal["text"]
    text: str


class Function(Strict):
    """A call, as the assistant made it."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class Call(Strict):
    """A call of a tool in a message."""

    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None
    function: Function


class Message(Strict):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    # In what OpenAI's client gives back of an answer; no template knows them.
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class Described(Strict):
    """What a tool does and takes."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    function: Described


class Named(Strict):
    """The name of a function."""

    name: str


class Choice(Strict):
    """The function that the model must call."""

    type: Literal["function"] = "function"
    function: Named


class JsonSchema(Strict):
    """A schema and its name."""

    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """Whether the answer is JSON, and of which shape."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class CompletionRequest(Sampled):
    """POST /v1/completions."""

    prompt: str | list[str] | list[Id] | list[list[Id]]
    max_tokens: int | None = None
    logprobs: int | None = None
    echo: bool = False
    best_of: int | None = None
    suffix: str | None = None
    return_token_ids: bool = False
    add_special_tokens: bool = True
    parse_special: bool = False


class EmbeddingRequest(Asked):
    """POST /v1/embeddings."""

    input: str | list[str] | list[Id] | list[list[Id]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class ClassifyRequest(Asked):
    """POST /classify."""

    input: str | list[str]


class TokenizeRequest(Asked):
    """POST /tokenize: a text, or a conversation."""

    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    parse_special: bool = False
    return_token_strs: bool = False


class DetokenizeRequest(Asked):
    """POST /detokenize."""

    tokens: list[Id]
