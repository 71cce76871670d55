"""Statistics that are kept: for which graphs they hold, what they refuse, and one collection for many recipes."""

import zipfile

import numpy as np
import onnx_ir as ir
import pytest

import mlc
from mlc.data import Batch
from mlc.errors import DataError, UsageError
from mlc.recipe import merge, read_recipe
from mlc.rewriting import rewrite
from mlc.statistics import Store, collect, fingerprints
from mlc.statistics.collecting import sample_digests
from mlc.statistics.observers import KINDS
from mlc.types import Need, PassSpec
from mlc.workspace import Workspace
from tests.graphs import ANY_CPU, artifact, references
from tests.quantizing import batches, build, weights

pytestmark = pytest.mark.needs_onnxruntime

TEXT = """agraph (float[batch,3,8,8] x) => (float[batch,5] y) <int64[2] axes = {2, 3}> {
    a = Conv(x, w1, b1)
    r = Relu(a)
    c = Conv(r, w2)
    m = ReduceMean<keepdims = 0>(c, axes)
    y = Gemm(m, w3)
}"""
SHAPES = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "w3": (4, 5)}


def model(seed=0, text=TEXT):
    return build(text, weights(seed, **SHAPES))


def images(seed, count=8):
    return {"x": np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)}


def kept(needs, graph=None, data=None):
    graph = model() if graph is None else graph
    store = Store()
    with Workspace() as workspace:
        found = collect(graph, needs, data or batches(images(0), images(1)), workspace)
    store.add(found, fingerprints(graph))
    return store


def stored(tmp_path, needs, graph=None):
    path = tmp_path / "statistics.npz"
    kept(needs, graph).save(path)
    return Store.load(path)


EVERY = [Need(value, kind) for value in "xarcm" for kind in KINDS if kind != "moments"]


def test_saved_statistics_come_back_and_are_the_same_bytes(tmp_path):
    store = kept(EVERY)
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    store.save(first)
    kept(EVERY).save(second)
    assert first.read_bytes() == second.read_bytes()
    back = Store.load(first)
    assert np.array_equal(back.samples, store.samples)
    digests = fingerprints(model())
    mine, theirs = back.read(EVERY, digests), store.read(EVERY, digests)
    assert mine.samples == theirs.samples == 16
    for value in "xarcm":
        assert mine.range(value) == theirs.range(value)
        assert mine.percentile(value, 99) == theirs.percentile(value, 99)
        assert mine.mse(value) == theirs.mse(value)
        assert np.array_equal(mine.channel_range(value), theirs.channel_range(value))
        assert np.array_equal(mine.column_range(value), theirs.column_range(value))
        assert np.array_equal(mine.channel_mean(value), theirs.channel_mean(value))
    assert "16 samples, 5 values, exact extremes, histograms of all elements" in back.described()


def test_a_directory_stands_for_the_file_in_it(tmp_path):
    kept(EVERY).save(tmp_path / "statistics.npz")
    assert Store.load(tmp_path).names == kept(EVERY).names


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a file of arrays"])
def test_a_file_that_holds_no_statistics(tmp_path, content):
    path = tmp_path / "statistics.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no statistics"):
        Store.load(path)


def test_other_arrays_are_no_statistics_and_a_missing_file_is_named(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 3)))
    with pytest.raises(DataError, match="holds no statistics"):
        Store.load(tmp_path / "data.npz")
    with pytest.raises(DataError, match="there are no statistics"):
        Store.load(tmp_path)


def test_a_file_whose_members_are_damaged(tmp_path):
    path = tmp_path / "statistics.npz"
    kept(EVERY).save(path)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
    content = bytearray(path.read_bytes())
    start = largest.header_offset + 80
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no statistics"):
        Store.load(path)


def test_values_that_are_computed_alike_keep_what_either_of_them_needs():
    text = """agraph (float[batch,3,8,8] x) => (float[batch,4,6,6] y, float[batch,3,8,8] z) {
        p = Relu(x)
        q = Relu(x)
        y = Conv(p, w)
        z = Add(q, x)
    }"""
    graph = build(text, weights(0, w=(4, 3, 3, 3)))
    for needs in (
        [Need("p", "channel-mean"), Need("q", "histogram")],
        [Need("p", "histogram"), Need("q", "channel-mean")],
    ):
        store = kept(needs, graph)
        found = store.read(needs, fingerprints(graph))
        assert store.missing(needs, fingerprints(graph)) == []
        assert all(found.observers[value].holds(kind) for value in "pq" for kind in ("histogram", "channel-mean"))


def same(first, second):
    """The values of one name that two graphs compute alike."""
    mine, theirs = fingerprints(first), fingerprints(second)
    return {name for name in mine.keys() & theirs.keys() if mine[name] == theirs[name]} - {*SHAPES, "axes"}


def test_a_value_is_the_same_where_all_behind_it_is():
    assert same(model(), model()) == set("xarcmy")
    assert same(model(), model().clone()) == set("xarcmy")
    assert same(model(), build(TEXT, weights(0, **SHAPES) | {"w2": weights(9, w2=SHAPES["w2"])["w2"]})) == set("xar")
    assert same(model(), model(text=TEXT.replace("Relu(a)", "Sigmoid(a)"))) == set("xa")
    assert same(model(), model(text=TEXT.replace("Conv(r, w2)", "Conv<pads = [1, 1, 1, 1]>(r, w2)"))) == set("xar")
    assert same(model(), model(text=TEXT.replace("(x, w1", "(q, w1").replace("8] x)", "8] q)"))) == set()


def test_an_export_that_was_kept_in_a_file_counts_as_the_same(tmp_path):
    """A fresh one has its attributes in double precision, a file in single."""
    fresh = build("agraph (float[n,8] x) => (float[n,8] y) {\n y = LeakyRelu<alpha = 0.5>(x)\n}")
    (node,) = fresh.graph
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 0.1)
    ir.save(fresh, tmp_path / "kept.onnx")
    kept_in_file = ir.load(tmp_path / "kept.onnx")
    assert fingerprints(kept_in_file) == fingerprints(fresh)
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 0.1001)
    assert fingerprints(kept_in_file) != fingerprints(fresh)


def test_names_of_inner_values_do_not_count():
    renamed = fingerprints(model(text=TEXT.replace("r ", "other ").replace("(r,", "(other,")))
    assert renamed["other"] == fingerprints(model())["r"]


def test_branches_count_with_what_they_read_outside():
    text = """agraph (bool c, float[2] x) => (float[2] y) <float[2] k = {1, 2}> {
        s = Neg(x)
        y = If (c) <
            then_branch = one () => (float[2] t) { t = Add(s, k) },
            else_branch = two () => (float[2] e) { e = Mul(s, k) }
        >
    }"""
    before = fingerprints(build(text))
    assert fingerprints(build(text))["y"] == before["y"]
    for old, new in (("Mul(s", "Div(s"), ("Neg(x)", "Abs(x)"), ("{1, 2}", "{1, 3}")):
        assert fingerprints(build(text.replace(old, new)))["y"] != before["y"]


def test_a_value_of_a_branch_counts_with_what_decides_that_it_is_taken():
    text = """agraph (bool c, float[2] x) => (float[2] y) {
        d = Not(c)
        y = If (c) <
            then_branch = one () => (float[2] t) { a = Neg(x) t = Exp(a) },
            else_branch = two () => (float[2] e) { a = Neg(x) e = Abs(a) }
        >
    }"""
    before = fingerprints(build(text))
    assert set(before) == {"c", "x", "d", "y", *(f"y.{place}" for place in (
        "then_branch/a", "then_branch/t", "else_branch/a", "else_branch/e"))}  # fmt: skip
    assert (
        len({before["y.then_branch/a"], before["y.else_branch/a"], fingerprints(build(text))["y.then_branch/a"]}) == 2
    )
    after = fingerprints(build(text.replace("If (c)", "If (d)")))
    assert [name for name in before if before[name] != after[name]] == [name for name in before if name.startswith("y")]
    other = fingerprints(build(text.replace("Abs(a)", "Sqrt(a)")))
    assert {name for name in before if before[name] != other[name]} == {"y", "y.else_branch/e"}


def test_weights_that_were_written_out_count_by_their_numbers(workspace):
    graph = build("agraph (float[2,64] x) => (float[2,64] y) {\n y = MatMul(x, w)\n}", weights(0, w=(64, 64)))
    before = fingerprints(graph)
    workspace.hold(graph)
    assert isinstance(graph.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert fingerprints(graph) == before


def refusal(store, needs, graph=None):
    digests = fingerprints(model() if graph is None else graph)
    with pytest.raises(DataError) as raised:
        store.refuse_missing(store.missing(needs, digests), "the pass int8-static")
    return str(raised.value)


def test_what_a_file_does_not_hold_is_refused_with_the_reason(tmp_path):
    store = stored(tmp_path, [Need("x", "histogram"), Need("r", "range")])
    assert store.missing([Need("x", "range"), Need("x", "histogram"), Need("r", "range")], fingerprints(model())) == []
    assert "hold no histogram of the value r, which the pass int8-static reads" in refusal(
        store, [Need("r", "histogram")]
    )
    assert "hold nothing of the value c" in refusal(store, [Need("c", "range")])
    assert "reads moments, which no file of statistics holds" in refusal(
        store, [Need("x", "range"), Need("r", "moments")]
    )
    told = refusal(store, [Need("r", "range")], model(seed=1))
    assert "were collected on another graph: the value r is computed otherwise there" in told
    assert "with --calibrate" in told


def test_what_is_kept_already_is_not_collected_again_and_kept_on():
    store, digests = kept([Need("x", "histogram"), Need("r", "range")]), fingerprints(model())
    assert store.to_collect([Need("x", "range"), Need("r", "range")], digests) == []
    wanted = store.to_collect([Need("x", "histogram"), Need("x", "column-range"), Need("r", "range")], digests)
    assert {need.value for need in wanted} == {"x"}
    assert {need.kind for need in wanted} == {"range", "histogram", "column-range"}


class Once(list[Batch]):
    """Batches that tell how often they were read."""

    def __init__(self, given):
        super().__init__(given)
        self.read = 0

    def __iter__(self):
        self.read += 1
        return super().__iter__()


def quantize(statistics, calibration, *passes, seed=0):
    graph = model(seed)
    with Workspace() as workspace:
        known = references(graph, [images(1), images(2, 3)], workspace)
        return rewrite(
            artifact(graph), list(passes), references=known, workspace=workspace, capabilities=ANY_CPU,
            requested=["int8-static"], calibration=calibration, statistics=statistics,
        )  # fmt: skip


def test_one_collection_serves_every_method(tmp_path):
    store, data = Store(), Once(batches(images(0), images(1)))
    first = quantize(store, data, PassSpec("int8-static"))
    read = data.read
    store.save(tmp_path / "statistics.npz")
    for options in ((), (("method", "mse"),), (("method", "entropy"),), (("method", "percentile"), ("percent", 99.9))):
        again = quantize(store, data, PassSpec("int8-static", options))
        from_file = quantize(Store.load(tmp_path), None, PassSpec("int8-static", options))
        mine, theirs = (ir.to_proto(one.model).SerializeToString(deterministic=True) for one in (again, from_file))
        assert mine == theirs
        if not options:
            assert mine == ir.to_proto(first.model).SerializeToString(deterministic=True)
    assert data.read == read
    with pytest.raises(DataError, match="were collected on another graph"):
        quantize(Store.load(tmp_path), None, PassSpec("int8-static"), seed=1)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.onnx"
    ir.save(model(), path)
    for name, seed in (("calibration", 0), ("evaluation", 1)):
        np.savez(tmp_path / f"{name}.npz", **images(seed, 40))
    return path


INPUTS = ["x=float32[batch=1..64,3,8,8]"]


def compiled(source, **asked):
    return mlc.compile(str(source), inputs=INPUTS, passes=["none", f"int8-static{asked.pop('options', '')}"], **asked)


@pytest.mark.usefixtures("quick")
def test_statistics_of_an_earlier_run_stand_in_the_place_of_data(source, tmp_path):
    out, again = tmp_path / "first", tmp_path / "second"
    report = compiled(source, calibrate=tmp_path / "calibration.npz", data=tmp_path / "evaluation.npz", out=out)
    assert "40 samples" in report.data["statistics"]
    report = compiled(source, options=":method=mse", statistics=out, data=tmp_path / "evaluation.npz", out=again)
    assert report.data["statistics"].startswith(f"{out.as_posix()}/statistics.npz, 40 samples")
    assert "calibration" not in report.data
    assert Store.load(again).names == Store.load(out).names
    recipe = read_recipe(again / "recipe.toml")
    assert (recipe.statistics, recipe.calibrate) == (out.as_posix(), None)


@pytest.mark.usefixtures("quick")
def test_statistics_of_which_nothing_is_read_are_a_note(source, tmp_path):
    kept(EVERY).save(tmp_path / "statistics.npz")
    text = "agraph (int64[batch] x) => (float[batch,64] y) {\n y = Gather(w, x)\n}"
    ir.save(build(text, weights(0, w=(1024, 64))), tmp_path / "table.onnx")
    report = mlc.compile(
        str(tmp_path / "table.onnx"), inputs=["x=int64[batch=1..64] in 0..1023"], to="int8", statistics=tmp_path
    )
    assert any("statistics.npz were not used: no node has a scale known beforehand" in note for note in report.notes)


@pytest.mark.usefixtures("quick")
def test_statistics_of_an_input_with_other_columns_are_of_another_graph(tmp_path):
    kept(EVERY).save(tmp_path / "statistics.npz")
    text = "agraph (float[batch,3] x) => (float[batch,4] y) {\n y = MatMul(x, w)\n}"
    ir.save(build(text, weights(0, w=(3, 4))), tmp_path / "dense.onnx")
    with pytest.raises(DataError, match=r"the pass int8-dynamic reads, .* the value x has 8 columns there, and 3 here"):
        mlc.compile(str(tmp_path / "dense.onnx"), inputs=["x=float32[batch=1..64,3]"], to="int8", statistics=tmp_path)


@pytest.mark.usefixtures("quick")
def test_samples_that_calibrated_are_not_evaluated(source, tmp_path):
    out, both = tmp_path / "first", tmp_path / "both.npz"
    compiled(source, calibrate=tmp_path / "calibration.npz", out=out)
    seen = Store.load(out)
    assert len(seen.samples) in range(4, 41)
    np.savez(both, x=np.concatenate([np.load(tmp_path / f"{name}.npz")["x"] for name in ("calibration", "evaluation")]))
    report = compiled(source, statistics=out, data=both)
    assert any(f"{len(seen.samples)} evaluation samples are those of the statistics" in note for note in report.notes)
    if len(seen.samples) == 40:
        with pytest.raises(UsageError, match="were collected on every sample of the evaluation data"):
            compiled(source, statistics=out, data=tmp_path / "calibration.npz")


def test_what_a_file_lacks_is_collected_where_its_samples_are_given(tmp_path):
    kept([Need("x", "histogram"), Need("r", "range")]).save(tmp_path / "statistics.npz")
    with pytest.raises(DataError, match="hold nothing of the value a"):
        quantize(Store.load(tmp_path), None, PassSpec("int8-static"))
    data, completed = batches(images(0), images(1)), Store.load(tmp_path)
    added = quantize(completed, data, PassSpec("int8-static"))
    assert completed.described().endswith(f"{len(completed.added)} values collected anew")
    completed.save(tmp_path / "statistics.npz")
    again = quantize(Store.load(tmp_path), None, PassSpec("int8-static"))
    anew = quantize(Store(), data, PassSpec("int8-static"))
    assert len({ir.to_proto(one.model).SerializeToString(deterministic=True) for one in (added, again, anew)}) == 1


@pytest.mark.usefixtures("quick")
def test_what_another_pass_reads_beyond_the_statistics_comes_from_the_same_data(source, tmp_path):
    given = {"calibrate": tmp_path / "calibration.npz", "data": tmp_path / "evaluation.npz"}
    compiled(source, **given, out=tmp_path / "first")
    asked = {"inputs": INPUTS, "passes": ["none", "fp16"], "statistics": tmp_path / "first"}
    with pytest.raises(DataError, match="with --calibrate"):
        mlc.compile(str(source), **asked, data=given["data"])
    report = mlc.compile(str(source), **asked, **given, out=tmp_path / "second")
    assert report.data["statistics"].endswith(" collected anew")
    assert report.data["calibration"] == "calibration.npz, 40 samples"
    recipe = read_recipe(tmp_path / "second" / "recipe.toml")
    assert (recipe.statistics, recipe.calibrate) == ((tmp_path / "first").as_posix(), str(given["calibrate"]))
    report = mlc.compile(str(source), **asked | {"statistics": tmp_path / "second"}, data=given["data"])
    assert "collected anew" not in report.data["statistics"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("given", ["calibrate", "data"])
def test_the_samples_that_a_run_split_off_are_found_again(source, tmp_path, given):
    one = {given: tmp_path / "calibration.npz"}
    compiled(source, **one, out=tmp_path / "first")
    report = mlc.compile(str(source), inputs=INPUTS, passes=["fp16"], statistics=tmp_path / "first", **one)
    assert report.data["statistics"].endswith(" collected anew")
    assert report.data["calibration"].split(", ")[1] == f"{len(Store.load(tmp_path / 'first').samples)} samples"
    assert report.data["evaluation"].split(", ")[1] == "32 samples"


@pytest.mark.usefixtures("quick")
def test_a_metric_for_which_no_sample_is_left_is_refused(source, tmp_path):
    given = {"calibrate": tmp_path / "calibration.npz"}
    compiled(source, **given, data=tmp_path / "evaluation.npz", out=tmp_path / "first")
    compiled(source, **given, statistics=tmp_path / "first")
    with pytest.raises(UsageError, match="leave the metric cosine nothing to be computed on"):
        compiled(source, **given, statistics=tmp_path / "first", metric="cosine")


@pytest.mark.parametrize("given", [["calibrate"], ["calibrate", "data"]])
def test_data_that_the_statistics_were_not_collected_on_are_refused(source, tmp_path, given):
    kept(EVERY).save(tmp_path / "statistics.npz")
    files = {"calibrate": tmp_path / "calibration.npz", "data": tmp_path / "evaluation.npz"}
    with pytest.raises(DataError, match=r"were collected on 16 samples, and not on the calibration data .*calibration"):
        compiled(source, statistics=tmp_path, **{key: files[key] for key in given})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "statistics were given and no pass reads any"),
        ({"passes": ["int8-static"], "statistics": "nowhere"}, "there are no statistics nowhere"),
    ],
)
def test_statistics_that_could_only_be_ignored_are_refused(source, tmp_path, asked, message):
    given = {"statistics": str(tmp_path)} | asked
    with pytest.raises((DataError, UsageError), match=message):
        mlc.compile(str(source), inputs=INPUTS, **given)


def test_the_output_may_not_replace_the_statistics(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UsageError, match="holds what statistics reads"):
        mlc.compile(str(source), passes=["int8-static"], statistics=out, out=out)


def test_statistics_are_a_field_of_a_recipe():
    assert merge(None, {"source": "model.onnx", "statistics": "out"}).statistics == "out"
    with pytest.raises(UsageError, match="expected text"):
        merge(None, {"source": "model.onnx", "statistics": 3})


def test_an_input_that_does_not_stack_samples_belongs_to_each_of_them():
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    stacked = np.arange(12, dtype=np.float32).reshape(4, 3)

    def digests(rows, other):
        return sample_digests(Batch({"x": rows, "table": other}, None, len(rows), 0, np.arange(len(rows))))

    assert len(set(digests(stacked, table))) == 4
    assert set(digests(stacked, table)).isdisjoint(digests(stacked, table + 1))
