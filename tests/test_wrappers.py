"""Modules as people wrap, call and change them: exported as they compute, left as they were, lost state is said."""

import argparse
import dataclasses
import functools
import io
import logging
import sys
import types
from collections import OrderedDict, UserDict, defaultdict
from contextlib import redirect_stderr
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from mlc.errors import SourceError
from mlc.sources.load import load
from mlc.sources.structure import fill, leaves, template
from tests.exporting import exported

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def told(made, part):
    return any(part in note for note in made.artifact.origin.notes)


def answers(module, *args, **kwargs):
    """What the module itself gives, in evaluation mode."""
    module.eval()
    with torch.no_grad():
        return module(*args, **kwargs)


def refused(module, example, *specs, workspace=None):
    """The error of a load or export that has to fail: one sentence and a hint, on one screen."""
    with pytest.raises(SourceError) as caught:
        load(module, (), example) if workspace is None else exported(workspace, module, example, *specs)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    assert caught.value.hint
    return f"{caught.value.message}; {caught.value.hint}"


# wrappers


class Passes(nn.Module):
    """Hands on whatever it is given, as DistributedDataParallel and its like do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def with_compiled_forward():
    module: Any = layers()
    module.forward = torch.compile(module.forward)
    return module


def with_compiled_child():
    module = nn.Sequential(layers(), nn.Linear(3, 2))
    module[0].compile()
    return module


def compiled(module: nn.Module, **options) -> nn.Module:
    made: Any = torch.compile(module, **options)
    assert isinstance(made, nn.Module)
    return made


WRAPPED: dict[str, Any] = {
    "DataParallel": lambda: nn.DataParallel(layers()),
    "DataParallel inside": lambda: nn.Sequential(nn.DataParallel(layers()), nn.Linear(3, 2)),
    "torch.compile": lambda: torch.compile(layers()),
    "torch.compile inside": lambda: nn.Sequential(compiled(layers()), nn.Linear(3, 2)),
    "DataParallel of torch.compile": lambda: nn.DataParallel(compiled(layers())),
    "module.compile()": with_compiled_child,
    "a compiled forward": with_compiled_forward,
    "a wrapper of its own": lambda: Passes(Passes(layers())),
    "an average of weights": lambda: torch.optim.swa_utils.AveragedModel(layers()),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapper_computes_what_is_inside_and_its_input_has_its_name(workspace, name):
    module = WRAPPED[name]()
    stderr = io.StringIO()
    with redirect_stderr(stderr):
        made = exported(workspace, module, X)
    assert made.inputs == ["input"]
    assert stderr.getvalue() == ""
    with torch.compiler.set_stance("force_eager"):
        np.testing.assert_allclose(
            made.original.run({"input": X.numpy()})["output"], answers(module, X).numpy(), rtol=1e-5, atol=1e-6
        )


def test_nothing_is_compiled(workspace):
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    exported(workspace, nn.Sequential(compiled(layers(), backend=backend)), X)
    assert graphs == []


def test_tied_weights_through_wrappers_are_stored_once(workspace):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    made = exported(workspace, nn.DataParallel(compiled(Tied())), torch.arange(6).reshape(2, 3))
    sizes = [
        value.const_value.size for value in made.model.graph.initializers.values() if value.const_value is not None
    ]
    assert sizes.count(400) == 1


def test_torchscript_inside_is_named():
    with pytest.warns(DeprecationWarning, match="jit"):
        script = torch.jit.script(nn.Linear(6, 3))
    assert "0 is TorchScript inside of a Python module" in refused(nn.Sequential(script), X)


# how they are called


class Keywords(nn.Module):
    def forward(self, x, *, scale, shift=None):
        return x * scale if shift is None else x * scale + shift


class Anything(nn.Module):
    def forward(self, first, *others, flag=True, **named):
        return first + sum(others) + sum(named.values()) if flag else first


class Optional(nn.Module):
    def forward(self, x, mask=None, times=3, mode="twice"):
        x = x * times if mode == "twice" else x
        return x if mask is None else x * mask


def with_partial_forward():
    module: Any = Optional()
    module.forward = functools.partial(module.forward, times=5)
    return module


def with_a_method():
    module: Any = layers()
    module.forward = types.MethodType(lambda self, x: self[2](self[1](self[0](x))) * 2, module)
    return module


CALLED = {
    "keywords alone": (Keywords, {"x": X, "scale": X}, ["x", "scale"]),
    "an optional keyword": (Keywords, {"x": X, "scale": X, "shift": X}, ["x", "scale", "shift"]),
    "a variable number": (Anything, (X, X + 1, X + 2), ["first", "others.0", "others.1"]),
    "any keywords": (Anything, {"first": X, "b": X + 1, "a": X + 2}, ["first", "b", "a"]),
    "an optional input, absent": (Optional, (X,), ["x"]),
    "an optional input, None": (Optional, (X, None), ["x"]),
    "an optional input, there": (Optional, (X, X + 1), ["x", "mask"]),
    "a partial forward": (with_partial_forward, (X,), ["x"]),
    "a forward put in its place": (with_a_method, (X,), ["x"]),
}


@pytest.mark.parametrize("name", CALLED)
def test_every_kind_of_parameter(workspace, name):
    make, example, names = CALLED[name]
    module = make()
    made = exported(workspace, module, example)
    assert made.inputs == names
    called = answers(module, **example) if isinstance(example, dict) else answers(module, *example)
    np.testing.assert_allclose(made.original.run(made.original.example)["output"], called.numpy(), rtol=1e-6, atol=1e-6)


def test_what_is_fixed_is_said(workspace):
    made = exported(workspace, Optional(), (X, X, 5, "once"))
    assert told(made, "the argument times = 5 is fixed in the model")
    assert told(made, "the argument mode = 'once' is fixed in the model")


def test_a_builtin_as_forward():
    module = nn.Module()
    module.forward = torch.relu
    assert load(module, (), X).signature.inputs[0].name == "args.0"


# nested inputs and outputs


class Pair(NamedTuple):
    first: Any
    second: Any


class Typed(NamedTuple):
    a: Any
    b: Any = None


@dataclasses.dataclass
class Plain:
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: Any
    b: Any = None


@dataclasses.dataclass(kw_only=True, slots=True)
class Slotted:
    a: Any


@dataclasses.dataclass
class Checked:
    """Looks at what it is given, and computes a field of its own."""

    a: Tensor
    size: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        assert self.a.ndim == 2
        self.size = self.a.shape[1]


def containers(parts):
    return st.one_of(
        st.lists(parts, min_size=1, max_size=3),
        st.lists(parts, min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abcd"), parts, min_size=1, max_size=3),
        st.dictionaries(st.sampled_from("abcd"), parts, min_size=1, max_size=3).map(OrderedDict),
        st.dictionaries(st.sampled_from("abcd"), parts, min_size=1, max_size=3).map(UserDict),
        st.dictionaries(st.sampled_from("abcd"), parts, min_size=1, max_size=3).map(lambda d: defaultdict(list, d)),
        st.builds(Pair, parts, parts),
        st.builds(Typed, parts, parts),
        st.builds(Plain, parts, parts),
        st.builds(Frozen, parts),
        st.builds(lambda part: Slotted(a=part), parts),
    )


NESTED = containers(
    st.recursive(
        st.integers(0, 9).map(lambda number: torch.full((2,), float(number))) | st.sampled_from([None, 3, "t"]),
        containers,
        max_leaves=6,
    )
)


@given(NESTED)
@settings(max_examples=150, deadline=None)
def test_a_structure_is_rebuilt_with_other_tensors_in_it(value):
    tensors: dict[str, Tensor] = {}
    constants: dict[str, Any] = {}
    tree = template(value, "in", tensors, constants)
    others = {name: tensor + 10 for name, tensor in tensors.items()}
    filled = fill(tree, others)
    assert type(filled) is type(value)
    found, wanted = dict(leaves(filled, "in")), dict(leaves(value, "in"))
    assert list(found) == list(wanted)
    for name, leaf in wanted.items():
        if isinstance(leaf, Tensor):
            torch.testing.assert_close(found[name], leaf + 10)
        else:
            assert found[name] == leaf


class Sums(nn.Module):
    def forward(self, batch):
        tensors = [leaf for _, leaf in leaves(batch) if isinstance(leaf, Tensor)]
        return sum(tensor * (place + 1) for place, tensor in enumerate(tensors))


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        (Plain(X, [{"w": X + 1}, (X + 2,)]), ["batch.a", "batch.b.0.w", "batch.b.1.0"]),
        (Frozen(X, {"c": [X + 1]}), ["batch.a", "batch.b.c.0"]),
        (Slotted(a=Pair(X, X + 1)), ["batch.a.first", "batch.a.second"]),
        (Checked(X), ["batch.a"]),
        (Typed(X, None), ["batch.a"]),
    ],
    ids=["dataclass", "frozen", "slots", "checked", "named tuple"],
)
def test_nested_inputs(workspace, batch, names):
    made = exported(workspace, Sums(), (batch,))
    assert made.inputs == names
    np.testing.assert_allclose(
        made.original.run(made.original.example)["output"], answers(Sums(), batch).numpy(), rtol=1e-6
    )


def test_a_field_that_is_no_tensor_is_fixed_and_said(workspace):
    assert told(exported(workspace, Sums(), (Checked(X),)), "the argument batch.size = 6 is fixed in the model")


def test_two_tensors_of_one_name():
    assert "two tensors of the example are called a.b" in refused(Sums(), ({"a": {"b": X}, "a.b": X + 1},))


class Returns(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.form = nn.Linear(6, 3), form

    def forward(self, x):
        return self.form(self.layer(x))


def model_output(y):
    outputs = pytest.importorskip("transformers.modeling_outputs", reason="transformers is not installed")
    return outputs.BaseModelOutput(last_hidden_state=y, hidden_states=(y, y + 1))


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda y: Frozen(y, (y, {"k": y + 1})), ["a", "b.0", "b.1.k"]),
        (lambda y: Plain(y, None), ["a"]),
        (Typed, ["a"]),
        (lambda y: UserDict(a=y, b=[y, [y]]), ["a", "b.0", "b.1.0"]),
        (lambda y: [y], ["output.0"]),
        (model_output, ["last_hidden_state", "hidden_states.0", "hidden_states.1"]),
    ],
    ids=["frozen", "a None", "named tuple", "user dict", "a list of one", "transformers"],
)
def test_nested_outputs(workspace, form, names):
    assert exported(workspace, Returns(form), X).outputs == names


def test_outputs_that_are_no_tensors_are_left_out_and_said(workspace):
    made = exported(workspace, Returns(lambda y: {"y": y, "n": 3, "s": "t", "none": None, "size": y.shape}), X)
    assert made.outputs == ["y"]
    assert told(made, "outputs that are no tensors are left out: n (int), s (str), size.0 (int), size.1 (int)")


# state


class Counts(nn.Module):
    """Keeps what it has seen in every place that there is."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.total = 0
        self.calls: list[int] = []
        self.cache: dict[str, Tensor] = {}
        self.last = None

    def forward(self, x):
        self.seen += 1
        self.total += 1
        self.calls.append(self.total)
        if "sum" not in self.cache:
            self.cache["sum"] = x.sum()
        if self.last is None:
            self.last = x.detach()
        return x + self.seen + self.cache["sum"] + self.last


def test_state_of_every_kind_is_frozen_and_said(workspace):
    module = Counts()
    made = exported(workspace, module, X)
    assert told(made, "forward changes cache, calls, last, seen and 1 more: frozen as it is")
    assert (float(module.seen), module.total, module.calls, module.cache, module.last) == (0, 0, [], {}, None)
    twice = [made.original.run({"x": array.numpy()})["output"] for array in (X, X + 1, X)]
    np.testing.assert_array_equal(twice[0], twice[2])


class Writes(nn.Module):
    """Writes into tensors that are neither buffers nor parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(1, 6)
        self.layers = [torch.zeros(6), torch.full((6,), torch.nan)]

    def forward(self, x):
        y = x + self.last + self.layers[0]
        self.last[:] = x[:1]
        self.layers[0] += 1
        return y


def test_tensors_that_are_written_into_are_put_back(workspace):
    module = Writes()
    original = load(module, (), X)
    assert "forward changes last, layers: frozen as it is" in original.notes[-1]
    assert not module.last.any()
    assert not module.layers[0].any()
    np.testing.assert_array_equal(original.run({"x": X.numpy()})["output"], X.numpy())
    assert "self.register_buffer('last', tensor)" in refused(module, X, workspace=workspace)


@pytest.mark.parametrize(
    "write", [lambda w: w.data.clamp_(-0.1, 0.1), lambda w: w.mul_(0.5)], ids=["past autograd", "by autograd"]
)
def test_a_call_that_changes_weights_is_refused(workspace, write):
    class Clips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            write(self.linear.weight)
            return self.linear(x)

    assert "a call of Clips changes its weights linear.weight" in refused(Clips(), X, workspace=workspace)


def test_a_trace_leaves_nothing_of_itself_in_the_module(workspace):
    """A cache by length that a trace fills would hold tensors without data."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables: dict[int, Tensor] = {}

        def forward(self, x):
            length = x.shape[1]
            if length not in self.tables:
                self.tables[length] = torch.arange(length, dtype=torch.float32)
            return x + self.tables[length]

    module = Positions()
    exported(workspace, module, X)
    assert module.tables == {}
    assert torch.equal(module(X), X + torch.arange(6.0))


class Nests(nn.Module):
    """Keeps what it computed in containers and objects inside of each other."""

    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Any] = [[None], {"a": {}}]
        self.kept = types.SimpleNamespace(last=None, calls=0)
        self.register_buffer("memory", torch.zeros(1, 6))

    def forward(self, x):
        y = x + self.memory.mean(0)
        if self.maps[0][0] is not None:
            y = y + self.maps[0][0].sum()
        self.maps[0][0] = self.maps[1]["a"]["x"] = self.kept.last = y
        self.kept.calls += 1
        self.memory.data = torch.cat([self.memory, y])
        return y


def test_nothing_of_a_trace_stays_in_what_lies_deeper(workspace):
    module = Nests()
    made = exported(workspace, module, X, "x=float32[batch=1..5,6]")
    assert told(made, "forward changes kept, maps, memory: frozen as it is")
    assert module.maps == [[None], {"a": {}}]
    assert vars(module.kept) == {"last": None, "calls": 0}
    assert torch.equal(module.memory, torch.zeros(1, 6))


def test_nothing_of_a_trace_stays_in_what_hooks_collect(workspace):
    class Recorder:
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def keep(self, _module, _inputs, output):
            self.seen.append(output)

    class Called(Recorder):
        __call__ = Recorder.keep

    def append(store, _module, _inputs, output):
        store.append(output)

    module, by_name = layers(), dict[str, Tensor]()
    recorder, called, given, defaulted = Recorder(), Called(), list[Tensor](), list[Tensor]()
    module[0].register_forward_hook(lambda _module, _inputs, output: by_name.update(first=output))
    module[2].register_forward_hook(recorder.keep)
    module[2].register_forward_hook(called)
    module[2].register_forward_hook(functools.partial(append, given))
    module[2].register_forward_hook(lambda _module, _inputs, output, store=defaulted: store.append(output))
    module.eval()(X)
    before = by_name["first"]
    assert not told(exported(workspace, module, X), "forward changes")
    assert by_name["first"] is before
    assert [len(seen) for seen in (recorder.seen, called.seen, given, defaulted)] == [1, 1, 1, 1]


class Store(dict[str, Tensor]):
    """A dict of the user's."""


class Kept(nn.Module):
    """Writes into tensors wherever they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(k=torch.zeros(1, 6))
        self.many = [torch.zeros(1, 6) for _ in range(1001)]
        self.log = logging.getLogger("mlc.test")

    def forward(self, x):
        self.log.debug("called")
        self.store["k"].add_(1)
        self.many[-1].add_(1)
        return x + self.store["k"] + self.many[-1]


def test_tensors_in_containers_of_any_kind_are_put_back():
    module = Kept()
    original = load(module, (), X)
    assert original.notes[-1].startswith("forward changes many, store: frozen as it is")
    assert not module.store["k"].any()
    assert not module.many[-1].any()


def test_what_arguments_of_a_program_hold_is_put_back_and_no_input():
    class Steps(nn.Module):
        table: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.options = argparse.Namespace(step=0)
            self.register_buffer("table", torch.arange(4.0).view(2, 2))

        def forward(self, x, options=None):
            self.options.step += 1
            self.table.t_()
            return x + self.table.sum() + (0 if options is None else options.scale)

    module = Steps()
    original = load(module, (), X)
    assert original.notes[-1].startswith("forward changes options, table: frozen as it is")
    assert module.options.step == 0
    assert torch.equal(module.table, torch.arange(4.0).view(2, 2))
    given = (X, argparse.Namespace(scale=torch.ones(1)))
    assert "options of the example is a Namespace, whose tensors would be constants" in refused(Steps(), given)


def test_an_ordered_dict_that_is_put_back_is_whole():
    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = OrderedDict[str, int](a=1, b=2)

        def forward(self, x):
            self.kept["c"] = self.kept.pop("a")
            return x + 1

    module = Notes()
    load(module, (), X)
    assert [*module.kept.items()] == [("a", 1), ("b", 2)]
    module.kept.move_to_end("a")
    assert [*reversed(module.kept)] == ["a", "b"]


def test_a_buffer_that_is_given_the_memory_of_a_weight_gets_its_own_again():
    class Shares(nn.Module):
        memory: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))
            self.register_buffer("memory", torch.zeros(6))

        def forward(self, x):
            y = x + self.memory
            self.memory.data = self.weight.data
            return y

    module = Shares()
    load(module, (), X)
    assert not module.memory.any()
    assert bool((module.weight == 1).all())


def test_a_weight_that_is_given_other_data_in_forward_is_named(workspace):
    class Held(nn.Linear):
        def forward(self, x):
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 100.0)
            return super().forward(x)

    said = refused(Held(6, 3), X, workspace=workspace)
    assert "into the place of a weight or constant, as weight.data = ... does" in said


def test_an_object_with_tensors_in_the_example_is_refused():
    class Cache:
        def __init__(self) -> None:
            self.layers = [types.SimpleNamespace(keys=torch.zeros(1, 6))]

    class Cached(nn.Module):
        def forward(self, x, cache):
            return x + cache.layers[0].keys

    assert "cache of the example is a Cache, whose tensors would be constants" in refused(Cached(), (X, Cache()))


@pytest.mark.parametrize("write", [lambda x: x.add_(1), lambda x: x[:, 0].zero_()], ids=["whole", "a slice"])
def test_an_input_that_forward_writes_into(workspace, write):
    class Writes(nn.Module):
        def forward(self, x):
            write(x)
            return x * 2

    x = X.clone()
    made = exported(workspace, Writes(), x)
    assert told(made, "forward writes into its input x: the exported model leaves what it is given alone")
    assert torch.equal(x, X)


# evaluation mode


class Merges(nn.Linear):
    """Adds a correction to its weight for evaluation, and takes it away for training, as adapters do."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(6, 4)
        self.low, self.high = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(4, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode is self.merged:
            self.weight.data += (-1 if mode else 1) * (self.high @ self.low)
            self.merged = not mode
        return self

    def forward(self, x):
        y = super().forward(x)
        return y if self.merged else y + x @ self.low.T @ self.high.T


class Fuses(nn.Module):
    """Becomes another module for evaluation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def eval(self):
        super().eval()
        if hasattr(self, "right"):
            fused = nn.Linear(6, 4)
            fused.weight.data = self.left.weight.data + self.right.weight.data
            fused.bias.data = self.left.bias.data + self.right.bias.data
            self.left = fused
            del self.right
        return self

    def forward(self, x):
        return self.left(x) + self.right(x) if hasattr(self, "right") else self.left(x)


@pytest.mark.parametrize("make", [lambda: nn.Sequential(Merges()), Fuses], ids=["merges", "fuses"])
def test_what_eval_does_of_its_own_is_exported_and_undone(workspace, make):
    module = make().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    made = exported(workspace, module, X)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(part.training for part in module.modules())
    assert not told(made, "forward changes")
    np.testing.assert_allclose(
        made.original.run(made.original.example)["output"], answers(module, X).numpy(), rtol=1e-4, atol=1e-5
    )


def test_a_training_mode_that_eval_does_not_reach_is_named():
    class Unmoved(nn.Sequential):
        def eval(self):
            return self

    message = refused(Unmoved(nn.Linear(6, 4), nn.BatchNorm1d(4)), X)
    assert "eval() of Unmoved leaves the BatchNorm1d 1 in training mode" in message

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def train(self, mode=True):
            super().train(mode)
            self.drop.train()
            return self

        def forward(self, x):
            return self.drop(x)

    assert "leaves the Dropout drop in training mode" in refused(Drops().eval(), X)


@pytest.mark.parametrize("enabled", [None, True, False])
def test_gradients_are_off_in_the_trace_as_they_are_in_a_run(workspace, enabled):
    class Asks(nn.Module):
        def forward(self, x):
            if enabled is None:
                return x * (2 if torch.is_grad_enabled() else 3)
            with torch.set_grad_enabled(enabled):
                return x * (2 if torch.is_grad_enabled() else 3)

    made = exported(workspace, Asks(), X)
    factor = 2 if enabled else 3
    np.testing.assert_array_equal(made.original.run({"x": X.numpy()})["output"], factor * X.numpy())


def test_modes_are_put_back_part_by_part(workspace):
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).train()
    module[1].eval()
    exported(workspace, module, X)
    assert [part.training for part in module.modules()] == [True, True, False]


# hooks, and weights that are computed


def hooked():
    module = layers()
    module[0].register_forward_hook(lambda _module, _inputs, output: output * 2)
    module[2].register_forward_hook(lambda _module, _args, _kwargs, output: output - 1, with_kwargs=True)
    module.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1,))
    module[0].register_full_backward_hook(lambda *_: None)
    return module


def pruned():
    module = layers()
    prune.l1_unstructured(module[0], "weight", 0.5)
    prune.random_structured(module[2], "weight", 0.3, dim=0)
    return module


def normalized(make):
    torch.manual_seed(0)
    return nn.Sequential(make(nn.Linear(6, 4)))


COMPUTED = {
    "hooks": hooked,
    "pruned": pruned,
    "weight_norm": lambda: normalized(weight_norm),
    "spectral_norm": lambda: normalized(spectral_norm),
    "parametrized by norm": lambda: normalized(parametrizations.weight_norm),
    "parametrized spectral": lambda: normalized(parametrizations.spectral_norm),
    "parametrized orthogonal": lambda: normalized(parametrizations.orthogonal),
}


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_hooks_run_and_computed_weights_are_no_state(workspace, name):
    module = COMPUTED[name]()
    made = exported(workspace, module, X)
    assert not told(made, "forward changes")
    np.testing.assert_allclose(
        made.original.run({"input": X.numpy()})["output"], answers(module, X).numpy(), rtol=1e-5, atol=1e-6
    )


def test_a_parametrized_weight_is_stored_by_its_own_name(workspace):
    made = exported(workspace, COMPUTED["parametrized orthogonal"](), X)
    assert set(made.model.graph.initializers) == {"0.weight", "0.bias"}


# what cannot be


class Sparse(nn.Module):
    """Multiplies with a matrix that is mostly zeros."""

    def __init__(self, held):
        super().__init__()
        if held is not None:
            self.register_buffer("held", held)

    def forward(self, x):
        return torch.sparse.mm(self.held, x[:4])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(4)), "0.weight, 0.bias have no shape yet, since they are of lazy layers"),
        (lambda: nn.Linear(6, 4, device="meta"), "weights without data, on the meta device: weight, bias"),
        (lambda: layers().half(), "float16, for which the CPU provider has no kernels: 0.weight"),
        (lambda: layers().bfloat16(), "bfloat16, for which the CPU provider has no kernels: 0.weight"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3).half()), "1.weight, 1.bias; make them float32"),
        (lambda: Sparse(torch.eye(4).to_sparse()), "weights that are sparse, for which ONNX has no operators: held"),
    ],
    ids=["lazy", "meta", "float16", "bfloat16", "half of it", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_weights_that_cannot_be_used(make, said):
    assert said in refused(make(), X)


def test_a_sparse_tensor_that_is_no_weight(workspace):
    module = Sparse(None)
    module.held = torch.eye(4).to_sparse()
    assert "computes with sparse tensors, for which ONNX has no operators: held" in refused(
        module, X, workspace=workspace
    )


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        module = layers()
    assert "were made under torch.inference_mode" in refused(module, X)


def test_a_module_is_exported_in_inference_mode(workspace):
    module = layers()
    with torch.inference_mode():
        made = exported(workspace, module, X, "input=float32[batch=1..5,6]")
    assert made.outputs == ["output"]


def test_a_module_that_ends_the_program_is_a_fault_of_its_own(workspace):
    class Ends(nn.Module):
        def forward(self, x):
            if (x > 100).any():
                sys.exit("too large")
            return x * 2

    for example in (X, X * 1000):
        message = refused(Ends(), example, workspace=workspace)
        assert "SystemExit" in message
        assert "too large" in message


def test_a_number_from_values_points_at_its_line(workspace):
    class Number(nn.Module):
        def forward(self, x):
            return x, float(x.sum())

    message = refused(Number(), X, workspace=workspace)
    assert "test_wrappers.py" in message
    assert "float(x.sum())" in message


# planted: state that would be silently wrong


def test_a_cache_of_the_first_input_is_no_constant_of_the_model(workspace):
    """What forward keeps of the first input is not written into the file: another input is compared."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first: list[Tensor] = []

        def forward(self, x):
            if not self.first:
                self.first.append(x.sum(0))
            return x + self.first[0]

    made = exported(workspace, Keeps(), X, "x=float32[batch=1..8,6]")
    fresh = Keeps()
    other = X[:3] + 5
    np.testing.assert_allclose(
        made.original.run({"x": other.numpy()})["output"], answers(fresh, other).numpy(), rtol=1e-6
    )
    assert told(made, "forward changes first: frozen as it is")


def test_state_hidden_outside_the_module_is_caught(workspace):
    seen: list[Tensor] = []

    class Hides(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x * len(seen)

    assert "two runs on the same input disagree" in refused(Hides(), X, workspace=workspace)
