"""Directories of Hugging Face transformers: loaded without a network, exported, checked at all sizes."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mlc
from mlc.cli import main
from mlc.errors import MlcError, SourceError, UsageError
from mlc.exporting import export
from mlc.exporting import huggingface as exporter
from mlc.exporting.checked import check
from mlc.grammar.inputs import input_text, parse_inputs
from mlc.probes import answer, references
from mlc.recipe import read_recipe
from mlc.sources.huggingface.inputs import expectation
from mlc.sources.huggingface.live import TransformersOriginal, holds_transformers
from mlc.sources.load import load
from mlc.sources.silence import silent
from tests.architectures.families import build
from tests.exporting import Exported

with silent():
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")

TEXT: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 24,
}  # fmt: skip
MIXTURE = {**TEXT, "num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 2}
VISION: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
IDS, MASK = (
    "input_ids=int64[batch=1..64,sequence=1..24] in 0..98",
    "attention_mask=int64[batch=1..64,sequence=1..24] in 0..1",
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_args):
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def saved(folder: Path, model, **options) -> str:
    """Write a model as users have it."""
    with silent():
        model.save_pretrained(folder, **options)
    return str(folder)


def bert(kind="BertForSequenceClassification"):
    torch.manual_seed(0)
    return getattr(transformers, kind)(transformers.BertConfig(**TEXT))


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("hf") / "bert", bert())


@pytest.fixture
def copied(bert_folder, tmp_path):
    """A copy of the BERT directory, to be spoiled."""
    return Path(shutil.copytree(bert_folder, tmp_path / "model"))


def change(folder: Path, **changes) -> str:
    """Change keys of config.json; None takes a key out."""
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return str(folder)


def loaded(folder: str, **asked) -> TransformersOriginal:
    original = load(folder, **asked)
    assert isinstance(original, TransformersOriginal)
    return original


def specs(original) -> list[str]:
    return [input_text(spec) for spec in original.signature.inputs]


def checked(workspace, source, *given, **asked) -> Exported:
    """Load a directory, run it at every size, export and check it."""
    original = load(source, parse_inputs(given), **asked)
    return compared(workspace, original)


def compared(workspace, original) -> Exported:
    answers, skipped = references(original, None, 0)
    assert skipped == ()
    return Exported(original, *export(original, answers, workspace))


# ---------------------------------------------------------------- the whole line


def test_an_encoder_compiles_from_the_command_line(bert_folder, tmp_path, quick, capsys):
    out = tmp_path / "out"
    assert main(["compile", bert_folder, "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "latency p50 at batch=2, sequence=24" in printed
    assert "loaded as BertForSequenceClassification by transformers" in printed
    manifest = json.loads((out / "manifest.json").read_text())
    assert [each["name"] for each in manifest["signature"]["inputs"]] == [
        "input_ids",
        "attention_mask",
        "token_type_ids",
    ]
    assert [each["name"] for each in manifest["signature"]["outputs"]] == ["logits"]
    assert Path(read_recipe(out / "recipe.toml").source).samefile(bert_folder)


def test_an_image_classifier_quantizes(tmp_path, quick):
    torch.manual_seed(0)
    folder = saved(tmp_path / "vit", transformers.ViTForImageClassification(transformers.ViTConfig(**VISION)))
    images = np.random.default_rng(0).standard_normal((40, 3, 16, 16)).astype(np.float32)
    report = mlc.compile(folder, passes=["int8-static"], calibrate=[{"pixel_values": images}], out=tmp_path / "out")
    assert "int8-static" in report.first_line
    (logits,) = mlc.load(str(tmp_path / "out")).run({"pixel_values": images[:3]}).values()
    assert logits.shape == (3, 2)


# ---------------------------------------------------------------- families


def test_a_decoder_is_exported_without_cache_and_with_one_embedding(workspace, tmp_path):
    config = transformers.GPT2Config(vocab_size=99, n_embd=16, n_layer=1, n_head=2, n_positions=24, eos_token_id=0)
    found = checked(workspace, saved(tmp_path / "gpt2", transformers.GPT2LMHeadModel(config)))
    assert specs(found.original) == [IDS, MASK]
    assert found.outputs == ["logits"]
    assert found.shape("logits") == ["batch", "sequence", "99"]
    assert any("without a key-value cache" in note for note in found.artifact.origin.notes)
    embeddings = [
        value for value in found.model.graph.initializers.values() if value.shape and 99 in tuple(value.shape)
    ]
    assert len(embeddings) == 1


def test_the_experts_of_a_mixture_are_products_in_groups(workspace, tmp_path):
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**MIXTURE))
    found = checked(workspace, saved(tmp_path / "mixtral", model))
    assert found.artifact.origin.exporter.startswith("torch.onnx")
    assert found.outputs == ["logits"]


def test_an_encoder_with_a_decoder_takes_the_decoders_ids(workspace, tmp_path):
    config = transformers.T5Config(
        vocab_size=99, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    folder = saved(tmp_path / "t5", transformers.T5ForConditionalGeneration(config))
    given = (IDS, "decoder_input_ids=int64[batch=1..64,target=1..8] in 0..98")
    found = checked(workspace, folder, *given, task="text2text-generation")
    assert specs(found.original) == [IDS, MASK, "decoder_input_ids=int64[batch=1..64,target=1..8] in 0..98"]
    assert found.outputs == ["logits", "encoder_last_hidden_state"]


def test_weights_in_shards_and_in_half_precision_are_float32_at_last(workspace, tmp_path):
    model = bert("BertModel").to(torch.bfloat16)
    folder = saved(tmp_path / "bert", model, max_shard_size="5KB")
    assert len(list(Path(folder).glob("*.safetensors"))) > 1
    original = loaded(folder)
    assert {parameter.dtype for parameter in original.module.parameters()} == {torch.float32}
    assert "the weights are bfloat16, loaded as float32" in original.notes
    min(Path(folder).glob("*.safetensors")).unlink()
    with pytest.raises(SourceError, match="is missing, a part of the weights that the index beside it names"):
        load(folder)


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["input_ids=int64[n=1..4,24] in 0..98"], ["int64[n=1..4,24] in 0..98", "int64[n=1..4,24] in 0..1"]),
        (["attention_mask=int64[batch,sequence=1..9] in 1..1", "position_ids=int64[batch=1..2,sequence] in 0..8"],
         ["int64[batch=1..2,sequence=1..9] in 0..98", "int64[batch=1..2,sequence=1..9] in 1..1"]),
    ],
)  # fmt: skip
def test_axes_that_count_the_same_have_the_dim_that_is_given(bert_folder, given, wanted):
    found = specs(load(bert_folder, parse_inputs(given)))
    assert found[:2] == [f"input_ids={wanted[0]}", f"attention_mask={wanted[1]}"]
    assert any(each.startswith("token_type_ids=") for each in found)


def test_an_example_says_which_inputs_there_are(bert_folder):
    ids = torch.randint(0, 99, (3, 7))
    original = load(bert_folder, example={"input_ids": ids})
    assert specs(original) == [IDS]
    assert any("keep their defaults: attention_mask" in note for note in original.notes)


def test_positions_are_counted_from_the_padding(tmp_path):
    config = transformers.RobertaConfig(**{**TEXT, "max_position_embeddings": 26, "type_vocab_size": 1})
    assert specs(load(saved(tmp_path / "roberta", transformers.RobertaModel(config)))) == [IDS, MASK]


def test_long_models_are_promised_what_can_be_checked(tmp_path):
    config = transformers.LlamaConfig(**{**TEXT, "num_key_value_heads": 1, "max_position_embeddings": 131072})
    original = load(saved(tmp_path / "llama", transformers.LlamaForCausalLM(config)))
    assert specs(original)[0] == "input_ids=int64[batch=1..64,sequence=1..2048] in 0..98"
    assert any("up to 2048 of the model's 131072 positions" in note for note in original.notes)
    assert original.example["input_ids"].shape == (2, 128)


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        (None, 224),
        ({"size": {"shortest_edge": 32}}, 32),
        ({"image_processor": {"crop_size": {"height": 40, "width": 40}}}, 40),
    ],
)  # fmt: skip
def test_the_size_of_images_is_the_processors_where_the_model_has_none(tmp_path, processor, size):
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], layer_type="basic")
    folder = saved(tmp_path / "resnet", transformers.ResNetForImageClassification(config))
    if processor is not None:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(processor))
    original = load(folder)
    assert specs(original) == [f"pixel_values=float32[batch=1..64,3,{size},{size}]"]
    assert any("names no size of images" in note for note in original.notes) == (processor is None)


@pytest.mark.parametrize(
    ("family", "config", "wanted"),
    [
        ("CLIPModel", "CLIPConfig", [IDS, "pixel_values=float32[images=1..64,3,16,16]", MASK]),
        ("Wav2Vec2ForCTC", "Wav2Vec2Config", ["input_values=float32[batch=1..64,samples=510..5010]"]),
        ("WhisperForConditionalGeneration", "WhisperConfig",
         ["input_features=float32[batch=1..64,8,20]",
          "decoder_input_ids=int64[batch=1..64,decoder_sequence=1..12] in 0..98"]),
        ("ASTForAudioClassification", "ASTConfig", ["input_values=float32[batch=1..64,32,16]"]),
        ("VideoMAEForVideoClassification", "VideoMAEConfig", ["pixel_values=float32[batch=1..64,2,3,16,16]"]),
    ],
)  # fmt: skip
def test_inputs_follow_from_the_configuration(tmp_path, family, config, wanted):
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    options: dict[str, dict[str, Any]] = {
        "CLIPConfig": {"text_config": {**TEXT, "eos_token_id": 2}, "vision_config": VISION, "projection_dim": 8},
        "Wav2Vec2Config": {
            "vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "conv_dim": (4, 4), "conv_stride": (5, 2), "conv_kernel": (10, 3),
            "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
        },
        "WhisperConfig": {
            "vocab_size": 99, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, **heads, "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16, "max_source_positions": 10, "max_target_positions": 12, "num_mel_bins": 8,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
        },
        "ASTConfig": {**VISION, "patch_size": 16, "max_length": 32, "num_mel_bins": 16},
        "VideoMAEConfig": {**VISION, "num_frames": 2},
    }  # fmt: skip
    model = getattr(transformers, family)(getattr(transformers, config)(**options[config]))
    assert specs(load(saved(tmp_path / "model", model))) == wanted


def test_an_encoder_beside_a_decoder_has_its_own_vocabulary(tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder, decoder = (transformers.BertConfig(vocab_size=size, **small) for size in (70, 99))
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    described = specs(load(saved(tmp_path / "model", transformers.EncoderDecoderModel(config=config))))
    assert [each.partition("=")[0] for each in described] == ["input_ids", "attention_mask", "decoder_input_ids"]
    assert described[0].endswith(" in 0..69")
    assert described[2].endswith(" in 0..98")


def test_the_text_of_a_model_whose_encoder_names_none_is_the_decoders():
    assert [each.name for each in build("florence2").inputs] == ["input_ids", "attention_mask"]


def test_a_model_that_masks_no_single_token_is_declared_from_two(workspace, tmp_path):
    config = transformers.Mamba2Config(
        vocab_size=99, hidden_size=16, num_hidden_layers=1, num_heads=4, head_dim=8, n_groups=1, state_size=8, expand=2
    )
    torch.manual_seed(0)
    folder = saved(tmp_path / "mamba2", transformers.Mamba2ForCausalLM(config))
    original = loaded(folder)
    assert [(spec.dims[1].low, spec.dims[1].name) for spec in original.signature.inputs] == [(2, "sequence")] * 2
    assert any("begins at 2" in note for note in original.notes)
    texts = ("input_ids=int64[2,sequence=2..4] in 0..98", "attention_mask=int64[2,sequence] in 0..1")
    found = checked(workspace, folder, *texts)
    assert any("guards put off" in note for note in found.artifact.origin.notes)
    single = answer(original, {"batch": 2, "sequence": 1}, None, 0)
    with pytest.raises(SourceError, match="differs from the original at batch=2, sequence=1"):
        check(found.artifact.model, (single,), workspace)


def test_half_precision_that_the_code_makes_itself_is_float32(tmp_path):
    config = transformers.RecurrentGemmaConfig(
        vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, lru_width=16,
        intermediate_size=24, attention_window_size=8, block_types=["attention"],
    )  # fmt: skip
    original = loaded(saved(tmp_path / "gemma", transformers.RecurrentGemmaForCausalLM(config)))
    assert {buffer.dtype for buffer in original.module.buffers() if buffer.is_floating_point()} == {torch.float32}


def test_of_two_texts_the_encoders_is_the_main_input(tmp_path):
    text = transformers.T5Config(vocab_size=77, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    decoder = transformers.MusicgenDecoderConfig(
        vocab_size=33, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=24, num_codebooks=2
    )
    sound = transformers.EncodecConfig(
        hidden_size=16,
        num_filters=2,
        codebook_size=32,
        codebook_dim=16,
        upsampling_ratios=[2, 2],
        target_bandwidths=[1.5],
    )
    torch.manual_seed(0)
    config = transformers.MusicgenConfig(text_encoder=text, audio_encoder=sound, decoder=decoder)
    model = transformers.MusicgenForConditionalGeneration(config)
    found = expectation(model, {})
    ids, codes = (each for each in found.inputs if each.name.endswith("input_ids"))
    assert (ids.values, codes.values) == ((0, 76), (0, 32))


def test_inputs_that_the_configuration_does_not_describe_are_asked_for(tmp_path):
    config = transformers.PatchTSTConfig(
        num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=8, num_hidden_layers=1,
        num_attention_heads=2, ffn_dim=8, prediction_length=4,
    )  # fmt: skip
    folder = saved(tmp_path / "series", transformers.PatchTSTForPrediction(config))
    with pytest.raises(
        UsageError, match="does not say what the input 'past_values' of PatchTSTForPrediction"
    ) as raised:
        load(folder)
    assert "--input 'past_values=float32" in raised.value.hint
    assert load(folder, parse_inputs(["past_values=float32[batch=1..4,16,2]"])).signature.outputs


# ---------------------------------------------------------------- tasks


def test_a_task_takes_the_head_off(workspace, tmp_path):
    folder = saved(tmp_path / "mlm", bert("BertForMaskedLM"))
    original = loaded(folder, task="feature-extraction")
    assert type(original.module).__name__ == "BertModel"
    assert [output.name for output in original.signature.outputs] == ["last_hidden_state"]
    assert any("BertModel does not have are left out: cls." in note for note in original.notes)
    assert "the weights have no pooler, and the model is loaded without one" in original.notes


@pytest.mark.parametrize(
    ("task", "message", "hint"),
    [
        ("txt-classification", "transformers has no task 'txt-classification'", "did you mean text-classification"),
        ("object-detection", "no model of type 'bert' for object-detection", "there is: feature-extraction"),
        ("question-answering", "not those of BertForQuestionAnswering; 2 missing: qa_outputs.bias", "BertForSequence"),
    ],
)
def test_a_task_that_is_not_the_models_is_refused(bert_folder, task, message, hint):
    with pytest.raises(MlcError) as raised:
        load(bert_folder, task=task)
    assert message in raised.value.message
    assert hint in raised.value.hint


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bertx"}, "knows no model of type 'bertx'"),
        ({"model_type": None}, "has no model_type"),
        ({"architectures": ["BertForMagic"]}, "has no BertForMagic, which config.json of"),
        ({"architectures": None}, "does not say which architecture it is"),
        ({"quantization_config": {"quant_method": "gptq"}}, "are quantized already by gptq"),
        ({"hidden_size": 8}, "of the wrong shape: bert.embeddings"),
        ({"hidden_size": "x"}, "cannot use .*'hidden_size'"),
        ({"auto_map": {"AutoModel": "org/name--modeling.Model"}}, "which is not in the directory"),
        ({"auto_map": {"AutoModel": "../modeling.Model"}}, "which is not in the directory"),
    ],
)
def test_a_configuration_that_cannot_be_used(copied, changes, message):
    with pytest.raises(SourceError, match=message):
        load(change(copied, **changes), trust=True)


class Planted:
    """A pickle that writes a file when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place,))


def test_weights_that_cannot_be_used(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SourceError, match="is a pointer of Git LFS"):
        load(str(copied))
    weights.write_bytes(b"spoiled" * 20)
    with pytest.raises(SourceError, match="transformers cannot load"):
        load(str(copied))
    weights.unlink()
    with pytest.raises(SourceError, match="there are no weights in"):
        load(str(copied))
    place = copied / "planted"
    torch.save({"weight": Planted(place)}, copied / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(SourceError, match="hold more than tensors"):
        load(str(copied), trust=True)
    assert not place.exists()
    torch.save(bert().state_dict(), copied / "pytorch_model.bin")
    assert load(str(copied)).signature.outputs


@pytest.mark.parametrize(
    ("name", "message"), [("adapter_config", "is an adapter"), ("model_index", "is a pipeline of")]
)
def test_other_directories_are_named(tmp_path, name, message):
    (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(SourceError, match=message):
        load(str(tmp_path))


def test_without_the_package_a_sentence_names_it(bert_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SourceError, match="needs the package transformers") as raised:
        load(bert_folder)
    assert raised.value.hint == "pip install 'mlc-toolchain[hf]'"


OWN = """
import pathlib
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

pathlib.Path({place!r}).touch()


class OwnConfig(PreTrainedConfig):
    model_type = "own"
    vocab_size: int = 9


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(9, 4)
        self.post_init()

    def forward(self, input_ids):
        return BaseModelOutput(last_hidden_state=self.table(input_ids))
"""


def test_code_in_a_directory_runs_only_where_it_is_trusted(tmp_path, monkeypatch):
    folder, place = tmp_path / "own", tmp_path / "ran"
    folder.mkdir()
    (folder / "modeling_own.py").write_text(OWN.format(place=str(place)))
    auto = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    config = {"model_type": "own", "architectures": ["OwnModel"], "auto_map": auto, "vocab_size": 9}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"table.weight": torch.ones(9, 4)}, folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"brings code of its own, which loading it would run: modeling_own\.py"):
        load(str(folder))
    assert not place.exists()
    cache = str(tmp_path / "modules")
    for module in ("transformers.dynamic_module_utils", "transformers.utils.hub"):
        monkeypatch.setattr(f"{module}.HF_MODULES_CACHE", cache)
    monkeypatch.syspath_prepend(cache)
    original = load(str(folder), trust=True)
    assert place.exists()
    assert "code from the directory was run: modeling_own.py" in original.notes
    assert specs(original) == ["input_ids=int64[batch=1..64,sequence=1..512] in 0..8"]


# ---------------------------------------------------------------- live objects


class Wrapped(torch.nn.Module):
    """A user's own head on an encoder, whose attention is torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = bert("BertModel")
        self.head = torch.nn.Linear(16, 3)

    def forward(self, input_ids, attention_mask):
        return self.head(self.encoder(input_ids=input_ids, attention_mask=attention_mask).pooler_output)


def test_a_module_that_holds_a_model_keeps_its_attention(workspace):
    module = Wrapped().eval()
    assert holds_transformers(module)
    assert module.encoder.config._attn_implementation == "sdpa"
    given = ["input_ids=int64[batch=1..8,sequence=1..9] in 0..98", "attention_mask=int64[batch,sequence] in 0..1"]
    found = compared(workspace, TransformersOriginal(module, parse_inputs(given)))
    assert any(
        (reference.inputs["attention_mask"] == 0).all(1).any() for reference in references(found.original, None, 0)[0]
    )


def test_a_live_model_is_exported_by_its_named_outputs(workspace):
    model = bert("BertForMaskedLM")
    ids = torch.randint(0, 99, (2, 7))
    original = load(model, parse_inputs(["input_ids=int64[batch=1..8,sequence=1..24]"]), {"input_ids": ids})
    assert compared(workspace, original).outputs == ["logits"]
    assert model.training


def test_where_neither_exporter_can_both_are_named(tmp_path):
    config = transformers.LongformerConfig(
        vocab_size=99,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        attention_window=4,
    )
    original = loaded(saved(tmp_path / "longformer", transformers.LongformerForMaskedLM(config)))
    with pytest.raises(SourceError, match="hangs on the values") as raised:
        exporter.translate(original, {"batch": 2, "sequence": 8}, None)
    assert "the exporter of transformers failed too" in raised.value.hint
