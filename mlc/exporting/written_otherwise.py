"""Functions that a trace takes wrongly, or for one size alone, and what they are replaced by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.backends import opt_einsum
from torch.utils import _device

from mlc.exporting.adaptive import adaptive_pooling
from mlc.exporting.attention import over_four_axes
from mlc.exporting.bags import bags_as_sums
from mlc.exporting.branches import compiled_branches
from mlc.exporting.covariances import covariances
from mlc.exporting.distances import distances
from mlc.exporting.distributions import unchecked_distributions
from mlc.exporting.fourier import inverse_by_products
from mlc.exporting.grids import grids
from mlc.exporting.layouts import without_layouts
from mlc.exporting.lengths import lengths_of_tensors
from mlc.exporting.multi_head import masks_as_given, over_heads
from mlc.exporting.pooling import pooling_rows
from mlc.exporting.quotients import quotients_of_sizes
from mlc.exporting.rearranging import rearranging
from mlc.exporting.recurrences.elman import plain_layers
from mlc.exporting.recurrences.packed import packed_sequences
from mlc.exporting.recurrences.projected import projected_layers
from mlc.exporting.replaced import replaced
from mlc.exporting.roots import roots_of_sizes
from mlc.exporting.settled import settled
from mlc.exporting.sizes_in_tensors import sizes_in_tensors
from mlc.exporting.spectrograms import frames_added_up
from mlc.exporting.traces import whole_traces
from mlc.exporting.windows import windows


@contextmanager
def written_otherwise(module: nn.Module) -> Iterator[None]:
    """Trace the module inside the block by functions that compute the same."""
    replacements = (
        over_four_axes(),
        over_heads(),
        masks_as_given(),
        pooling_rows(),
        adaptive_pooling(),
        distances(),
        bags_as_sums(),
        grids(),
        roots_of_sizes(),
        sizes_in_tensors(),
        compiled_branches(),
        covariances(),
        plain_layers(),
        projected_layers(),
        packed_sequences(),
        inverse_by_products(),
        frames_added_up(),
        rearranging(),
        settled(),
        windows(),
        whole_traces(),
        quotients_of_sizes(),
        lengths_of_tensors(module),
        unchecked_distributions(),
        without_layouts(),
        replaced(opt_einsum, "enabled", lambda _own: False),  # it asks for the sizes, and ONNX has no such order
    )
    _let_torch_learn()
    with ExitStack() as stack:
        for replacement in replacements:
            stack.enter_context(replacement)
        yield


def _let_torch_learn() -> None:
    """Let torch make its tables of functions, which it keeps, while each of them is what it is called.

    The second says what ``with torch.device(...)`` is for: without torch.tensor in it, transformers would take a model
    without weights for one with them, and load others with buffers that nobody filled.
    """
    from torch._dynamo import trace_rules  # torch.export imports it, and not much else does

    trace_rules.get_torch_obj_rule_map()
    _device._device_constructors()  # noqa: SLF001 - nothing public makes it
