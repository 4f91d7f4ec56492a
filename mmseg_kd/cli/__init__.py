"""Command line tools: one module a command, each with `main(args=None) -> exit code`."""
