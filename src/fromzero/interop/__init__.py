"""Other people's formats: models as folders that transformers, vLLM and llama.cpp's converter open as they are.

In: a Transformer and the folder of its tokenizer. Out: a folder with `config.json`, `model.safetensors`, the tokenizer
and generation settings; and back. Reading order: `names` (whose tensor is called what), `huggingface`.
"""

from fromzero.interop.huggingface import load_any, load_model, save_model
from fromzero.interop.weights import save_tensors

__all__ = ["load_any", "load_model", "save_model", "save_tensors"]
