"""Passes: one file, one idea; mlc finds them by entry point."""
