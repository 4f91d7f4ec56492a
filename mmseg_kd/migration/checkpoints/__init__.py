"""Checkpoints of other projects, their keys brought to mmseg's names."""
