"""Laws of the registry: only the very bytes that were measured are opened, nothing that could run is opened, and no model goes without a card."""
import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atomsnb.models import registry as room
from atomsnb.models.encoder import ModelNotFoundError, WeightsError, _offline
from atomsnb.models.registry import FILE_LIMIT, KINDS, TOTAL_LIMIT, ModelCard, card, list_models, load_weights, read_manifest, save_model, ship, shipped, shipped_file, weights_dir, write_manifest
from atomsnb.models.tokenizer import load_tokenizer
from atomsnb.nn.transformer import Transformer, TransformerConfig

TINY = TransformerConfig(vocab_size=260, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=24, context=32)
CARD = ModelCard("tiny", "causal", "A test.", "bytes", ("Everything.",), data={"text": "none"}, figures={"bits per byte": 8.0}, curves={"loss": [[0, 5.0], [9, 4.0]]})


@pytest.fixture
def saved(tmp_path):
    return save_model(tmp_path / "tiny", Transformer(TINY, seed=3), card=CARD)


# ---- what ships


def test_everything_that_ships_is_in_the_manifest_and_is_what_it_says():
    manifest = read_manifest(weights_dir())
    on_disk = {p.relative_to(weights_dir()).as_posix() for p in weights_dir().rglob("*") if p.is_file() and p.name != "manifest.json"}
    assert on_disk == set(manifest) and "code-bpe/tokenizer.json" in on_disk
    for name, entry in manifest.items():
        assert shipped_file(name).stat().st_size == entry["bytes"]


def test_what_ships_fits_into_the_repository():
    sizes = {p: p.stat().st_size for p in weights_dir().rglob("*") if p.is_file()}
    assert sum(sizes.values()) <= 32 * 2**20 == TOTAL_LIMIT
    assert max(sizes.values()) <= 10 * 2**20 == FILE_LIMIT
    assert not [p.name for p in sizes if p.suffix not in (".json", ".safetensors")]


def test_every_shipped_model_has_a_whole_card():
    cards = list_models()
    assert [c.name for c in cards] == shipped()
    for c in cards:
        config, tensors, same = load_weights(c.name)
        assert same == c and c.parameters == sum(t.numel() for t in tensors.values()) and c.bytes == (weights_dir() / c.name / "model.safetensors").stat().st_size
        assert c.data and c.training and c.figures and c.curves and c.limits and "Python" in c.licence and config["atomsnb"]["kind"] == c.kind in KINDS
        assert {t.dtype for t in tensors.values()} == {torch.float32} and all(bool(torch.isfinite(t).all()) for t in tensors.values())
        assert load_tokenizer(c.tokenizer).vocab_size <= config["vocab_size"]
        assert max(map(len, str(c).splitlines())) <= 80


# ---- there and back


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 0.0), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_as_it_was_stored(tmp_path, dtype, tolerance, tied):
    """Relative rounding of 8 (bfloat16) and 11 (float16) significant bits; subnormal float16 below 6e-5."""
    model = Transformer(dataclasses.replace(TINY, tied=tied), seed=1)
    config, tensors, read = load_weights(save_model(tmp_path / "m", model, card=CARD, dtype=dtype))
    again = Transformer(TransformerConfig(**config["atomsnb"]["transformer"]))
    again.load_state_dict(tensors)
    assert again.config == model.config and read.dtype == str(dtype).removeprefix("torch.") and read.parameters == model.config.n_parameters
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values()):
        assert b.dtype == torch.float32 and bool(((a - b).abs() <= tolerance * a.abs() + (6e-8 if dtype == torch.float16 else 0)).all()), name
    assert {t.dtype for t in load_weights(tmp_path / "m", dtype=None).tensors.values()} == {dtype}


def test_saving_what_was_loaded_changes_no_byte(saved, tmp_path):
    model = Transformer(TINY)
    model.load_state_dict(load_weights(saved).tensors)
    other = save_model(tmp_path / "again", model, card=CARD)
    for name in ("model.safetensors", "config.json", "card.json", "manifest.json"):
        assert (saved / name).read_bytes() == (other / name).read_bytes()


def test_transformers_gives_the_logits_of_a_causal_folder_and_refuses_a_masked_one(saved, tmp_path):
    """1e-5: float32 sums in another order, logits of order one."""
    transformers = pytest.importorskip("transformers")
    model = Transformer(TINY).eval()
    model.load_state_dict(load_weights(saved).tensors)
    with _offline():
        peer = transformers.AutoModelForCausalLM.from_pretrained(saved, local_files_only=True, dtype=torch.float32).eval()
    ids = torch.arange(30)[None] * 7 % 256
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, peer(ids).logits, rtol=0, atol=1e-5)
    masked = save_model(tmp_path / "masked", Transformer(dataclasses.replace(TINY, causal=False)), card=dataclasses.replace(CARD, kind="masked"))
    with _offline(), pytest.raises(ValueError, match="atomsnb-masked"):
        transformers.AutoModelForCausalLM.from_pretrained(masked, local_files_only=True)


def test_the_tokenizer_goes_along_when_it_has_a_file(tmp_path):
    pytest.importorskip("tokenizers")
    folder = save_model(tmp_path / "m", Transformer(dataclasses.replace(TINY, vocab_size=4096)), card=dataclasses.replace(CARD, tokenizer="code-bpe"), tokenizer=load_tokenizer())
    assert load_tokenizer(folder).encode("def f") == load_tokenizer().encode("def f") and "tokenizer.json" in read_manifest(folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["pad_token_id"], config["eos_token_id"]) == (0, 1)
    bare = save_model(tmp_path / "b", Transformer(TINY), card=CARD, tokenizer=load_tokenizer("bytes"))
    assert load_tokenizer(bare).name == "bytes" and json.loads((bare / "config.json").read_text())["eos_token_id"] == 257


def test_saving_again_replaces_and_a_failure_leaves_the_old_model(saved, monkeypatch):
    before = load_weights(saved)
    save_model(saved, Transformer(TINY, seed=4), card=CARD)
    after = load_weights(saved)
    assert not torch.equal(before.tensors["model.embed_tokens.weight"], after.tensors["model.embed_tokens.weight"])
    def fail(*_):
        raise OSError("disk full")
    monkeypatch.setattr(room, "write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(saved, Transformer(TINY, seed=5), card=CARD)
    assert torch.equal(load_weights(saved).tensors["model.embed_tokens.weight"], after.tensors["model.embed_tokens.weight"])
    assert sorted(p.name for p in saved.parent.iterdir()) == ["tiny"]  # nothing half-made is left


# ---- faults, each by its name


def rewrite(name, change):
    def plant(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))
    return plant


FAULTS = {
    "a bit flipped": (rewrite("model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 4])), WeightsError, "corrupted"),
    "cut short": (rewrite("model.safetensors", lambda b: b[:-1]), WeightsError, "cut short"),
    "header cut": (rewrite("model.safetensors", lambda b: b[:40]), WeightsError, "cut short"),
    "too long": (rewrite("model.safetensors", lambda b: b + b"x"), WeightsError, "1 bytes too many"),
    "empty": (rewrite("model.safetensors", lambda b: b""), WeightsError, "is empty"),
    "a zip of torch.save": (lambda f: torch.save({"w": torch.ones(3)}, f / "model.safetensors"), WeightsError, "pickles are never opened"),
    "a pickle": (rewrite("model.safetensors", lambda b: pickle.dumps({"w": 1})), WeightsError, "is a pickle"),
    "an old pickle": (rewrite("model.safetensors", lambda b: pickle.dumps({"w": [1, 2]}, protocol=2)), WeightsError, "is a pickle"),
    "only a pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), WeightsError, "pytorch_model.bin, a pickle"),
    "a pointer": (rewrite("model.safetensors", lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), WeightsError, "git lfs pull"),
    "noise": (rewrite("model.safetensors", lambda b: b"\xff" * 100), WeightsError, "no safetensors file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ModelNotFoundError, "holds no model.safetensors"),
    "no configuration": (lambda f: (f / "config.json").unlink(), ModelNotFoundError, "holds no config.json"),
    "other configuration": (rewrite("config.json", lambda b: b.replace(b'"hidden_size": 16', b'"hidden_size": 32')), WeightsError, "config.json is corrupted"),
    "other card": (rewrite("card.json", lambda b: b.replace(b"Everything", b"Nothing")), WeightsError, "card.json"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), WeightsError, "verify=False"),
    "damaged manifest": (rewrite("manifest.json", lambda b: b[:-30]), WeightsError, "manifest.json of tiny is damaged"),
    "not in the manifest": (rewrite("manifest.json", lambda b: b.replace(b"model.safetensors", b"model.safetensorz")), WeightsError, "not in manifest.json"),
    "another hash": (lambda f: rewrite("manifest.json", lambda b: b.replace(read_manifest(f)["model.safetensors"]["sha256"].encode(), b"0" * 64))(f), WeightsError, "0000000000000000"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_by_its_name(fault, saved):
    plant, error, words = FAULTS[fault]
    plant(saved)
    with pytest.raises(error, match=words.replace(".", r"\.")):
        load_weights(saved)


@settings(max_examples=25)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_seen(place, bit, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    if not folder.is_dir():
        save_model(folder, Transformer(TINY, seed=3), card=CARD)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    where = int(place * len(whole))
    try:
        file.write_bytes(whole[:where] + bytes([whole[where] ^ (1 << bit)]) + whole[where + 1 :])
        with pytest.raises(WeightsError):
            load_weights(folder)
    finally:
        file.write_bytes(whole)


def test_no_pickle_is_opened(saved, tmp_path):
    """A pickle that would write a file when opened, under every name that a loader might try."""
    proof = tmp_path / "it ran"
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (proof,))
    for name in ("model.safetensors", "pytorch_model.bin", "config.json", "card.json"):
        folder = tmp_path / name
        shutil.copytree(saved, folder)
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Bomb()))
        for verify in (True, False):
            with pytest.raises((WeightsError, ModelNotFoundError)):
                load_weights(folder, verify=verify)
        (folder / "manifest.json").unlink()
        with pytest.raises((WeightsError, ModelNotFoundError)):
            load_weights(folder, verify=False)
    assert not proof.exists()


def test_a_folder_of_other_origin_is_read_when_one_says_so(saved):
    (saved / "manifest.json").unlink()
    (saved / "card.json").unlink()
    config, tensors, none = load_weights(saved, verify=False)
    assert none is None and config["hidden_size"] == 16 and len(tensors) > 5
    with pytest.raises(ModelNotFoundError, match="card.json"):
        card(saved)
    shutil.copy(saved / "model.safetensors", saved / "model.safetensors.index.json")
    (saved / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="several files"):
        load_weights(saved, verify=False)


@pytest.mark.parametrize("name, error", [("code-ml", ModelNotFoundError), ("", ModelNotFoundError), ("../weights", ModelNotFoundError), (3, TypeError), (None, TypeError)])
def test_a_name_that_leads_nowhere_is_refused(name, error):
    for call in (load_weights, card):
        with pytest.raises(error):
            call(name)
    with pytest.raises(ModelNotFoundError, match="nearest: code-bpe/tokenizer.json"):
        shipped_file("code-bpe/tokeniser.json")


# ---- cards


def test_a_card_survives_json_and_prints_in_eighty_columns(saved):
    read = card(saved)
    assert ModelCard.from_dict(json.loads(json.dumps(read.as_dict()))) == read and read.as_dict()["figures"] == {"bits per byte": 8.0}
    long = dataclasses.replace(read, summary="word " * 60, limits=("sentence " * 40,), data={"key": ["value"] * 60})
    assert max(map(len, str(long).splitlines())) <= 80 and "not good for" in str(long) and read.sha256 in str(read)


@pytest.mark.parametrize("change, words", [({"limits": ()}, "not good for"), ({"limits": ("", )}, "limits"), ({"kind": "good"}, "kind"), ({"name": "Up/Down"}, "name"), ({"summary": ""}, "summary"), ({"tokenizer": " "}, "tokenizer"), ({"licence": ""}, "licence")])
def test_a_card_that_says_nothing_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CARD, **change)


def test_unknown_and_missing_entries_of_a_card_are_named():
    with pytest.raises(TypeError, match="limits"):
        dataclasses.replace(CARD, limits="one sentence")
    with pytest.raises(ValueError, match="no entry 'limit'; nearest: limits"):
        ModelCard.from_dict(CARD.as_dict() | {"limit": 3})
    with pytest.raises(ValueError, match="needs summary"):
        ModelCard.from_dict({k: v for k, v in CARD.as_dict().items() if k != "summary"})


# ---- refusals of save_model


def test_what_should_not_be_saved_is_refused(tmp_path):
    model = Transformer(TINY)
    for options, error, words in (({"card": {}}, TypeError, "card"), ({"card": dataclasses.replace(CARD, kind="masked")}, ValueError, "causal"), ({"card": CARD, "dtype": torch.int8}, TypeError, "dtype")):
        with pytest.raises(error, match=words):
            save_model(tmp_path / "x", model, **options)
    with pytest.raises(TypeError, match="TransformerConfig"):
        save_model(tmp_path / "x", torch.nn.Linear(2, 2), card=CARD)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(ValueError, match="photos is not empty"):
        save_model(tmp_path / "photos", model, card=CARD)
    assert (tmp_path / "photos" / "cat.png").exists() and not (tmp_path / "x").exists()
    for value, dtype in ((float("nan"), torch.float32), (float("inf"), torch.bfloat16), (1e30, torch.float16)):
        broken = Transformer(TINY)
        with torch.no_grad():
            broken.model.norm.weight[3] = value
        with pytest.raises(ValueError, match="model.norm.weight has values that are not finite"):
            save_model(tmp_path / "x", broken, card=CARD, dtype=dtype)


# ---- shipping


def test_a_shipped_model_is_found_by_name(saved, tmp_path, monkeypatch):
    root = tmp_path / "weights"
    root.mkdir()
    write_manifest(root)
    ship(saved, root=root)
    monkeypatch.setattr(room, "weights_dir", lambda: root)
    assert shipped() == ["tiny"] and list_models() == [card(saved)] and (root / "tiny" / "manifest.json").exists() is False
    for a, b in zip(load_weights("tiny").tensors.values(), load_weights(saved).tensors.values()):
        assert torch.equal(a, b)
    assert load_weights(root / "tiny").card == card("tiny")  # by its folder: verified against the shipped manifest
    file = root / "tiny" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-2])
    for name in ("tiny", root / "tiny"):
        with pytest.raises(WeightsError, match="tiny/model.safetensors is cut short"):
            load_weights(name)
    file.unlink()
    with pytest.raises(ModelNotFoundError):
        load_weights("tiny")


def test_a_damaged_file_beside_it_stops_a_model_from_shipping(saved, tmp_path):
    """A new manifest hashes everything anew, and would vouch for what was damaged before."""
    root = tmp_path / "weights"
    ship(saved, root=root)
    before = (root / "manifest.json").read_bytes()
    (root / "tiny" / "card.json").write_text("{}")
    with pytest.raises(WeightsError, match="card.json"):
        ship(saved, "other", root=root)
    assert not (root / "other").exists() and (root / "manifest.json").read_bytes() == before
    ship(saved, root=root)  # its own folder is replaced, and may be damaged
    assert (root / "tiny" / "card.json").read_text() != "{}"


def test_a_damaged_or_too_large_model_does_not_ship(saved, tmp_path, monkeypatch):
    root = tmp_path / "weights"
    root.mkdir()
    write_manifest(root)
    monkeypatch.setattr(room, "FILE_LIMIT", 1000)
    with pytest.raises(ValueError, match="weight files of at most"):
        ship(saved, root=root)
    monkeypatch.undo()
    rewrite("model.safetensors", lambda b: b[:-1])(saved)
    with pytest.raises(WeightsError):
        ship(saved, root=root)
    assert read_manifest(root) == {}


def test_the_registry_imports_no_transformers():
    code = "import sys\nimport atomsnb.models.registry, atomsnb.models.tokenizer, atomsnb.models.corpus, atomsnb.models.ngram\nassert not {'transformers', 'tokenizers', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
