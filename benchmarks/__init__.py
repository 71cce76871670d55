"""Measurements of mlc itself: ``python -m benchmarks.NAME`` measures one thing and writes ``results/NAME.json``."""
