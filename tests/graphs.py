"""Small graphs for tests: from text, run without optimizations, and handed to the verified line of passes."""

import re
import warnings

import numpy as np
import onnx_ir as ir

from mlc.artifact import Artifact, Origin
from mlc.compare import Reference
from mlc.graph_pass import Context
from mlc.rewriting import rewrite
from mlc.rewriting.sessions import Runner
from mlc.types import Capabilities, Dim, InputSpec, OutputSpec, Signature

ANY_CPU = Capabilities("any x86 or ARM CPU")


def graph(text):
    """A model from ONNX text; the header of IR version 10 and opset 20 is put before it where there is none."""
    header = "" if text.lstrip().startswith("<") else '<ir_version: 10, opset_import: ["":20]>\n'
    return ir.from_onnx_text(header + text)


def text(model):
    """ONNX text of a model, as golden files keep it."""
    return ir.to_onnx_text(model).rstrip() + "\n"


def read_by(body, **arrays):
    """Those of the arrays whose names a text of nodes reads: a graph with others would have weights to clean up."""
    words = set(re.split(r"[(),\s]+", body))
    return {name: np.asarray(array) for name, array in arrays.items() if name in words}


def apply(subject, model, allow=lambda site: True):
    """Apply a pass to a clone: (after, change)."""
    after = model.clone()
    return after, subject.apply(after, Context(ANY_CPU, allow=allow))


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def answers(model, feeds, workspace):
    return Runner(workspace).run(model, feeds)


def same_numbers(before, after, feeds, workspace, tolerance=0.0):
    """Assert that two graphs give the same outputs; tolerance is over the rms of the numbers, 0 asks for all bits."""
    expected, actual = (answers(model, feeds, workspace) for model in (before, after))
    assert list(expected) == list(actual)
    for name, array in expected.items():
        assert array.dtype == actual[name].dtype
        assert array.shape == actual[name].shape
        if tolerance:
            finite = np.isfinite(array)
            np.testing.assert_array_equal(array[~finite], actual[name][~finite])
            numbers, others = (each[finite].astype(np.float64) for each in (array, actual[name]))
            scale = np.sqrt(np.mean(np.square(numbers))) if numbers.size else 1
            assert np.abs(numbers - others).max(initial=0) <= tolerance * scale
        else:
            assert array.tobytes() == actual[name].tobytes()


def references(model, feeds, workspace):
    """Kept answers: one for each of several feeds, sizes named after their place."""
    return tuple(
        Reference({"batch": index + 2}, feed, answers(model, feed, workspace)) for index, feed in enumerate(feeds)
    )


def artifact(model):
    """An artifact over a model whose first axes are the one named dim."""
    inputs = tuple(
        InputSpec(
            value.name,
            value.dtype.numpy().name,
            tuple(Dim(dim, dim) if isinstance(dim, int) else Dim(1, 64, name="batch") for dim in value.shape),
        )
        for value in model.graph.inputs
        if value.const_value is None
    )
    outputs = tuple(OutputSpec(value.name, value.dtype.numpy().name, ()) for value in model.graph.outputs)
    return Artifact({"model": model}, Signature(inputs, outputs), Origin("test", "", "", 20, {"batch": 2}))


def line(model, passes, feeds, workspace, **options):
    """Run passes, verified: (after, steps)."""
    kept = references(model, feeds, workspace)
    done = rewrite(
        artifact(model), passes, references=kept, workspace=workspace, capabilities=ANY_CPU, **options
    )  # fmt: skip
    return done.model, done.steps


def ops(model):
    return [node.op_type for each in model.graphs() for node in each]


def torch_model(module, example, *, fold=False):
    """What torch exports; ``fold=False`` leaves out torch's own optimizations, as other people's files come."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), example, dynamo=True, opset_version=20, optimize=fold, verbose=False,
            dynamic_shapes=tuple({0: torch.export.Dim("batch", min=1, max=64)} for _ in example),
            input_names=[f"x{index}" for index in range(len(example))], output_names=["y"],
        )  # fmt: skip
    assert program is not None
    return program.model
