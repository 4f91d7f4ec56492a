"""What a config says, read and checked; no network is built."""
