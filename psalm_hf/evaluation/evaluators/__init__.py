"""Evaluators: outputs become predictions, predictions are compared with targets. One per kind of prediction."""
