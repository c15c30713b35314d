"""The public call: one set on one suite."""
