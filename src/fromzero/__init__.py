"""fromzero (从零): a folder of raw documents in, a language model you can talk to out.

Read the rooms in the order in which a document travels through them:
corpus -> tokenizer -> dataset -> model -> interop -> inference -> evaluation -> training -> tuning -> explain.
Stages talk through folders on disk (`artifact`); the command line (`commands`) and recipes (`recipe`) chain them.
"""

__version__ = "0.1.0"
