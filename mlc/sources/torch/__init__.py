"""Torch modules and programs as Originals: how they run, and how they are left as they were."""
