"""From a config to a run: what the commands and `distill` share."""
