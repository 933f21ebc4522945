"""Evaluation: predict, post-process, measure."""
