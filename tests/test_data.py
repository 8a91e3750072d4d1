"""Laws of the offline data: sides follow from names, copies stay together, nothing depends on the process or the network."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import atomsnb
from atomsnb.core import data
from atomsnb.core.data import DATASETS, EXCLUDED, SHARES, THREE_SHARES, assign_splits, load, near_duplicates, split_of, stdlib_docs, stdlib_source

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon".split()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ATOMSNB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def _tree(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


# ---- sides


def test_side_of_a_path_never_changes():
    # Frozen values: changing the rule would move files between training and held-out sets of stored results.
    known = {"json/decoder.py": "train", "ast.py": "validation", "asyncio/tasks.py": "fit", "decimal.py": "train", "sre_parse.py": "heldout", "lzma.py": "train"}
    assert {path: split_of(path) for path in known} == known


@given(st.lists(st.text("abcdefghij_", min_size=1, max_size=8), min_size=1, max_size=4))
def test_side_does_not_depend_on_how_the_path_is_spelt(parts):
    plain = "/".join(parts)
    assert split_of(plain) == split_of("./" + plain) == split_of("\\".join(parts)) == split_of(Path(plain)) in SHARES


def test_side_is_the_first_whose_cumulated_share_exceeds_the_hash():
    for name in (f"f{number}" for number in range(3000)):  # many, so that every bound has names close by on both sides
        u = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64
        assert split_of(name) == next(side for side, bound in zip(SHARES, np.cumsum(list(SHARES.values()))) if u < bound)


def test_unicode_spellings_of_one_name_share_a_side():
    assert split_of("caf\u00e9.py") == split_of("cafe\u0301.py")


@pytest.mark.parametrize("path", ["", "/abs.py", "../up.py", "a/../../b.py", "."])
def test_path_outside_the_root_is_refused(path):
    with pytest.raises(ValueError, match="below the root"): split_of(path)


@pytest.mark.parametrize("path", [None, 3, b"a.py"])
def test_path_of_another_type_is_refused(path):
    with pytest.raises(TypeError, match="relative_path"): split_of(path)


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="shares"): split_of("a.py", shares)


# ---- near-duplicates


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join), min_size=2, max_size=6), st.integers(1, 9))
def test_near_duplicates_equal_brute_force_over_sets(texts, words):
    def sequences(text):
        found = text.split()
        found += [""] * (words - len(found))
        return {tuple(found[i:i + words]) for i in range(len(found) - words + 1)}

    sets = [sequences(text) for text in texts]
    brute = [(i, j, len(sets[i] & sets[j]) / len(sets[i] | sets[j])) for i in range(len(sets)) for j in range(i + 1, len(sets))]
    assert near_duplicates(texts, 0.2, words) == [entry for entry in brute if entry[2] >= 0.2]  # exact: one division of the same integers


@given(st.permutations(["m.py", "a.py", "z.py", "k.py"]))
def test_sides_do_not_depend_on_the_order_of_files(order):
    texts = {"m.py": " ".join(WORDS), "a.py": " ".join(WORDS[1:]), "z.py": " ".join(WORDS[2:]), "k.py": " ".join(reversed(WORDS))}
    sides = assign_splits({path: texts[path] for path in order})
    assert sides == assign_splits(texts) and sides["m.py"] == sides["a.py"] == sides["z.py"] == split_of("a.py") and sides["k.py"] == split_of("k.py")


def test_chains_of_near_duplicates_share_a_side():
    long = [f"word{i}" for i in range(120)]
    texts = {f"{name}.py": " ".join(long[start:start + 60]) for name, start in zip("abcd", (0, 20, 40, 60))}
    assert {(i, j) for i, j, _ in near_duplicates([texts[p] for p in sorted(texts)])} == {(0, 1), (1, 2), (2, 3)}  # the ends are not similar
    assert len(set(assign_splits(texts).values())) == 1


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan"), "0.5"])
def test_threshold_out_of_range_is_refused(threshold):
    with pytest.raises((TypeError, ValueError), match="threshold"): near_duplicates(["a", "b"], threshold)


# ---- standard library


def test_documents_of_the_standard_library_are_all_on_one_side_and_none_is_excluded():
    source = load("stdlib_source")
    assert len(source) > 200 and set(source.splits) == set(SHARES) and all(source.splits.values())
    paths = [document.path for document in source.documents]
    assert paths == sorted(set(paths)) == sorted(path for part in source.splits.values() for path in part)
    assert not any(set(Path(path).parts[:-1]) & set(EXCLUDED) for path in paths)
    assert {"json/decoder.py", "ast.py", "argparse.py"} <= set(paths)
    assert not any(document.text.count("\r") for document in source.documents)


def test_shares_of_characters_are_roughly_as_documented():
    source = load("stdlib_source")
    files = {side: len(part) / len(source) for side, part in source.splits.items()}
    assert all(abs(files[side] - share) < 4 * (share * (1 - share) / len(source)) ** 0.5 for side, share in SHARES.items())  # four standard errors


def test_no_near_duplicates_across_sides():
    source = load("stdlib_source")
    for i, j, _ in near_duplicates(source.texts()): assert source.documents[i].split == source.documents[j].split


def test_docstring_lies_on_the_side_of_its_file():
    side = {document.path: document.split for document in load("stdlib_source").documents}
    for unit in ("module", "object"):
        docs = load("stdlib_docs", unit=unit)
        assert all(document.split == side[document.path.split("::")[0]] for document in docs.documents) and len({d.path for d in docs.documents}) > 300


def test_docstrings_are_those_of_ast(tmp_path):
    root = _tree(tmp_path, {"m.py": '"""Module."""\nclass A:\n    """Class\n       A."""\n    async def f(self):\n        """Method."""\nif True:\n    def g():\n        "Function."\n', "bad.py": "def (:\n", "none.py": "x = 1\n"})
    docs = stdlib_docs(unit="object", root=root)
    assert [(d.path, d.text) for d in docs.documents] == [("m.py::<module>", "Module."), ("m.py::A", "Class\nA."), ("m.py::A.f", "Method."), ("m.py::g", "Function.")]
    assert any("bad.py" in note for note in docs.notes)
    assert stdlib_docs(root=root).texts() == ["Module.\n\nClass\nA.\n\nMethod.\n\nFunction.\n"]


def test_files_are_decoded_by_their_cookie_and_not_by_the_locale(tmp_path):
    root = _tree(tmp_path, {"latin.py": "# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"), "bom.py": b"\xef\xbb\xbfy = 'caf\xc3\xa9'\r\n", "broken.py": b"z = '\xff'\n", "empty.py": b"\n"})
    source = stdlib_source(root=root)
    assert {d.path: d.text for d in source.documents} == {"latin.py": "# -*- coding: latin-1 -*-\nx = 'é'\n", "bom.py": "y = 'café'\n"}
    assert any("broken.py" in note for note in source.notes)


def test_hash_changes_with_content_and_with_split(tmp_path):
    one = stdlib_source(root=_tree(tmp_path / "1", {"a.py": "x = 1\n", "b.py": "y = 2\n"}))
    same = stdlib_source(root=_tree(tmp_path / "2", {"b.py": "y = 2\n", "a.py": "x = 1\n"}))
    other = stdlib_source(root=_tree(tmp_path / "3", {"a.py": "x = 1\n", "b.py": "y = 3\n"}))
    renamed = stdlib_source(root=_tree(tmp_path / "4", {"a.py": "x = 1\n", "c.py": "y = 2\n"}))
    assert one.sha256 == same.sha256 and len({one.sha256, other.sha256, renamed.sha256}) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"key": "x", "sha256": "y", "value": {}}', b"\xff\xfe", None])
def test_a_damaged_cache_is_computed_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("ATOMSNB_CACHE", str(tmp_path / "cache"))
    root = _tree(tmp_path / "tree", {"a.py": '"""One."""\n', "b.py": '"""Two."""\n'})
    before = stdlib_docs(root=root)
    stored = sorted((tmp_path / "cache" / "data").glob("*.json"))
    assert stored
    for path in stored:
        if damage is None:  # a plausible file whose value was edited
            content = json.loads(path.read_text())
            content["value"] = {"a.py": "heldout", "b.py": "heldout"}
            path.write_text(json.dumps(content))
        else: path.write_bytes(damage)
    assert stdlib_docs(root=root).sha256 == before.sha256


def test_an_unwritable_cache_is_no_obstacle(tmp_path, monkeypatch):
    root = _tree(tmp_path / "tree", {"a.py": '"""One."""\n'})

    def refuse(*_): raise OSError("read-only file system")

    monkeypatch.setattr(data, "atomic_write", refuse)
    monkeypatch.setenv("ATOMSNB_CACHE", str(tmp_path / "other"))
    assert stdlib_docs(root=root).texts() == ["One.\n"]


@pytest.mark.parametrize("root", ["missing", "file"])
def test_a_root_without_sources_is_refused(tmp_path, root):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="root"): stdlib_source(root=tmp_path / root)
    with pytest.raises(ValueError, match="no Python source"): stdlib_source(root=_tree(tmp_path / "empty", {"readme.txt": "x"}))


@pytest.mark.slow
def test_hash_does_not_depend_on_hash_seed_locale_or_folder(tmp_path):
    code = "from atomsnb.core.data import load; print(load('stdlib_docs').sha256, load('digits').sha256)"
    seen = set()
    for seed, locale in (("0", "C"), ("7", "de_DE.UTF-8")):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "ATOMSNB_CACHE": str(folder), "PYTHONPATH": str(Path(atomsnb.__file__).parent.parent)}
        seen.add(subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(seen) == 1


# ---- arrays


def test_identical_digits_share_a_side_and_rows_partition_the_set():
    ds = load("digits")
    rows = np.concatenate(list(ds.splits.values()))
    assert sorted(rows) == list(range(1797)) and tuple(ds.splits) == tuple(THREE_SHARES)
    part = ds.part("train")
    assert part["images"].shape == (len(ds.splits["train"]), 8, 8) and part["images"].dtype == np.float32 and part["target"].dtype == np.int64
    assert 0 <= ds.arrays["images"].min() and ds.arrays["images"].max() == 16


def test_shared_arrays_cannot_be_written_to():
    for name in ("digits", "photos", "series"):
        for array in load(name).arrays.values():
            with pytest.raises(ValueError, match="read-only"): array[...] = 0


def test_series_are_cut_in_time_and_nowhere_else():
    ds = load("series")
    for name, values in ds.arrays.items():
        cuts = [ds.splits[side][name] for side in THREE_SHARES]
        assert cuts[0][0] == 0 and cuts[-1][1] == len(values) and all(a[1] == b[0] for a, b in zip(cuts, cuts[1:]))
        assert np.isfinite(values).all() and values.shape[1] == len(ds.columns[name])


def test_gaps_are_filled_on_a_straight_line():
    values, missing = data._filled(np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan], [6.0, 4.0]]))
    assert missing == 4 and np.array_equal(values, [[2, 1], [2, 2], [4, 3], [6, 4]])


def test_photos_are_uint8_and_a_stereo_pair_shares_a_side():
    ds, grey = load("photos"), load("photos", grey=True, names=["coffee", "moon"])
    assert len(ds) == 22 and all(a.dtype == np.uint8 and a.ndim in (2, 3) for a in ds.arrays.values())
    side = {name: s for s, names in ds.splits.items() for name in names}
    assert side["motorcycle/left"] == side["motorcycle/right"]
    assert grey.arrays["coffee"].shape == (400, 600) and np.array_equal(grey.arrays["moon"], ds.arrays["moon"]) and grey.sha256 != ds.sha256


def test_views_of_one_scene_share_a_side(monkeypatch):
    monkeypatch.setattr(data, "PHOTOS", {f"scene/{view}": data.PHOTOS["text"] for view in range(12)})
    assert sorted(len(part) for part in data.photos().splits.values()) == [0, 0, 12]


def test_hash_changes_when_only_the_split_does():
    documents = (data.Document("a.py", "a", "train"), data.Document("b.py", "b", "heldout"))
    one, other = (data.Dataset("n", "s", documents, splits={"train": (x,), "heldout": (y,)}, hashes={"a.py": "1", "b.py": "2"}) for x, y in ("ab", "ba"))
    assert one.sha256 != other.sha256


def test_a_picture_that_is_another_is_refused(monkeypatch):
    monkeypatch.setattr(data, "PHOTOS", {"coffee": ("skimage", "coffee.png", "0" * 16)})
    with pytest.raises(ValueError, match="expected 0000000000000000"): data.photos(names=["coffee"])
    monkeypatch.setattr(data, "PHOTOS", {"coffee": ("skimage", "not_there.png", "0" * 16)})
    with pytest.raises(ValueError, match="does not bring"): data.photos(names=["coffee"])


# ---- the door


@pytest.mark.parametrize(("name", "options", "error", "words"), [
    ("digit", {}, ValueError, "'digits'"), ("stdlib", {}, ValueError, "stdlib_source"), ("", {}, ValueError, "accepted"), (None, {}, TypeError, "NoneType"), (3, {}, TypeError, "int"),
    ("photos", {"gray": True}, ValueError, "grey"), ("digits", {"scaled": True}, ValueError, "none"), ("photos", {"names": "coffee"}, TypeError, "list"), ("photos", {"names": []}, ValueError, "empty"),
    ("photos", {"names": ["cofee"]}, ValueError, "coffee"), ("series", {"names": ["nil"]}, ValueError, "nile"), ("series", {"names": []}, ValueError, "empty"), ("series", {"names": "nile"}, TypeError, "list"),
    ("stdlib_docs", {"unit": "class"}, ValueError, "unit"), ("stdlib_docs", {"near_duplicates": 2}, ValueError, "near_duplicates"), ("stdlib_docs", {"near_duplicates": "x"}, TypeError, "near_duplicates")])
def test_a_wrong_name_or_option_is_named_with_what_is_accepted(name, options, error, words):
    with pytest.raises(error, match=words): load(name, **options)


def test_a_wrong_side_is_named_with_what_is_accepted():
    with pytest.raises(ValueError, match="heldout"): load("stdlib_docs").texts("test")
    with pytest.raises(ValueError, match="heldout"): load("digits").part("held-out")
    with pytest.raises(ValueError, match="part"): load("digits").texts("train")


def test_the_same_request_gives_the_same_object():
    assert load("series", names=["nile"]) is load("series", names=["nile"]) is not load("series")


def test_every_dataset_loads_without_a_network(monkeypatch):
    def refuse(*args, **kwargs): raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name, make in DATASETS.items():
        ds = make()
        assert ds.name == name and len(ds.sha256) == 64 and ds.sha256 in ds.describe() and len(ds)
