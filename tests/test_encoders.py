"""Encoders: an exported network gives the vectors of its model, alone or among others, and no file of it may change unnoticed."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, tiny_encoder

from recsys_lab import encoders
from recsys_lab.encoders import SAMPLE, Encoder, copy_encoder, encoder, export_encoder, read_encoder
from recsys_lab.files import DataError

pytest.importorskip("onnxruntime")


def test_a_network_known_by_heart(tmp_path):
    """A mean of word vectors, drawn by hand: what the runtime computes is what NumPy does."""
    encode = tiny_encoder(tmp_path, ["pen", "ink", "cup"])
    table = np.array([[0.01, 0.01, 0.01, 1], [1, 0.01, 0.01, 0.01], [0.01, 1, 0.01, 0.01], [0.01, 0.01, 1, 0.01]])
    wanted = table[[1, 1, 2]].mean(axis=0)
    assert np.allclose(encode(["pen Pen ink"])[0], wanted / np.linalg.norm(wanted), atol=1e-6)
    assert np.allclose(encode(["nothing known"]), table[0] / np.linalg.norm(table[0]), atol=1e-6)
    assert encode.knows("pen") and not encode.knows("desk")


def test_a_text_is_encoded_alone(tmp_path):
    encode = tiny_encoder(tmp_path, ["pen", "ink", "cup"])
    texts = ["pen", "ink ink cup", "pen cup", ""] * 5
    together, one = encode(texts), Encoder(encode.folder, threads=1)
    assert np.array_equal(together, np.concatenate([one([text]) for text in texts]))
    assert encode([]).shape == (0, 4)


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800", "🖊️", "pen" * 9000, "'; DROP TABLE"])
def test_odd_texts_have_a_vector(tmp_path, text):
    vector = tiny_encoder(tmp_path, ["pen"])([text])
    assert vector.shape == (1, 2) and np.isclose(np.linalg.norm(vector), 1 if text.strip() else 0)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_damaged_encoders_are_refused_by_name(tmp_path, name, fault):
    folder = tiny_encoder(tmp_path, ["pen"]).folder
    whole = (folder / name).read_bytes()
    (folder / name).unlink() if fault == "gone" else (folder / name).write_bytes(whole[:-3])
    with pytest.raises(DataError, match=f"{name} is missing or not as it was written"):
        Encoder(folder)


def test_folders_that_are_no_encoder(tmp_path):
    with pytest.raises(DataError, match="holds no exported encoder"):
        Encoder(tmp_path)
    folder = tiny_encoder(tmp_path, ["pen"]).folder
    told = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(DataError, match="the encoder has format 99, and this version reads 1"):
        read_encoder(folder)


def test_a_folder_that_was_exported_is_an_encoder_by_its_name(tmp_path, monkeypatch):
    """No torch is needed where one names it."""
    copy_encoder(tiny_encoder(tmp_path, ["pen"]), tmp_path / "copy")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert encoder(str(tmp_path / "copy"))(["pen"]).shape == (1, 2)


def test_without_the_extra_the_message_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYS_LAB_CACHE", str(tmp_path))
    encoder.cache_clear()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"exported by sentence-transformers.*pip install 'recsys_lab\[search\]'"):
        encoder()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime is not installed.*pip install 'recsys_lab\[search\]'"):
        encoder()
    encoder.cache_clear()
    assert not list(tmp_path.rglob("model.onnx"))


@pytest.mark.slow
def test_the_export_gives_the_vectors_of_sentence_transformers(tmp_path):
    """In full precision to rounding, in the smallest that is taken to the cosine that was written down; the same file twice."""
    pytest.importorskip("sentence_transformers")
    model = encoders.sentence_model(encoders.ENCODER)
    model.max_seq_length = encoders.MAX_TOKENS
    wanted = model.encode(list(SAMPLE), normalize_embeddings=True, batch_size=1)
    exact = export_encoder(encoders.ENCODER, tmp_path / "full", "float32")
    assert exact["precision"] == "float32" and np.abs(Encoder(tmp_path / "full")(SAMPLE) - wanted).max() < 1e-5
    small = export_encoder(encoders.ENCODER, tmp_path / "small")
    cosine = float((Encoder(tmp_path / "small")(SAMPLE) * wanted).sum(axis=1).mean())
    assert small["precision"] in ("int8", "mixed") and cosine >= encoders.SAME
    assert abs(cosine - small["cosine"]) < 1e-3
    assert (tmp_path / "small" / "model.onnx").stat().st_size < (tmp_path / "full" / "model.onnx").stat().st_size / 2
    assert export_encoder(encoders.ENCODER, tmp_path / "again")["sha256"] == small["sha256"]


def random_model(kind, place, pooling):
    """A small model of sentence-transformers with random weights, saved as a folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[UNK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    tokenizer = Tokenizer(models.WordPiece({w: k for k, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if kind == "bert" else [])]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_input_names=names,
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64} if kind == "distilbert" else sizes
    config = AutoConfig.for_model(kind, vocab_size=len(words), max_position_embeddings=64, pad_token_id=0, **sizes)
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(place / "base")
    fast.save_pretrained(place / "base")
    base = Transformer(str(place / "base"), max_seq_length=32)
    SentenceTransformer(
        modules=[base, Pooling(32, pooling)], device="cpu", prompts={"query": "q ", "document": ""}
    ).save(str(place / "model"))
    return place / "model"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pooling"), [("bert", "cls"), ("distilbert", "mean"), ("bert", "max")])
def test_other_models_are_exported_by_their_folder(tmp_path, kind, pooling):
    """Other networks, poolings and prompts, no last normalisation: the vectors are those of sentence-transformers."""
    pytest.importorskip("sentence_transformers")
    place = random_model(kind, tmp_path, pooling)
    told = export_encoder(str(place), tmp_path / "e", "float32")
    assert (told["name"], told["dimension"], told["max_tokens"], told["prompts"]) == ("model", 32, 32, {"query": "q "})
    encode, model = Encoder(tmp_path / "e"), encoders.sentence_model(str(place))
    texts = ["a pen", "two pens and a very long cup of tea for the desk of the teacher", "x"]
    for kind_of_text, wanted in (("document", model.encode_document(texts)), ("query", model.encode_query(texts))):
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
        assert np.allclose(encode(texts, kind_of_text), wanted, atol=1e-5), kind_of_text


@pytest.mark.slow
def test_a_model_that_no_small_network_keeps_stays_in_full(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(encoders, "SAME", 1.1)
    told = export_encoder(encoders.ENCODER, tmp_path / "e")
    assert told["precision"] == "float32" and told["cosine"] == 1.0
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["encoder.json", "model.onnx", "tokenizer.json"]


@pytest.mark.slow
def test_encoding_imports_no_torch(tmp_path):
    folder = tiny_encoder(tmp_path, ["pen"]).folder
    code = (
        "import sys; from recsys_lab.encoders import Encoder\n"
        f"Encoder({str(folder)!r})(['pen'])\n"
        "print([n for n in ('torch', 'transformers', 'sentence_transformers', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
