"""What is wrong with images and masks, before and during a run."""
