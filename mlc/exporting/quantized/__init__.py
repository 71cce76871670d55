"""Quantizers that a module brings with it, written as QDQ and judged."""
