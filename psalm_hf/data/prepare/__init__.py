"""Files that are derived from datasets: a module for each, with a function `prepare`.

Importing a module is cheap, so that `psalm prepare DATASET --help` is; its functions import what they need.
"""
