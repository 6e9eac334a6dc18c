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
