"""One page about one or several trainings: what they reached and how they compare."""
