"""A failing graph made small: fewer passes, one early output, values cut into inputs, nodes passed by."""

import onnx_ir as ir

from mlc.compare.decisions import with_outputs
from mlc.rewriting.fragments import prune
from mlc.rewriting.sessions import Runner
from mlc.workspace import Workspace


def shrunk(model, passes, feeds, fails):
    """The smallest model and the fewest passes found for which ``fails(model, passes, feeds)`` still holds."""
    passes = _fewer(passes, lambda kept: fails(model, kept, feeds))
    smaller = True
    while smaller:
        smaller = False
        for candidate, given in _candidates(model, feeds):
            read = {value.name for value in candidate.graph.inputs}
            fed = [{name: array for name, array in each.items() if name in read} for each in given]
            if fails(candidate, passes, fed):
                model, feeds, smaller = candidate, fed, True
                break
    return model, passes


def _fewer(passes, fails):
    for one in list(passes):
        rest = [each for each in passes if each is not one]
        if rest and fails(rest):
            passes = rest
    return passes


def _candidates(model, feeds):
    """Yield models that are smaller by one step, each with what it is to be fed; the largest steps first."""
    for index in range(len(model.graph.outputs)):
        if len(model.graph.outputs) > 1:
            yield _edited(model, lambda graph, index=index: graph.outputs.pop(index)), feeds
    for index, node in enumerate(model.graph):
        if node.outputs[0].type is not None and not node.outputs[0].is_graph_output():
            yield _edited(model, lambda graph, index=index: _only_output(graph, index)), feeds
    values = _computed(model, feeds)
    for index, node in reversed(list(enumerate(model.graph))):
        made = node.outputs[0]
        if made.name in values[0]:
            given = [{**fed, made.name: value[made.name]} for fed, value in zip(feeds, values, strict=True)]
            yield _edited(model, lambda graph, index=index: _cut(graph, index)), given
        if node.inputs and len(node.outputs) == 1 and _alike(node.inputs[0], made):
            yield _edited(model, lambda graph, index=index: _pass_by(graph, index)), feeds


def _edited(model, edit):
    """A clone after an edit, without what no output needs, inputs included."""
    clone = model.clone()
    edit(clone.graph)
    prune(clone.graph)
    for value in [value for value in clone.graph.inputs if not value.uses() and not value.is_graph_output()]:
        clone.graph.inputs.remove(value)
        clone.graph.initializers.pop(value.name, None)
    return clone


def _only_output(graph, index):
    """Let a node's output be the only one of the graph."""
    graph.outputs.clear()
    graph.outputs.append(graph[index].outputs[0])


def _cut(graph, index):
    """Let a node's output be an input."""
    old = graph[index].outputs[0]
    new = ir.Value(name=old.name, type=old.type, shape=old.shape)
    old.replace_all_uses_with(new)
    old.name = f"{old.name}.cut"
    graph.inputs.append(new)


def _pass_by(graph, index):
    node = graph[index]
    node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=True)


def _alike(source, made):
    known = source is not None and source.dtype == made.dtype and source.shape == made.shape is not None
    return known and not made.is_graph_output()


def _computed(model, feeds):
    """What every value that is no output is for each feed, where its type is known."""
    made = [node.outputs[0] for node in model.graph]
    names = [each.name for each in made if each.type is not None and each.shape is not None]
    names = [name for name in names if name not in {value.name for value in model.graph.outputs}]
    with Workspace() as workspace, Runner(workspace).open(with_outputs(model, names)) as run:
        answers = [run(fed) for fed in feeds]
    return [{name: answer[name] for name in names} for answer in answers]
