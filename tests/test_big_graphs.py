"""What keeps a graph of thousands of nodes quick to verify and its weights in memory once."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.fusion import infer_shapes
from mlc.registry import build
from mlc.rewriting import portions as portions_module
from mlc.rewriting.portions import portions
from mlc.rewriting.sessions import Runner
from mlc.types import PassSpec
from tests.graphs import graph, line, random, same_numbers

UNNAMED = """g (float[batch,3] x) => (float[batch,3] y, float[batch,3] z)
{ a = Transpose<perm = [1, 0]>(x) b = Transpose<perm = [1, 0]>(a) y = Exp(b)
  c = Reciprocal(y) d = Mul(x, c) e = Reciprocal(d) z = Mul(b, e) }"""


@pytest.mark.needs_onnxruntime
def test_unnamed_nodes_are_judged_together(workspace, monkeypatch):
    model, opened = graph(UNNAMED), []
    assert not any(node.name for node in model.graph)
    whole = Runner.open

    def counted(self, judged):
        opened.append([output.name for output in judged.graph.outputs])
        return whole(self, judged)

    monkeypatch.setattr(Runner, "open", counted)
    feeds = [{"x": random(seed, rows, 3)} for seed, rows in ((1, 2), (2, 5))]
    after, (step,) = line(model, [build(PassSpec("reciprocal-to-div"))], feeds, workspace)
    assert step.sites == ("d", "z")
    assert [names for names in opened if "after::d" in names] == [["d", "z", "after::d", "after::z"]]
    same_numbers(model, after, feeds[0], workspace, 1e-5)


SIZED = """g (float[batch,8] x, float[batch,batch] s) => (float[batch,8] y)
<float[8,8] w>
{ a = Relu(x) b = MatMul(a, w) c = Relu(b) t = Transpose(c) y = Neg(c) }"""


def sized():
    model = graph(SIZED.replace("<float[8,8] w>", f"<float[8,8] w = {{{','.join(['1'] * 64)}}}>"))
    infer_shapes(model)
    return model


def test_values_are_fetched_in_portions_that_fit(monkeypatch):
    feeds = [{"x": random(0, rows, 8), "s": random(0, rows, rows)} for rows in (2, 16)]
    largest = 16 * 8 * 4
    names = ["a", "b", "c", "t", "y"]
    assert portions(sized().graph, names, feeds) == [names]
    monkeypatch.setattr(portions_module, "TOGETHER", 4 * largest)
    assert portions(sized().graph, names, feeds) == [["a", "b"], ["c", "t"], ["y"]]
    monkeypatch.setattr(portions_module, "TOGETHER", largest)
    assert portions(sized().graph, names, feeds) == [[name] for name in names]
    assert portions(sized().graph, [], feeds) == []


def test_a_value_of_unknown_size_is_taken_for_a_large_one():
    model = sized()
    for node in model.graph:
        node.outputs[0].shape = None
    names = ["a"] * 100
    assert [len(each) for each in portions(model.graph, names, [{"x": random(0, 2, 8)}])] == [64, 36]


def test_inference_leaves_what_is_known_alone_and_fills_what_is_not():
    model = sized()
    before = {value.name: (value.type, value.shape) for node in model.graph for value in node.outputs}
    infer_shapes(model)
    assert {value.name: (value.type, value.shape) for node in model.graph for value in node.outputs} == before
    model.graph[1].outputs[0].shape = None
    infer_shapes(model)
    assert str(model.graph[1].outputs[0].shape) == str(before["b"][1])


def mapped(tensor):
    return tensor.raw is not None


def test_weights_that_were_read_are_let_go_and_read_again(workspace):
    array = np.arange(1024, dtype=np.float32)
    model = graph("g (float[1024] x) => (float[1024] y) { y = Neg(x) }")
    model.graph.register_initializer(ir.Value(name="w", const_value=ir.tensor(array)))
    workspace.hold(model)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert mapped(tensor)
    workspace.unmap()
    assert not mapped(tensor)
    kept = tensor.numpy()
    workspace.unmap()  # what is in use stays readable
    np.testing.assert_array_equal(kept, array)
    np.testing.assert_array_equal(tensor.numpy(), array)
