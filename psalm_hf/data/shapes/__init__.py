"""The shapes world: drawn images with every kind of prompt, without files."""
