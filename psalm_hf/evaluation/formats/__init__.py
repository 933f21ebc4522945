"""Submission formats: files in which benchmarks take predictions, written and read."""
