"""Kernels: the hot loops, compiled by Numba, each with a plain reference in the room that uses it.

They take and return NumPy arrays only, hold no state, and release the interpreter's lock, so that threads run them side
by side. Numba takes half a second to start, so a kernel is imported where it is called. The first call on a machine
compiles, and keeps the machine code beside the source (or in the user's cache folder where that can't be written).

Read in this order: compiling, flags and scan (text to pre-tokens), words and count (different pre-tokens), spelling,
pairs and learn (which to merge), merge_pairs and merge (pre-tokens to ids), tree and match (the same without merging),
viterbi (the likeliest pieces); shingles and minhash (words, and texts that share most of them), text (what the quality
rules ask about), ngrams (models of words and characters); lanes (sixteen numbers at once), products (weights by few
vectors), panels (by many), narrow (of narrow numbers), decoding (a step of a decoder), draw (an id from its logits).
"""
