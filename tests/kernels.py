"""Numbers of a rewrite on the target that has the kernels: it is judged where it will run."""

import numpy as np

from mlc.rewriting.sessions import Runner
from tests.targets import usable


def same_numbers_on(target, before, after, feeds, workspace, tolerance):  # noqa: PLR0917 - as same_numbers has them
    """Assert that two graphs give the same outputs on a target, over the rms; skip where the target does not run."""
    runner = Runner(workspace, usable(target)[0])
    expected, actual = (runner.run(model, feeds) for model in (before, after))
    assert list(expected) == list(actual)
    for name, array in expected.items():
        assert array.shape == actual[name].shape
        assert np.abs(array - actual[name]).max() <= tolerance * np.sqrt(np.mean(np.square(array)))
