"""Whether a method pays: several of them over seeds, against a baseline with the same budget."""
