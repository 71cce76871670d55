"""A pickle that does something: it makes a file when it is unpickled."""

from __future__ import annotations

from pathlib import Path


def plant(marker: Path) -> None:
    marker.touch()


class Planted:
    """Makes the file ``marker`` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return plant, (self.marker,)
