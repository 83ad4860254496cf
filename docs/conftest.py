"""Which files of the documentation hold examples to test: pages that are written, no code of it."""

collect_ignore_glob = ["*.py", "_*", "reference/api/*", "reference/commands/*"]
