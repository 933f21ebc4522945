"""Submission formats: the files in which benchmarks take answers, written and read."""
