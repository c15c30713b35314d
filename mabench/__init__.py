"""mabench: the benchmark for condensed datasets. A set goes in, a frozen examiner trains every evaluator on it."""

__version__ = "0.1.0"
