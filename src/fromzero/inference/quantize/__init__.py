"""Weights -> few bits: round to nearest, GPTQ and AWQ.

In: a model in fp32, QuantizeConfig, ids of text for the methods that look at inputs. Out: the same model with its
matrices in 4 or 8 bits, and how near each layer is. Reading order: `model/quantized.py` (how weights are kept),
`model` (which, in what order), `gptq`, `awq`, `convert` (`fromzero convert --quantize`).
"""

from fromzero.inference.quantize.model import LayerReport, QuantizeConfig, quantize_model

__all__ = ["LayerReport", "QuantizeConfig", "quantize_model"]
