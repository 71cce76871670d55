"""The benchmarks run in small and sum up what they measured; no figure is judged here."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest

from benchmarks import (
    big_graph,
    common,
    cuda,
    fusion,
    install,
    int8,
    int8_settings,
    int8_summary,
    models,
    passes,
    quantization,
    quantization_settings,
    quantization_summary,
    quantizing_backend,
    rewriting,
    rewriting_backend,
    saturation,
    startup,
    statistics,
    tables,
)
from benchmarks.common import INCONCLUSIVE, MET, MISSED
from benchmarks.quantization_accuracy import NOT_FINITE, judged
from benchmarks.statistics_worker import COLLECTORS
from mlc.data import open_data
from mlc.measuring import Candidate, latency
from mlc.metrics import load_metric
from mlc.recipe import parse_inputs
from mlc.types import Target

OUTCOMES = {MET, MISSED, INCONCLUSIVE, "reported"}


@pytest.fixture(scope="module")
def sample():
    return models.sample()


def quiet(_text):
    """Hear nothing."""


def kept(measured, summary, folder):
    """Write a result, read it back, and return what the one that was read says."""
    path = common.save(measured, folder)
    again = json.loads(path.read_text())
    assert again == json.loads(json.dumps(measured))
    assert {"benchmark", "date", "machine", "settings"} <= set(again)
    assert again["machine"]["versions"]["onnxruntime"]
    said = summary(again)
    assert said.claims
    assert {claim.outcome for claim in said.claims} <= OUTCOMES
    text = said.markdown(again, brief=False)
    assert all(claim.measured in text for claim in said.claims)
    assert str(folder) not in path.read_text() + text
    assert str(common.ROOT) not in path.read_text() + text
    return again, said


def test_startup(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "BESIDE", {"mlc --version": 0})  # the other one loads torch each time
    measured, said = kept(startup.measure(True, quiet), startup.summary, tmp_path)
    assert {len(blocks) for blocks in measured["seconds"].values()} == {2}
    assert len(said.claims) == len(startup.EXPECTED)


def test_startup_refuses_a_command_that_ends_otherwise():
    with pytest.raises(RuntimeError, match="ended with 2, not 0"):
        startup.seconds_of("mlc compil", 0)


def test_install(tmp_path):
    measured, _ = kept(install.measure(True, quiet), install.summary, tmp_path)
    assert {"mlc-toolchain", "typer", "onnx-ir"} <= set(measured["added"])
    assert not set(measured["added"]) & {"torch", "numpy", "onnx", "onnxruntime"}
    assert all(one["bytes"] > 0 for one in measured["added"].values())


def test_install_finds_what_is_imported_and_not_named(tmp_path, monkeypatch):
    for folder in install.OURS:
        (tmp_path / folder).mkdir()
    (tmp_path / "mlc" / "one.py").write_text("def late():\n    import hypothesis.strategies\n")
    (tmp_path / "passes" / "two.py").write_text("import json\nfrom mlc.one import late\nfrom . import one\n")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    assert install.imported() == {"hypothesis"}


def test_rewriting(tmp_path, monkeypatch):
    monkeypatch.setattr(rewriting, "SOURCES", (rewriting.FROM_FILE,))
    measured, said = kept(rewriting.measure(True, quiet), rewriting.summary, tmp_path)
    for rounds in measured["rounds"].values():
        assert all(one["export"] > 0 and one["stages"]["rewrite"] > 0 and one["writing"] > 0 for one in rounds)
    assert any("onnx.export" in cell for table in said.tables for row in table.rows for cell in row)


@pytest.mark.needs_onnxruntime
def test_rewriting_of_the_backend_models(tmp_path):
    measured, _ = kept(rewriting_backend.measure(True, quiet), rewriting_backend.summary, tmp_path)
    assert measured["rewriters"]["mlc"]["failed"] == []


@pytest.mark.needs_onnxruntime
def test_conversions_of_the_backend_models(tmp_path):
    measured, said = kept(quantizing_backend.measure(True, quiet), quantizing_backend.summary, tmp_path)
    ours = [name for name in measured["tools"] if name.startswith("mlc")]
    assert ours == ["mlc, fp16", "mlc, fp16:sensitive=half", "mlc, int8-dynamic"]
    assert [measured["tools"][name]["failed"] for name in ours] == [[], [], []]
    assert sum(one["converted"] for one in measured["tools"]["mlc, fp16"]["forms"].values()) > 0
    assert len(said.claims) == 12


@pytest.mark.needs_onnxruntime
def test_big_graph(tmp_path):
    measured, said = kept(big_graph.measure(True, quiet), big_graph.summary, tmp_path)
    (only,) = measured["rounds"]
    blocks = measured["settings"]["blocks"]
    assert (only["nodes"], measured["weights"]) == (24 * blocks, 2 * 4 * 4 * 32**2 * blocks)
    assert not any(step["left_out"] or step["dropped"] for step in only["steps"])
    bitten = {step["name"] for step in only["steps"] if step["sites"] >= blocks}
    assert bitten >= {"eliminate-casts", "eliminate-transposes", "fold-layer-scale", "fuse-gelu", "fuse-layer-norm"}
    assert len(said.claims) == 2
    assert [big_graph.outcome(*times) for times in ((59, 70), (61, 59), (61, 61))] == [MET, INCONCLUSIVE, MISSED]


def test_cuda_on_the_target_that_every_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "TARGET", Target())
    monkeypatch.setattr(cuda, "OURS", cuda.OURS[:1])
    monkeypatch.setattr(cuda, "AT", {"diffusion block": {"batch": 1}})
    monkeypatch.setattr(cuda, "_peers", lambda _source, _kind: {})
    monkeypatch.setattr(latency, "PROCESSES", 2)
    measured, said = kept(cuda.measure(True, quiet), cuda.summary, tmp_path)
    (one,) = measured["rounds"].values()
    assert {"control", "mlc", "mlc, float16"} <= one["speed"].keys()
    assert one["told"]["mlc, float16"]["db"] > 40
    assert any(row[2] == "raw export" for row in said.tables[0].rows)


def test_fusion(tmp_path):
    measured, _ = kept(fusion.measure(True, quiet), fusion.summary, tmp_path)
    assert set(measured["rounds"]) == {"LSTM"}


def test_fusion_claims_what_was_aimed_at_and_the_best_of_the_others():
    def network(**speed):
        rounds = {"control": [1.0] * 5, **{label.replace("_", " "): [ratio] * 5 for label, ratio in speed.items()}}
        return {"ms": 1.0, "speed": rounds, "sites": {}, "failed": {}}

    measured = {
        "rounds": {
            "Evoformer": network(mlc=1.2, onnxslim=1.0, onnxscript=1.4),
            "ViT": network(mlc=1.0, mlc_without_SkipLayerNormFusion=1.2, onnxscript=1.1),
            "Llama grouped-query decode at 128": network(mlc=1.4),
            "Llama grouped-query decode at 512": network(mlc=1.3),
        }
    }
    outcomes = {claim.text: (claim.measured, claim.outcome) for claim in fusion.summary(measured).claims}
    assert outcomes["Evoformer: 1.3 times the raw export"][1] == "missed"
    assert outcomes["Evoformer: not slower than the best of the others"] == (
        "0.857 (0.857 to 0.857) of onnxscript", "missed"
    )  # fmt: skip
    assert outcomes["ViT: 1.1 times the raw export"] == ("1.200 (1.200 to 1.200)", "met")
    assert outcomes["ViT: not slower than the best of the others"][1] == "met"
    assert outcomes["Llama grouped-query decode: more as the past grows"] == ("1.40, 1.30", "missed")


def test_each_pass_by_itself(tmp_path):
    measured, said = kept(passes.measure(True, quiet), passes.summary, tmp_path)
    (one,) = measured["networks"]["LSTM"].values()
    assert {"fold-reshapes", "drop-zero-states"} <= one["sites"].keys() & one["sets"][0].keys()
    assert "fold-reshapes: nowhere slower with it beyond the noise" in [claim.text for claim in said.claims]


def test_a_pass_that_slows_a_network_down_is_told():
    def network(slow, same=()):
        rounds = {"all": 10, "control": 10, "split-qkv": 20, "fuse-gelu": slow}
        timed = {name: [[value] * 9] * 5 for name, value in rounds.items()}
        told = {"sites": {"split-qkv": 2}, "same": list(same), "alike": [], "failed": {}}
        return {"cpu": {**told, "sets": [timed], "afresh": []}}

    worse = network(8)
    settled = network(8)
    settled["cpu"]["afresh"] = [{name: [[10] * 9] * 5 for name in ("all", "control", "fuse-gelu")}]
    found = passes.summary({"networks": {"A": worse, "B": settled, "C": network(10, ["fold-linear"])}})
    outcomes = {claim.text.partition(" it ")[0]: (claim.measured, claim.outcome) for claim in found.claims}
    assert outcomes["split-qkv: nowhere slower with"] == ("slower in 0 of 3", "met")
    assert outcomes["split-qkv: somewhere faster with"][1] == "met"
    assert outcomes["fuse-gelu: nowhere slower with"] == ("slower in 1 of 3: A on cpu", "missed")
    assert outcomes["fuse-gelu: somewhere faster with"][1] == "missed"
    assert ("fold-linear", "C", "cpu", "0", "the same file without it", "") in found.tables[0].rows
    assert "fuse-attention" in found.notes[0]


@pytest.mark.parametrize(("alike", "again"), [([], [("fuse-gelu", "A", "cpu")]), (["fuse-gelu"], [])])
def test_a_pass_that_is_faster_nowhere_is_timed_again_unless_the_runtime_does_the_same(alike, again):
    timed = {
        name: [[value] * 9] * 5 for name, value in {"all": 10, "control": 10, "split-qkv": 20, "fuse-gelu": 10}.items()
    }
    networks = {"A": {"cpu": {"sites": {}, "same": [], "alike": alike, "failed": {}, "sets": [timed], "afresh": []}}}
    assert list(passes.undecided(networks)) == again
    assert any("leaves the same operators" in note for note in passes.summary({"networks": networks}).notes) == bool(
        alike
    )


def test_what_the_runtime_leaves_of_two_files(tmp_path):
    def saved(name, text):
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}'), tmp_path / name)
        return tmp_path / name

    twice = saved("twice.onnx", "(float[4] x) => (float[4] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }")
    once = saved("once.onnx", "(float[4] x) => (float[4] y) { a = Exp(x) y = Add(a, a) }")
    other = saved("other.onnx", "(float[4] x) => (float[4] y) { a = Exp(x) y = Mul(a, a) }")
    assert passes.operators(twice) == passes.operators(once) != passes.operators(other)


def test_statistics(tmp_path, sample, monkeypatch):
    chosen = ("session", "mlc, extremes", "mlc, histograms", "onnxruntime Percentile")
    monkeypatch.setattr(statistics, "COLLECTORS", {name: COLLECTORS[name] for name in chosen})
    measured, said = kept(statistics.measure(True, quiet, sample), statistics.summary, tmp_path)
    assert set(measured["rounds"]) == set(chosen)
    assert all(one["peak"] > 0 for runs in measured["rounds"].values() for each in runs.values() for one in each)
    assert [claim.text.partition(":")[0] for claim in said.claims] == ["mlc, extremes", "mlc, histograms"]


def test_statistics_leaves_out_what_would_not_fit():
    growing = {"100": [{"peak": 1e8}], "1000": [{"peak": 1e8 + 900 * 1e9}]}
    assert statistics.too_much(growing, 10_000).startswith("would take about 9")
    assert statistics.too_much({"100": [{"peak": 1e8}], "1000": [{"peak": 1e8}]}, 10_000) == ""
    assert statistics.too_much({}, 100) == ""


@pytest.mark.needs_onnxruntime
def test_int8(tmp_path, sample, monkeypatch):
    monkeypatch.setattr(latency, "PROCESSES", 2)
    monkeypatch.setattr(latency, "BLOCK", (0.001, 0.001))
    measured, _ = kept(int8.measure(True, quiet, sample), int8_summary.summary, tmp_path)
    good, refused, dynamic = (setting.name for setting in int8_settings.few())
    assert "doesn't support data format" in measured["failed"][refused]
    assert {good, dynamic, int8_summary.NATIVE} <= set(measured["accuracy"])
    assert all(len(blocks) == 2 for one in measured["sets"] for blocks in one.values())
    assert measured["saturation"][int8_summary.TRAVELS][0].startswith("no product sum saturates")


def test_int8_settings_have_names_of_their_own():
    chosen = int8_settings.settings()
    assert len({setting.name for setting in chosen}) == len(chosen) > 200


def test_int8_finds_a_setting_that_is_better_in_both():
    def blocks(milliseconds):
        rng = np.random.default_rng(0)
        return [[round(milliseconds * 1e6 * noise) for noise in rng.uniform(0.99, 1.01, 16)] for _ in range(5)]

    figures = {ours: {"top1": [0.01, 0.002, 0.02], "sqnr_db": [-1.0, -2.0, -0.5]} for ours in int8_summary.OURS}
    rounds = {name: blocks(1) for name in int8_summary.FIXED} | {"fast": blocks(0.5), "slow": blocks(2)}
    measured = {
        "settings": {"settings": 2, "timed_batch": 2},
        "accuracy": {
            name: {"images": 10, "top1": 0.9, "sqnr_db": 30.0, "against": figures}
            for name in (*int8_summary.OURS, int8_summary.FP32, "fast", "slow")
        },
        "same": {},
        "failed": {},
        "saturation": {name: [] for name in (*int8_summary.OURS, "fast", "slow")},
        "sets": [rounds],
        "afresh": [rounds],
    }
    for ours in int8_summary.OURS:
        assert int8_summary.ahead(measured, ours, "sets") == ["fast"]
        assert int8_summary.beyond(measured, ours, "top1") == ["fast"]
        assert int8_summary.beyond(measured, ours, "sqnr_db") == []
    outcomes = [claim.outcome for claim in int8_summary.summary(measured).claims]
    assert outcomes == [MISSED, MET, MISSED, MET]


@pytest.mark.needs_onnxruntime
def test_quantization(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "PROCESSES", 2)
    monkeypatch.setattr(latency, "BLOCK", (0.001, 0.001))
    measured, _ = kept(quantization.measure(True, quiet), quantization_summary.summary, tmp_path)
    (only,) = measured["models"].values()
    static, refused, dynamic, blocks = map(quantization_settings.name_of, quantization_settings.few())
    assert "doesn't support data format" in only["failed"][refused]
    one = only["runtimes"]["onnxruntime"]
    assert {dynamic, quantization_summary.DEFAULT, quantization_summary.FP32} <= set(one["accuracy"])
    assert {static, blocks} <= set(one["accuracy"]) | set(only["failed"])
    assert one["sizes"][dynamic] < one["sizes"][quantization_summary.FP32]
    assert {static, dynamic, quantization_summary.DEFAULT} <= set(one["seconds"])
    assert all(len(rounds) == 2 for timed in (*one["sets"], *one["one_thread"]) for rounds in timed.values())
    assert dynamic in one["one_thread"][0]


def test_settings_of_peers_have_names_of_their_own():
    names = [quantization_settings.name_of(setting) for setting in quantization_settings.peers()]
    assert len(set(names)) == len(names) > 400
    assert set(quantization_settings.RECOMMENDED) <= set(names)


def test_saturation(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _name: None)
    measured, said = kept(saturation.measure(True, quiet), saturation.summary, tmp_path)
    assert set(measured["models"]["fashion_cnn"]) == {saturation.HERE}
    assert [claim.outcome for claim in said.claims] == [INCONCLUSIVE]


def test_saturation_judges_what_saturates():
    places = {
        place: {"safe": {"y": safe}, "full": {"y": full}}
        for place, safe, full in ((saturation.HERE, 33.0, 34.0), (saturation.EMULATED, 33.0, 15.0))
    }
    even = {place: {"safe": {"y": 33.0}, "full": {"y": 34.0}} for place in places}
    said = saturation.summary({"models": {"bad": places, "even": even}})
    assert [(claim.text.partition(":")[0], claim.measured, claim.outcome) for claim in said.claims] == [
        ("bad", "18.0 dB", MET)
    ]


@pytest.mark.needs_onnxruntime
def test_quantization_has_no_figures_for_a_file_that_computes_nan(tmp_path):
    candidates = {}
    for name, op in (("export", "Abs"), ("ours", "Abs"), ("theirs", "Sqrt")):
        text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x) => (float[n,3] y) {{ y = {op}(x) }}'
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
        candidates[name] = Candidate(name, tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.array([[1, 2, 3], [4, -5, 6]], np.float32))
    data = open_data(str(tmp_path / "data.npz"), parse_inputs(["x=float32[n=1..2,3]"]))
    failed: dict[str, str] = {}
    found = judged(
        candidates, data, load_metric("cosine"), Target(), first=("export", "ours"), failed=failed, progress=quiet
    )
    assert list(found) == ["export", "ours"]
    assert failed == {"theirs": NOT_FINITE}


def test_quantization_finds_a_setting_that_is_better_in_both():
    def blocks(milliseconds):
        rng = np.random.default_rng(0)
        return [[round(milliseconds * 1e6 * noise) for noise in rng.uniform(0.99, 1.01, 16)] for _ in range(5)]

    better = {"metric": [0.01, 0.002, 0.02], "sqnr_db": [-1.0, -2.0, -0.5]}
    equal = {"metric": [0.0, 0.0, 0.0], "sqnr_db": None}
    figures = {"samples": 10, "value": 0.9, "sqnr_db": 30.0}
    rounds = {name: blocks(1) for name in quantization_summary.FIXED} | {"fast": blocks(0.5), "slow": blocks(2)}
    accuracy = {name: {**figures, "against": better} for name in ("fast", "slow")}
    accuracy |= {name: {**figures, "against": equal} for name in (quantization_summary.DEFAULT, "fp32 export")}
    one = {
        "accuracy": accuracy,
        "sizes": dict.fromkeys(accuracy, 1),
        "failed": {},
        "sets": [rounds],
        "afresh": [rounds],
        "one_thread": [rounds],
    }
    about = {"where": "here", "metric": "top1", "failed": {}, "same": {}, "runtimes": {"onnxruntime": one}}
    assert quantization_summary.ahead(accuracy, [rounds]) == ["fast"]
    assert quantization_summary.beyond(one, "metric") == ["fast"]
    assert quantization_summary.beyond(one, "sqnr_db") == []
    said = quantization_summary.summary({"models": {"lstm": about}, "unmeasured": {"minilm": "it is not installed"}})
    assert [claim.outcome for claim in said.claims] == [MISSED, MET, MISSED, MISSED]
    assert "Not measured: minilm: it is not installed." in said.notes
    assert "Measured on here: lstm." in said.notes


def test_quantization_judges_how_long_gptq_takes():
    names = [f"mlc {quantization_summary.GPTQ}", "onnxruntime blocks, GPTQ 4 bits, blocks of 32"]
    for mine, outcome in ((90.0, MET), (91.0, MISSED)):
        (claim,) = quantization_summary.soon_enough("minilm", dict(zip(names, (mine, 300.0), strict=True)))
        assert claim.outcome == outcome
        assert claim.measured.endswith("onnxruntime's 300 to 300 s")
    assert list(quantization_summary.soon_enough("minilm", {})) == []


def test_resnet18_is_one():
    network, image = models.resnet18()
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512
    assert image.shape == (2, 3, 224, 224)
    assert not any(
        (buffer == 0).all() or (buffer == 1).all() for name, buffer in network.named_buffers() if "running" in name
    )


def test_lists_of_numbers_are_kept_on_one_line(tmp_path):
    path = common.save({"benchmark": "x", "rounds": [[1, 2.5], [-3e-5]], "names": ["a", "b"]}, tmp_path)
    assert "[1, 2.5]" in path.read_text().replace("[ ", "[").replace(" ]", "]")
    assert json.loads(path.read_text())["names"] == ["a", "b"]


def test_tables_are_those_of_the_results():
    assert tables.differing() == [], "run `python -m benchmarks.tables`"


def test_no_quick_result_is_committed():
    for path in common.RESULTS.glob("*.json"):
        measured = json.loads(path.read_text())
        assert path.stem == measured["benchmark"]
        assert not measured["settings"].get("quick")
        assert measured["settings"].get("rounds", 2) > 1
