"""Other people's formats: models as folders that transformers, vLLM and llama.cpp's converter open, and GGUF files.

In: a model and the folder of its tokenizer. Out: a folder with `config.json`, weights as safetensors, the tokenizer and
generation settings; and back. Reading order: `translate` and `families` (settings), `names` (tensors), `weights`
(files), `huggingface`; then `gguf`, `download` and `convert`.
"""

from fromzero.interop.huggingface import load_any, load_model, save_model
from fromzero.interop.weights import save_tensors

__all__ = ["load_any", "load_model", "save_model", "save_tensors"]
