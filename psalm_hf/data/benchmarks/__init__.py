"""Published datasets, a module per family, and their label lists."""
