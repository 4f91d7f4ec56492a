"""Many runs: methods over seeds, with the same budget, and one config with options swept."""
