"""Configs of training, launchers and engines; installed as `psalm_hf.configs`."""
