"""Losses of interpolated maps without the maps: in pieces, or by Triton."""
