"""G-VBSM and, by switches, SRe2L; `condense.py` is the algorithm."""
