"""Many images: folders of them through one prompt, in one process, in several, or as a Ray Data pipeline."""
