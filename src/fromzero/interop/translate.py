"""A published config.json <-> our ModelConfig, by tables.

A family says with `Key`s which of our settings is kept under which of their keys, with `fixed` what all its models have
in common, and with `Rule`s what does not map one to one (rotary scaling, windows). The same table reads and writes. A
family can express a config exactly when reading what it would write gives that config back: nothing else decides.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fromzero.errors import UserError
from fromzero.model.config import Experts, Latent, ModelConfig

REQUIRED: Any = object()
MAX_WHOLE = 1 << 31
_WORDS: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Theirs:
    """The settings in a config.json, each checked when it is asked for, and the names of the tensors beside it."""

    raw: Mapping[str, Any]
    where: str
    tensors: Collection[str] = ()

    def get(self, key: str, kind: type, default: Any = REQUIRED, least: int = 1) -> Any:
        """The value of a key, or the default where it is missing or null. Raises UserError for a wrong type or size."""
        value: Any = self.raw.get(key)
        if value is None and default is not REQUIRED:
            return default
        if kind is float and type(value) is int and abs(value) < MAX_WHOLE:
            value = float(value)
        fits = type(value) is kind and not (type(value) is float and not math.isfinite(value))
        if not fits or (kind is int and not least <= value < MAX_WHOLE):
            found = "missing" if value is None else f"{value!r:.80}"
            size = f" from {least} to {MAX_WHOLE - 1}" if kind is int else ""
            raise UserError(f"{self.where}: {key} is {found}, where {_WORDS[kind]}{size} is needed")
        return value

    def only(self, key: str, *choices: Any, default: Any = REQUIRED) -> Any:
        """The value, which has to be among the choices; a missing one is the default, or else the first of them."""
        value = self.raw.get(key)
        if value is None:
            return choices[0] if default is REQUIRED else default
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            known = ", ".join(map(repr, choices))
            raise UserError(f"{self.where}: {key} = {value!r:.80} is not supported; supported: {known}")
        return value

    def inner(self, *keys: str) -> "Theirs":
        """The settings in the first of these objects that there is; none where there is no such object."""
        key = next((key for key in keys if self.raw.get(key)), keys[0])
        value = self.raw.get(key) or {}
        if not isinstance(value, Mapping):
            raise UserError(f"{self.where}: {key} is {value!r:.80}, where an object is needed")
        return replace(self, raw=value, where=f"{self.where}, {key}")


@dataclass(frozen=True)
class Key:
    """Where one of our settings is: their key (or keys with the same value), its type, what a missing one means.

    `kind` may be a mapping of their values to ours; then no others are supported.
    """

    names: str
    kind: type | Mapping[Any, Any]
    default: Any = REQUIRED
    least: int = 1

    def read(self, theirs: Theirs) -> Any:
        """Our value."""
        names = self.names.split()
        name = next((name for name in names if theirs.raw.get(name) is not None), names[0])
        if isinstance(self.kind, Mapping):
            return self.kind[theirs.only(name, *self.kind, default=self.default)]
        return theirs.get(name, self.kind, self.default, self.least)

    def write(self, ours: Any) -> dict[str, Any]:
        """Their settings. Raises KeyError when they have no value for ours."""
        if isinstance(self.kind, Mapping):
            ours = {mine: yours for yours, mine in reversed(list(self.kind.items()))}[ours]
        return dict.fromkeys(self.names.split(), ours)


def whole(names: str, default: Any = REQUIRED) -> dict[str, Key]:
    """Keys of whole numbers, `ours=theirs` each."""
    pairs = [name.split("=") for name in names.split()]
    return {ours: Key(theirs, int, default) for ours, theirs in pairs}


@dataclass(frozen=True)
class Rule:
    """What takes more than a key."""

    read: Callable[[Theirs, Mapping[str, Any]], dict[str, Any]]
    """(theirs, what is known of ours so far) -> more of ours."""
    write: Callable[[ModelConfig], dict[str, Any]]
    """Our config -> theirs. Raises KeyError for what they can't say."""


@dataclass(frozen=True)
class Family:
    """A published layout of configs."""

    model_type: str
    architecture: str
    keys: Mapping[str, Key]
    """Our setting (experts.count for one in a group) -> theirs."""
    fixed: Mapping[str, Any]
    """Our settings that are the same in all models of the family."""
    same: Mapping[str, Any]
    """Their settings of which only one value is supported; a missing one means that."""
    rules: tuple[Rule, ...] = ()

    def read(self, theirs: Theirs) -> ModelConfig:
        """Our config for theirs. Raises UserError for what is missing, of a wrong type, or not supported."""
        if self.model_type == "gemma3":  # a model of text and pictures, of which this is the part for text
            theirs = theirs.inner("text_config")
        for key, value in self.same.items():
            theirs.only(key, value)
        ours = {name: key.read(theirs) for name, key in self.keys.items()} | dict(self.fixed)
        for rule in self.rules:
            ours |= rule.read(theirs, ours)
        for group, kind in (("experts", Experts), ("latent", Latent)):
            if inner := {name: ours.pop(name) for name in list(ours) if name.startswith(f"{group}.")}:
                ours[group] = kind(**{name.partition(".")[2]: value for name, value in inner.items()})
        return ModelConfig(**ours)

    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        """Their settings for our config, or None where they can't express it."""
        wanted = normalised(config)
        if any(_dotted(wanted, name) != value for name, value in self.fixed.items()):
            return None
        theirs: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.model_type, **self.same}
        tensors = {"lm_head.weight": not config.tied, "cls.predictions.bias": config.head_bias}
        tensors[f"model.layers.{config.layers}.enorm.weight"] = config.predict_ahead > 0
        try:
            for name, key in self.keys.items():
                theirs |= key.write(_dotted(wanted, name)) if name not in self.fixed else {}
            for rule in self.rules:
                theirs |= rule.write(wanted)
            back = self.read(Theirs(theirs, "config.json", [name for name, there in tensors.items() if there]))
        except (KeyError, UserError):
            return None
        return theirs if normalised(back) == wanted else None


def normalised(config: ModelConfig) -> ModelConfig:
    """The same model with defaults filled in, and without what matters in training only, or not at all."""
    rotary, windows = config.positions == "rotary", config.window is not None
    changes: dict[str, Any] = {
        "dropout": 0.0,
        "kv_heads": config.key_value_heads,
        "head_width": None if config.latent else config.head_size,
        "ffn_width": config.ffn_size,
        "encoder_layers": (config.encoder_layers or config.layers) if config.kind == "encoder_decoder" else None,
        "qkv_bias": config.attention_biased,
        "attention_scale": config.attention_scale or config.head_size**-0.5,
        "full_every": config.full_every if windows and config.full_every <= config.layers else 0,
        "local_rope_base": (config.local_rope_base or config.rope_base) if rotary and windows else None,
    }
    if not rotary:
        changes |= {"rope_base": 10000.0, "rope_scaling": None}
    if config.positions != "relative":
        changes |= {"relative_buckets": 32, "relative_distance": 128}
    if experts := config.experts:
        plain = {name: getattr(Experts, name) for name in ("balance_weight", "z_weight", "capacity")}
        balance: Any = "bias" if experts.balance == "bias" else "loss"
        changes["experts"] = replace(experts, width=experts.width or config.ffn_size, balance=balance, **plain)
    return replace(config, **changes)


def _dotted(config: ModelConfig, name: str) -> Any:
    group, _, field = name.rpartition(".")
    return getattr(getattr(config, group) if group else config, field, None)
