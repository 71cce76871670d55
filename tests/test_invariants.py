"""Each invariant, broken on purpose; and what other people's files may bring without blame."""

import numpy as np
import onnx_ir as ir
import pytest

from mlc.invariants import Subject, broken, interface, snapshot
from tests.graphs import graph, random

MODEL = """g (float[batch,3] x, float[3] default, bool c) => (float[batch,3] y, float[batch,3] z)
<float[3] default = {1,2,3}, float[3] w = {4,5,6}>
{
    a = Add(x, default)
    y = Mul(a, w)
    z = If(c) <
        then_branch = t () => (float[batch,3] p) { p = Neg(a) },
        else_branch = e () => (float[batch,3] p) { p = Exp(a) }
    >
}"""


@pytest.fixture
def model():
    return graph(MODEL)


@pytest.fixture
def check(model, workspace):
    """Break a clone with a function and return the sentences."""
    taken = snapshot(model, workspace.save(model))

    def run(edit, write=True):
        after = model.clone()
        edit(after)
        return broken(Subject(after, taken, workspace.save(after) if write else None))

    return run


def node(model, name):
    return next(each for graph in model.graphs() for each in graph if each.outputs[0].name == name)


def test_an_unchanged_graph_breaks_nothing(check):
    assert check(lambda model: None) == ()


def rename_output(model):
    model.graph.outputs[0].name = "other"


def swap_outputs(model):
    model.graph.outputs[:] = list(reversed(model.graph.outputs))


def drop_input(model):
    model.graph.inputs.pop(0)


def freeze_default(model):
    model.graph.inputs.pop(1)


def change_shape(model):
    model.graph.outputs[0].shape = ir.Shape(["batch", 4])


def change_type(model):
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (rename_output, "the interface lost output y float [batch,3]"),
        (swap_outputs, "the order of inputs or outputs changed"),
        (drop_input, "the interface lost input x float [batch,3]"),
        (freeze_default, "the interface lost input default float [3] with a default"),
        (change_shape, "the interface got output y float [batch,4]"),
        (change_type, "the interface got input x double [batch,3]"),
    ],
)
def test_the_interface_stays(check, edit, sentence):
    assert sentence in check(edit, write=False)


def test_names_are_unique_in_a_scope(check):
    def edit(model):
        node(model, "a").outputs[0].name = "w"

    assert "several values are called w" in check(edit, write=False)


def test_names_do_not_hide_those_around(check):
    def edit(model):
        branch = node(model, "z").attributes["then_branch"].as_graph()
        branch.outputs[0].name = "a"

    assert "a in a subgraph hides a value of that name around it" in check(edit, write=False)


def test_fewer_nodes_of_one_name_than_before_are_no_new_doubles(check, workspace):
    doubled = graph(MODEL)
    for name in ("a", "y", "z"):
        node(doubled, name).name = "same"
    taken = snapshot(doubled, workspace.save(doubled))
    fewer = doubled.clone()
    node(fewer, "a").name = "another"
    assert broken(Subject(fewer, taken)) == ()


def test_node_names_are_unique_and_doubles_that_were_there_are_no_ones_fault(check, workspace):
    def edit(model):
        node(model, "a").name = node(model, "y").name = "same"

    assert check(edit, write=False) == ("several nodes are called same",)
    doubled = graph(MODEL)
    edit(doubled)
    taken = snapshot(doubled, workspace.save(doubled))
    assert broken(Subject(doubled.clone(), taken)) == ()


def test_nodes_are_sorted(check):
    def edit(model):
        moved = node(model, "a")
        model.graph.remove(moved)
        model.graph.append(moved)

    assert "Mul y reads a, which no input, initializer or earlier node gives" in check(edit, write=False)


def test_nothing_dangles_in_a_branch_either(check):
    def edit(model):
        lost = ir.Node("", "Neg", [model.graph.inputs[0]])
        lost.outputs[0].name = "lost"
        node(model, "z").attributes["then_branch"].as_graph()[0].replace_input_with(0, lost.outputs[0])

    assert "Neg p reads lost, which no input, initializer or earlier node gives" in check(edit, write=False)


def test_a_dropped_initializer_dangles(check):
    def edit(model):
        model.graph.initializers.pop("w")

    assert "Mul y reads w, which no input, initializer or earlier node gives" in check(edit, write=False)


def test_an_output_that_no_node_gives(check):
    def edit(model):
        model.graph.remove(node(model, "y"))

    assert "the output y is given by no input, initializer or node" in check(edit, write=False)


def test_domains_are_imported_and_versions_stay(check):
    def edit(model):
        node(model, "y").domain = "com.microsoft"
        model.opset_imports[""] = 21

    assert check(edit, write=False)[:2] == (
        "the operator domain 'com.microsoft' is not imported",
        "opset ai.onnx went from 20 to 21",
    )


def test_a_weight_edited_in_place(model, workspace):
    array = np.array([4, 5, 6], np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    taken = snapshot(model, workspace.save(model))
    after = model.clone()
    array *= 2
    assert broken(Subject(after, taken)) == ("w was edited in place",)


def test_tied_weights_stay_tied(model, workspace):
    big = random(1, 40, 40)
    value = ir.Value(
        name="big", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([40, 40]), const_value=ir.tensor(big)
    )
    model.graph.register_initializer(value)
    taken = snapshot(model, workspace.save(model))
    after = model.clone()
    copy = ir.Value(name="copy", type=value.type, shape=value.shape, const_value=ir.tensor(big.copy()))
    after.graph.register_initializer(copy)
    assert broken(Subject(after, taken)) == ("the new initializer copy is a copy of big",)
    after.graph.initializers.pop("big")
    assert broken(Subject(after, taken)) == ()


def test_the_checker_is_asked(check):
    def edit(model):
        node(model, "y").attributes["nonsense"] = ir.AttrInt64("nonsense", 1)

    (sentence,) = check(edit)
    assert sentence.startswith("the ONNX checker says: ")


def test_strict_shape_inference_is_asked_where_it_held_before(check):
    def edit(model):
        node(model, "a").op_type = "And"

    assert any(sentence.startswith("the ONNX checker says: ") for sentence in check(edit))


def test_interface_lines(model):
    assert interface(model) == (
        "input x float [batch,3]",
        "input default float [3] with a default",
        "input c bool []",
        "output y float [batch,3]",
        "output z float [batch,3]",
    )
