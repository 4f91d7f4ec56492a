"""The teacher: frozen, fed in its own way, run no further than needed."""
