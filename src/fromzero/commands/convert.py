"""`fromzero convert MODEL --output PLACE`: to the formats of transformers and llama.cpp, and from them; in few bits."""

from typing import cast

from fromzero.commands import Verb
from fromzero.console import say, table
from fromzero.errors import UserError
from fromzero.evaluation import score_documents
from fromzero.evaluation.perplexity import summarize
from fromzero.inference.quantize.convert import QuantizedConvertConfig, convert_quantized
from fromzero.interop.convert import BOUNDS, convert
from fromzero.interop.huggingface import Model
from fromzero.model import Transformer
from fromzero.tokenizer import Tokenizer


def run(config: QuantizedConvertConfig) -> None:
    """Convert, and say how near the result is."""
    if config.quantize:
        _quantize(config)
        return
    for name in ("method", "group", "calibration", "calibration_tokens", "evaluate"):
        if getattr(config, name) != getattr(QuantizedConvertConfig, name):
            raise UserError(f"--{name} says how to quantize; say what to: --quantize int4 or int8")
    made = convert(config)
    say(
        f"{config.output}: {made.tensors} tensors, read back: weights differ by at most {made.difference:.3g} of the "
        f"largest of their tensor ({config.dtype} explains {BOUNDS[config.dtype]:.3g}), logits by {made.logits:.3g}"
    )


def _quantize(config: QuantizedConvertConfig) -> None:
    made = convert_quantized(config, _bits_per_byte).summary
    errors = sorted((layer["error"], layer["name"]) for layer in made["layers"])
    (median, _), (most, worst) = errors[len(errors) // 2], errors[-1]
    rows = [
        ("weights", f"{made['source_bytes'] / 1e6:,.1f} MB", f"{made['bytes'] / 1e6:,.1f} MB"),
        ("bits a parameter", *(f"{8 * made[n] / made['parameters']:.2f}" for n in ("source_bytes", "bytes"))),
    ]
    if "bits_per_byte" in made:
        rows.append(("bits per byte", *(_figure(made[n]) for n in ("source_bits_per_byte", "bits_per_byte"))))
    table(f"{config.source} in {config.quantize}, {config.method}", ("figure", "before", "after"), rows)
    say(f"relative error of a layer: half are below {median:.3g}; the largest is that of {worst}, {most:.3g}")


def _bits_per_byte(model: Model, tokenizer: Tokenizer, texts: list[str]) -> float | None:
    if model.config.kind != "decoder":
        raise UserError("bits per byte are of models that predict the next token; leave --evaluate out")
    return summarize(score_documents(cast(Transformer, model), tokenizer, texts)).bits_per_byte


def _figure(value: float | None) -> str:
    return "the tokenizer changes the text" if value is None else f"{value:.4f}"


VERB = Verb(QuantizedConvertConfig, run, "source")
