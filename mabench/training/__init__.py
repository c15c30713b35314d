"""The loop that trains one evaluator and tests it."""
