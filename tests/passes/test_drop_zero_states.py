"""DropZeroStates: golden graph, the same bits, each refusal by its reason, and what torch exports."""

import pytest

from passes.drop_zero_states import DropZeroStates
from passes.eliminate_dead_code import EliminateDeadCode
from passes.fold_reshapes import FoldReshapes
from tests.graphs import apply, graph, line, ops, random, same_numbers, text, torch_model

pytestmark = pytest.mark.needs_onnxruntime

HEAD = "g (float[5,batch,3] x) => (float[5,1,batch,2] y)"
WEIGHTS = """<float[1,8,3] w = {1,-2,3,-4,5,-6,7,-8,9,-1,2,-3,4,-5,6,-7,8,-9,1,-2,3,-4,5,-6},
    float[1,8,2] r = {1,-1,2,-2,3,-3,1,-1,2,-2,3,-3,1,-1,2,-2}, float[1,16] b = {1,2,3,4,5,6,7,8,8,7,6,5,4,3,2,1},
    int64[1] one = {1}, int64[1] two = {2}, int64[1] none = {0}, float zero = {0}, float less = {-0.0},
    float[1,1,2] fixed = {0,0}, float[1,1,2] half = {0,0.5}>"""
ROWS = "rows = Shape<start = 1, end = 2>(x)"
SIZES = f"{ROWS} sizes = Concat<axis = 0>(one, rows, two)"
LSTM = "y = LSTM<hidden_size = 2>(x, w, r, b, , h, h)"
ZEROS = {
    "Expand": f"{SIZES} h = Expand(zero, sizes)",
    "ConstantOfShape": f"{SIZES} h = ConstantOfShape(sizes)",
    "Slice": f"{ROWS} layers = Concat<axis = 0>(two, rows, two) a = Expand(zero, layers) h = Slice(a, one, two, none)",
    "Concat": f"{SIZES} a = Expand(zero, sizes) e = Slice(a, none, none, none) h = Concat<axis = 0>(a, e)",
}


def model(body, head=HEAD):
    return graph(f"{head} {WEIGHTS} {{ {body} }}")


def test_golden(golden):
    after, change = apply(DropZeroStates(), model(f"{ZEROS['Expand']} {LSTM}"))
    assert change.sites == ("y",)
    golden("drop_zero_states.onnxtxt", text(after))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("form", ZEROS)
def test_the_same_bits_whatever_makes_the_zeros(form, batch, workspace):
    before = model(f"{ZEROS[form]} {LSTM}")
    after, change = apply(DropZeroStates(), before)
    assert (change.sites, change.refused) == (("y",), ())
    assert ops(after) == ["LSTM"]
    same_numbers(before, after, {"x": random(1, 5, batch, 3)}, workspace)


def test_a_layer_that_reads_zeros_too(workspace):
    """As a decoder that is fed with nothing but its states."""
    zeros = "wide = Concat<axis = 0>(five, rows, three) n = Expand(zero, wide)"
    constants = WEIGHTS.replace("int64[1] one", "int64[1] five = {5}, int64[1] three = {3}, int64[1] one")
    before = graph(f"{HEAD} {constants} {{ {ZEROS['Expand']} {zeros} {LSTM.replace('(x', '(n')} }}")
    after, change = apply(DropZeroStates(), before)
    assert change.sites == ("y",)
    same_numbers(before, after, {"x": random(1, 5, 2, 3)}, workspace)


def test_a_layer_whose_input_is_the_state_itself(workspace):
    square = WEIGHTS.replace("float[1,8,3] w = {1,-2,3,-4,5,-6,7,-8,9,-1,2,-3,4,-5,6,-7,8,-9,1,-2,3,-4,5,-6}",
                             "float[1,8,2] w = {1,-2,3,-4,5,-6,7,-8,9,-1,2,-3,4,-5,6,-7}")  # fmt: skip
    before = graph(f"{HEAD.replace('[5,1,', '[1,1,')} {square} {{ {ZEROS['Expand']} {LSTM.replace('(x', '(h')} }}")
    after, change = apply(DropZeroStates(), before)
    assert change.sites == ("y",)
    same_numbers(before, after, {"x": random(1, 5, 2, 3)}, workspace)


def test_zeros_of_a_fixed_size(workspace):
    before = model(LSTM.replace("h, h", "fixed, fixed"), head=HEAD.replace("batch", "1"))
    after, _ = apply(DropZeroStates(), before)
    assert "fixed" not in after.graph.initializers
    same_numbers(before, after, {"x": random(1, 5, 1, 3)}, workspace)


def test_one_of_two_states_and_every_output(workspace):
    head = "g (float[5,batch,3] x, float[1,batch,2] c) => (float[5,1,batch,2] y, float[1,batch,2] last)"
    before = model(f"{ZEROS['Expand']} y, , last = LSTM<hidden_size = 2>(x, w, r, b, , h, c)", head=head)
    after, change = apply(DropZeroStates(), before)
    assert change.sites == ("y",)
    (node,) = after.graph
    assert [value and value.name for value in node.inputs] == ["x", "w", "r", "b", None, None, "c"]
    for batch in (1, 3):
        same_numbers(before, after, {"x": random(1, 5, batch, 3), "c": random(2, 1, batch, 2)}, workspace)


@pytest.mark.parametrize(
    ("head", "zeros", "reason"),
    [
        (HEAD, f"{SIZES} h = Expand(half, sizes)", "h is not known to be zero"),
        (HEAD, f"{SIZES} h = Expand(less, sizes)", "h is not known to be zero"),
        (HEAD, "a = Slice(x, none, one, none) h = Slice(a, none, two, two)", "h is not known to be zero"),
        (
            HEAD.replace("x)", "x, float[1,batch,2] given)"), f"{SIZES} a = Expand(zero, sizes) h = Add(a, given)",
            "h is not known to be zero",
        ),
    ],
)  # fmt: skip
def test_refusals(head, zeros, reason):
    _, change = apply(DropZeroStates(), model(f"{zeros} {LSTM}", head=head))
    assert change.sites == ()
    assert [(refusal.site, refusal.reason) for refusal in change.refused] == [("y", reason)]


def test_states_that_a_caller_gives_are_no_site():
    before = model(LSTM, head=HEAD.replace("x)", "x, float[1,batch,2] h)"))
    _, change = apply(DropZeroStates(), before)
    assert change == type(change)((), ())


def test_a_default_that_a_caller_may_override_is_no_zero():
    head = HEAD.replace("x)", "x, float zero)").replace("batch", "1")
    _, change = apply(DropZeroStates(), model(f"{ZEROS['Expand']} {LSTM}", head=head))
    assert [refusal.reason for refusal in change.refused] == ["h is not known to be zero"]


def test_each_of_the_three_layers(workspace):
    body = """h = ConstantOfShape(sizes) c = LSTM<hidden_size = 2>(x, w, r, b, , h, h)
        d = GRU<hidden_size = 2>(x, w6, r6, , , h) e = RNN<hidden_size = 2>(x, w2, r2, , , h) y = Sum(c, d, e)"""
    parts = "w6 = Slice(w, none, six, one) r6 = Slice(r, none, six, one) w2 = Slice(w, none, two, one)"
    parts += " r2 = Slice(r, none, two, one)"
    before = graph(
        f"{HEAD} {WEIGHTS.replace('float zero', 'int64[1] six = {6}, float zero')} {{ {SIZES} {parts} {body} }}"
    )
    after, change = apply(DropZeroStates(), before)
    assert change.sites == ("c", "d", "e")
    assert "ConstantOfShape" not in ops(after)
    same_numbers(before, after, {"x": random(1, 5, 3, 3)}, workspace)


def test_what_torch_exports(workspace):
    import torch

    class Network(torch.nn.Module):
        """Two layers of LSTM, a layer that goes both ways, and a GRU."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.lstm = torch.nn.LSTM(3, 4, 2, batch_first=True)
            self.both = torch.nn.LSTM(4, 3, bidirectional=True, batch_first=True)
            self.gru = torch.nn.GRU(6, 4, batch_first=True)

        def forward(self, x):
            return self.gru(self.both(self.lstm(x)[0])[0])[0]

    exported = torch_model(Network(), (torch.rand(4, 5, 3),), fold=True)
    feeds = [{"x0": random(rows, rows, 5, 3)} for rows in (2, 3)]
    after, (step, folded, _) = line(exported, [DropZeroStates(), FoldReshapes(), EliminateDeadCode()], feeds, workspace)
    assert (len(step.sites), step.left_out, step.dropped) == (4, (), "")
    assert not {"Expand", "Shape"} & set(ops(after))
    assert (folded.refused, folded.left_out, folded.dropped) == ((), (), "")
    assert ops(after).count("Reshape") == 4
    same_numbers(exported, after, {"x0": random(1, 1, 5, 3)}, workspace)
