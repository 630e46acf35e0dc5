"""Fuzzing of everything that reads bytes from a network: one target per format, a corpus, and how much it reaches.

A target is a module with `run(data) -> set[str]`: it feeds the bytes to the real decoders, says in a few words what
came of them, and lets through every exception that a decoder may not raise. `python -m tests.fuzz TARGET` hands it to
libFuzzer; the tests replay the corpus through the same function.
"""
