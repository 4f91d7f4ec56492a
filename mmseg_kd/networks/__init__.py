"""Any network, whoever made it: built, run to its taps, looked at."""
