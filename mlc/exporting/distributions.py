"""``torch.distributions`` in forward: a trace does not ask whether their parameters are legal, which only raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Make distributions inside the block without a look at the values of their parameters, as ``python -O`` does."""
    checks = Distribution._validate_args  # noqa: SLF001 - there is no public way to ask
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(checks)
