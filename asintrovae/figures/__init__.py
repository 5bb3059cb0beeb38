"""Plots and widgets of the book."""
