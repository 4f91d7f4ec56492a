"""Toy scenes: drawn by code, as many as wanted."""
