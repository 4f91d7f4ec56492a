"""One page about one or several trainings: what they were, what they reached, how to repeat them."""
