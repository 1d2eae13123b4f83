"""`fromzero convert MODEL --output PLACE`: to the formats of transformers and llama.cpp, and from them."""

from fromzero.commands import Verb
from fromzero.console import say
from fromzero.interop.convert import BOUNDS, ConvertConfig, convert


def run(config: ConvertConfig) -> None:
    """Convert, and say how near the result is."""
    made = convert(config)
    say(
        f"{config.output}: {made.tensors} tensors, read back: weights differ by at most {made.difference:.3g} of the "
        f"largest of their tensor ({config.dtype} explains {BOUNDS[config.dtype]:.3g}), logits by {made.logits:.3g}"
    )


VERB = Verb(ConvertConfig, run, "source")
