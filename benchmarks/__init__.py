"""Benchmarks: ratios measured in one run, against references written in this folder.

Run by `make bench`.
"""
