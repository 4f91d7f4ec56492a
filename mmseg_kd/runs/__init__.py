"""What a work dir holds: logs, curves, config."""
