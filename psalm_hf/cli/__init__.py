"""The `psalm` command: one module per verb, each a thin caller of the library."""
