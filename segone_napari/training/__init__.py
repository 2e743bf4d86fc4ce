"""Losses and training of systems."""
