"""Trials of the whole service with real processes: killed, started at once, cut off, with clocks that jump.

Each is a program of its own with a `make` target; docs/reliability.md has their figures.
"""
