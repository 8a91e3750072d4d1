"""Laws of atomsnb.core.record and atomsnb.core.ledger: nothing is measured before it is declared, no verdict is typed, no file contradicts itself."""
import dataclasses
import functools
import io
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient

from atomsnb.core import ledger as room
from atomsnb.core.ledger import Change, Claim, Ledger, LedgerError, committed, compare, load_ledger, stale
from atomsnb.core.record import SCHEMA, parse_records, read_json, spread, to_values, write_json
from atomsnb.core.rule import judge
from atomsnb.core.runtime import Config

ROOT = Path(__file__).resolve().parent.parent
FLOATS = st.floats(-1e6, 1e6, allow_nan=False)
DECLARED = dict(statement="It works", source="Table 1", source_certainty="paper", paper_value=0.9, unit="%", paper_conditions="big", rule="ours > 0.5", refuted_if="half or less")


def declared(book, id="works", **changes):
    return book.claim(id, **{**DECLARED, **changes})


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty checkout, so that committed claims are the test's own."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("lib_name = atomsnb\n")
    monkeypatch.setenv("ATOMSNB_HOME", str(tmp_path))
    monkeypatch.delenv("ATOMSNB_OUT", raising=False)
    return tmp_path


@pytest.fixture
def book(home):
    """A ledger with each verdict."""
    book = Ledger("demo.toy", scale="cpu", config={"steps": 3})
    declared(book, "works")
    declared(book, "partly", rule="ours - control > 0.1", source_certainty="known")
    declared(book, "fails", rule="ours > peer", source_certainty="secondary")
    declared(book, "absent", paper_value=None)
    book.measure("works", ours=[0.75, 0.8, 0.7], conditions="small", seeds=[0, 1, 2])
    book.measure("partly", ours=[0.5, 0.9], control=[0.5, 0.5])
    book.measure("fails", ours=0.25, peer=0.5, data_hash="a" * 64, wall_s=1, peak_mb=10)
    book.not_testable("absent", "needs a model of two billion parameters")
    return book


def edit(book, tmp_path, id="works", **changes):
    """Load the ledger's file after one record was edited; a value of ... deletes the key."""
    content = json.loads(book.to_json())
    record = next(r for r in content["records"] if r["claim_id"] == id)
    for key, value in changes.items():
        record.pop(key, None) if value is ... else record.update({key: value})
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    return load_ledger(path)


# -- declaring and measuring -------------------------------------------------------------------------------------------------------------


def test_verdicts_are_computed(book):
    assert book.verdicts() == {"works": "holds", "partly": "holds in part", "fails": "refuted", "absent": "not testable here"}


def test_record_carries_every_field_of_the_schema(book):
    record = book["works"]
    names = [f.name for f in dataclasses.fields(record)]
    assert names == list(SCHEMA["properties"]["records"]["items"]["properties"]) and list(record.as_dict()) == names
    assert record.median == 0.75 and record.spread == pytest.approx(0.1, abs=1e-12) and record.n_seeds == 3 and record.seeds == (0, 1, 2)
    assert re.fullmatch(r"[0-9a-f]{64}", record.config_hash) and record.threads == torch.get_num_threads() and set(record.versions) == {"python", "torch", "numpy", "atomsnb"}
    assert record.wall_s >= 0 and record.peak_mb > 10 and re.fullmatch(r"\d{4}-\d\d-\d\d", record.date) and record.commit is None
    assert book["fails"].spread is None and book["fails"].wall_s == 1 and book["absent"].reason and "holds: 0.75 %" in str(record)


def test_measuring_what_was_never_declared_is_an_error(book):
    for call in (lambda: book.measure("wroks", ours=[1.0]), lambda: book.not_testable("wroks", "no"), lambda: book["wroks"]):
        with pytest.raises(LedgerError, match="never declared in demo.toy; nearest: works"):
            call()
    fresh = Ledger("demo.toy")
    declared(fresh)
    with pytest.raises(LedgerError, match="not measured yet"):
        fresh["works"]


def test_measuring_twice_needs_an_explicit_overwrite(book):
    for call in (lambda: book.measure("works", ours=[0.75, 0.8, 0.7]), lambda: book.measure("absent", ours=[1.0]), lambda: book.not_testable("works", "tired")):
        with pytest.raises(LedgerError, match="overwrite=True"):
            call()
    assert book.measure("works", ours=[0.1], overwrite=True).verdict == "refuted"
    assert book.not_testable("works", "too slow", overwrite=True).ours is None


def test_a_failed_measurement_leaves_the_earlier_one(book):
    before = book.to_json()
    with pytest.raises(LedgerError):
        book.measure("works", ours=[math.nan], overwrite=True)
    assert book.to_json() == before


@pytest.mark.parametrize(
    "change", [{"rule": "ours > 0.4"}, {"paper_value": 0.8}, {"statement": "It mostly works"}, {"refuted_if": "never"}, {"source": "Table 2"}, {"source_certainty": "known"}, {"unit": ""}]
)
def test_a_declaration_cannot_change_after_the_measurement(book, change):
    assert declared(book) == book.claims["works"]  # the same again is harmless: cells are run twice
    with pytest.raises(LedgerError, match=f"its {next(iter(change))} cannot change after the fact"):
        declared(book, **change)
    fresh = Ledger("demo.toy")
    declared(fresh)
    assert declared(fresh, **change) == fresh.claims["works"]


@pytest.mark.parametrize(
    "change, part",
    [
        ({"id": ""}, "id is"), ({"id": "a b"}, "id is"), ({"id": "../x"}, "id is"), ({"id": None}, "id is"), ({"id": "x" * 65}, "id is"),
        ({"statement": " "}, "statement"), ({"statement": 3}, "statement"), ({"source": ""}, "source"), ({"refuted_if": None}, "refuted_if"), ({"unit": None}, "unit"),
        ({"source_certainty": "papr"}, "did you mean 'paper'"), ({"paper_value": math.nan}, "paper_value is nan"), ({"paper_value": -math.inf}, "-inf"), ({"paper_value": "0.9"}, "paper_value"),
        ({"paper_value": True}, "paper_value"), ({"rule": "ours"}, "is a number"), ({"rule": "__import__('os') > ours"}, "Call has no meaning"), ({"rule": None}, "rule"),
        ({"rule": "ours > paper", "paper_value": None}, "paper_value is None"), ({"paper_conditions": ["a"]}, "paper_conditions"),
    ],
)  # fmt: skip
def test_unusable_claim_is_refused_by_field(change, part):
    with pytest.raises(LedgerError) as caught:
        Claim(**{"id": "works", **DECLARED, **change})
    assert part in str(caught.value)


BAD_VALUES = [math.nan, math.inf, -math.inf, [], [1.0, math.nan], [[1.0]], np.ones((2, 2)), torch.ones(1, 1), "1.0", ["1.0"], None, [None], True, [True], 1j, {"a": 1.0}, {1.0}, torch.empty(0), np.array(["a"]), 10**400, object()]


@pytest.mark.parametrize("bad", BAD_VALUES, ids=lambda v: repr(v)[:30])
def test_bad_value_is_refused_wherever_it_stands(book, bad):
    before = book.to_json()
    for name in ("ours", "peer", "control"):
        if bad is None and name != "ours":
            continue  # None is how a peer is left out
        with pytest.raises(LedgerError, match=name):
            book.measure("works", **{"ours": [0.5], name: bad}, overwrite=True)
    assert book.to_json() == before


@pytest.mark.parametrize(
    "bad",
    [
        {"seeds": [0]}, {"seeds": [0, 0]}, {"seeds": [0, 0, 1]}, {"seeds": [0.5, 1]}, {"seeds": ["0", "1"]}, {"seeds": [True, False]}, {"data_hash": "abc"}, {"data_hash": 3}, {"wall_s": -1},
        {"wall_s": math.nan}, {"peak_mb": "10"}, {"conditions": None}, {"conditions": 3}, {"seeds": "01"}, {"peak_mb": -0.5},
    ],
)  # fmt: skip
def test_bad_provenance_is_refused(book, bad):
    with pytest.raises((LedgerError, TypeError, ValueError)):
        book.measure("works", ours=[0.5, 0.6], overwrite=True, **bad)


@pytest.mark.parametrize("name", ["ours", "peer", "control"])
def test_a_spread_beyond_the_range_is_refused_by_claim_and_column(book, name):
    before = book.to_json()
    with pytest.raises(LedgerError, match=f"spread of {name} of claim 'works' leaves the range"):
        book.measure("works", **{"ours": [1.0, 2.0], name: [-1.7e308, 1.7e308]}, overwrite=True)
    assert book.to_json() == before


def test_a_spread_beyond_the_range_in_a_file_is_refused(book, tmp_path):
    book.measure("works", ours=[1.0, 2.0], peer=[1.0, 2.0], overwrite=True)
    file = tmp_path / "claims.json"
    content = json.loads(book.to_json())
    next(r for r in content["records"] if r["claim_id"] == "works")["peer"] = [-1.7e308, 1.7e308]
    file.write_text(json.dumps(content))
    with pytest.raises(LedgerError, match="spread of peer of record works"):
        load_ledger(file)


def test_the_median_of_values_whose_sum_overflows_is_shown():
    book = Ledger("demo.coin")
    declared(book)
    record = book.measure("works", ours=[1.6e308, 1.7e308], peer=[1.7e308, 1.7e308])
    assert math.isclose(record.median, 1.65e308) and "1.65e+308" in str(record) and "1.65e+308" in book._repr_html_() and "1.7e+308" in book._repr_html_()


@pytest.mark.parametrize("missing", [{}, {"control": [1.0]}, {"control": [1.0, 2.0, 3.0]}])
def test_a_rule_about_the_control_needs_it_for_every_seed(book, missing):
    with pytest.raises(LedgerError, match="control"):
        book.measure("partly", ours=[1.0, 2.0], overwrite=True, **missing)


@pytest.mark.parametrize("bad", [" ", "", None, 3])
def test_not_testable_needs_a_reason(book, bad):
    with pytest.raises(LedgerError, match="reason"):
        book.not_testable("absent", bad, overwrite=True)


@pytest.mark.parametrize("paper, scale", [("", "cpu"), ("a/b", "cpu"), ("../x", "cpu"), (None, "cpu"), ("A.b", "cpu"), ("a.b", "gup"), ("a.b", None), ("a..b", "cpu")])
def test_unusable_name_or_scale_is_refused(paper, scale):
    with pytest.raises(ValueError):
        Ledger(paper, scale)


def test_values_come_from_numbers_arrays_and_tensors():
    for values in ([0.5, 0.25], (0.5, 0.25), np.array([0.5, 0.25]), torch.tensor([0.5, 0.25], dtype=torch.bfloat16, requires_grad=True), [np.float32(0.5), torch.tensor(0.25)]):
        assert to_values(values, "ours") == (0.5, 0.25)
    assert to_values(1, "ours") == (1.0,) and spread((1.0,)) is None


def test_config_hash_is_the_configs_own(home):
    @dataclasses.dataclass(frozen=True)
    class Toy(Config):
        steps: int = 3

    assert Ledger("demo.toy", config=Toy()).config_hash == Toy().sha256 == Ledger("demo.toy", config={"steps": 3}).config_hash
    assert Ledger("demo.toy").config_hash is None


# -- files -------------------------------------------------------------------------------------------------------------------------------

RULES = {"ours > 0": {}, "ours - control > 0.1": {"control"}, "abs(ours - paper) < 1 and ours > peer": {"peer"}}


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True), st.tuples(st.sampled_from(sorted(RULES)), st.lists(st.tuples(FLOATS, FLOATS, FLOATS), min_size=1, max_size=4), st.text(max_size=10)), max_size=4))
def test_a_file_round_trips_exactly(entries):
    book = Ledger("demo.nowhere")
    book._stamp = {"commit": None, "code_hash": None, "device": "cpu", "versions": dict.fromkeys(("python", "torch", "numpy", "atomsnb"), "1")}
    for id, (rule, rows, unit) in entries.items():
        declared(book, id, rule=rule, unit=unit)
        ours, peer, control = zip(*rows)
        book.measure(id, ours=ours, peer=peer, control=control)
        assert book[id].verdict == judge(rule, ours, 0.9, peer, control).verdict
    text = book.to_json()
    content = read_json(text)
    assert text == write_json(content) + "\n" and json.loads(text) == content and [r["claim_id"] for r in content["records"]] == sorted(entries)
    assert parse_records(content, "x") == [book.records[id] for id in sorted(entries)]


def test_file_has_one_line_per_field_and_ends_with_a_newline(book, tmp_path):
    path = book.save(tmp_path / "claims.json")
    text = path.read_text()
    assert text == book.to_json() == load_ledger(path).to_json() and text.endswith("}\n") and not text.endswith("\n\n")
    for name in ("ours", "rule", "verdict", "spread", "seeds"):
        assert sum(line.strip().startswith(f'"{name}":') for line in text.splitlines()) == 4
    other = Ledger("demo.toy")
    other.claims, other.records = dict(reversed(book.claims.items())), dict(reversed(book.records.items()))
    assert other.to_json() == text  # the order of measuring does not matter


CONTRADICTIONS = {
    "edited verdict": ("works", {"verdict": "refuted"}, "never typed"),
    "edited verdict of a failure": ("fails", {"verdict": "holds"}, "never typed"),
    "not testable with values": ("works", {"verdict": "not testable here"}, "needs a reason"),
    "testable without values": ("absent", {"verdict": "holds", "reason": None}, "needs values"),
    "holds with a reason": ("works", {"reason": "tired"}, "no reason"),
    "edited values": ("works", {"ours": [0.1, 0.2, 0.3]}, "never typed"),
    "relaxed rule": ("fails", {"rule": "ours > 0"}, "never typed"),
    "rule with spaces": ("works", {"rule": "ours  > 0.5"}, "plain form"),
    "hostile rule": ("works", {"rule": "__import__('os').system('true') or ours > 0"}, "no meaning"),
    "edited spread": ("works", {"spread": 0.0}, "do not follow"),
    "edited count": ("works", {"n_seeds": 30}, "do not follow"),
    "too many seeds": ("works", {"seeds": [0, 1, 2, 3]}, "4 seeds for 3 values"),
    "repeated seeds": ("works", {"seeds": [0, 0, 2]}, "seeds"),
    "control lost": ("partly", {"control": None}, "not measured"),
    "control short": ("partly", {"control": [0.5]}, "seed by seed"),
    "another paper": ("works", {"paper": "demo.other"}, "another paper"),
    "twice": ("works", {"claim_id": "fails"}, "twice"),
    "unknown key": ("works", {"paper_vlaue": 1.0}, "paper_vlaue"),
    "wrong type": ("works", {"ours": "0.9"}, "works|ours"),
    "boolean value": ("works", {"ours": [True, True, True]}, "ours"),
    "empty values": ("works", {"ours": []}, "ours"),
    "blank statement": ("works", {"statement": "  "}, "statement"),
    "unknown certainty": ("works", {"source_certainty": "sure"}, "source_certainty"),
    "unknown verdict": ("works", {"verdict": "reproduced"}, "verdict"),
    "no date": ("works", {"date": "yesterday"}, "date"),
    "hash too short": ("works", {"code_hash": "abc"}, "code_hash"),
    "commit in words": ("works", {"commit": "the last one"}, "commit"),
    "negative time": ("works", {"wall_s": -1}, "wall_s"),
    "further version": ("works", {"versions": {"python": "3", "torch": "2", "numpy": "2", "atomsnb": "0", "cuda": "12"}}, "cuda"),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_file_that_contradicts_itself_is_refused(book, tmp_path, what):
    id, changes, part = CONTRADICTIONS[what]
    with pytest.raises(LedgerError, match=part) as caught:
        edit(book, tmp_path, id, **changes)
    assert "edited.json" in str(caught.value)


@pytest.mark.parametrize("name", list(SCHEMA["properties"]["records"]["items"]["properties"]))
def test_every_field_is_required(book, tmp_path, name):
    with pytest.raises(LedgerError, match=f"'{name}' is a required property"):
        edit(book, tmp_path, **{name: ...})


def test_unedited_and_harmlessly_edited_files_load(book, tmp_path):
    assert edit(book, tmp_path).records == {id: book.records[id] for id in sorted(book.records)}
    assert edit(book, tmp_path, device="elsewhere", wall_s=9.5)["works"].device == "elsewhere"


@pytest.mark.parametrize(
    "text, part",
    [
        ("", "no JSON"), ("{", "no JSON"), ("[]", "top level"), ("null", "top level"), ("[" * 10**6, "no JSON"), ('{"schema": 1}', "required"), ('{"schema": NaN}', "not finite"),
        ('{"schema": 1e999}', "not finite"), ('{"schema": 1, "schema": 1}', "repeated key"), ('{"schema": 2, "paper": "a", "scale": "cpu", "records": []}', "schema"),
        ('{"schema": 1, "paper": "a", "scale": "gup", "records": []}', "scale"), ('{"schema": 1, "paper": "a", "scale": "cpu", "records": [], "note": ""}', "note"),
        ('{"schema": 1, "paper": "a", "scale": "cpu", "records": [1]}', "records/0"),
    ],
    ids=lambda t: t[:40],
)  # fmt: skip
def test_what_is_no_ledger_is_refused(tmp_path, text, part):
    (tmp_path / "claims.json").write_text(text)
    with pytest.raises(LedgerError, match=part):
        load_ledger(tmp_path / "claims.json")


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path):
    (tmp_path / "claims.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LedgerError, match="claims.json"):
        load_ledger(tmp_path / "claims.json")
    with pytest.raises(FileNotFoundError):
        load_ledger(tmp_path / "none.json")


def test_nan_in_a_file_is_refused_wherever_it_stands(book, tmp_path):
    for field in ("paper_value", "spread", "wall_s", "peak_mb"):
        with pytest.raises(LedgerError, match="not finite"):
            edit(book, tmp_path, **{field: math.nan})


def test_a_verdict_typed_in_memory_is_not_written(book):
    book.records["fails"] = dataclasses.replace(book["fails"], verdict="holds")
    with pytest.raises(LedgerError, match="never typed"):
        book.to_json()
    with pytest.raises(dataclasses.FrozenInstanceError):
        book["works"].verdict = "refuted"


# -- comparing, committing, ageing ------------------------------------------------------------------------------------------------------


def test_compare_reports_verdicts_declarations_and_comings_and_goings(book):
    new = Ledger("demo.toy")
    declared(new, "works", rule="ours > 0.6", source_certainty="known")
    declared(new, "fails", rule="ours > peer", source_certainty="secondary")
    declared(new, "fresh")
    new.measure("works", ours=[0.7])
    new.measure("fails", ours=0.6, peer=0.5)
    new.measure("fresh", ours=0.6)
    found = compare(book, new)
    assert [(c.claim_id, c.kind) for c in found] == [("absent", "missing"), ("fails", "verdict"), ("fresh", "new"), ("partly", "missing"), ("works", "declaration")]
    assert [str(c) for c in found][1:3] == ["fails: verdict refuted -> holds", "fresh: new (holds)"]
    assert str(found[4]) == "works: rule, source_certainty changed: ours > 0.5 -> ours > 0.6" and isinstance(found[0], Change)
    assert compare(book, book) == []


def test_figures_may_differ_as_long_as_verdicts_do_not(book, tmp_path):
    assert compare(book, edit(book, tmp_path, ours=[0.9, 0.9, 0.9], spread=0.0, wall_s=7.0, date="2020-01-01", device="x")) == []


def test_ledgers_of_different_papers_or_scales_are_not_compared():
    for other in (Ledger("demo.other"), Ledger("demo.toy", "gpu")):
        with pytest.raises(LedgerError, match="cannot be compared"):
            compare(Ledger("demo.toy"), other)


def test_save_writes_only_where_a_run_folder_is_given(book, tmp_path, monkeypatch, capsys):
    assert book.save() is None and not (tmp_path / "claims").exists()
    monkeypatch.setenv("ATOMSNB_OUT", str(tmp_path / "run"))
    again = Ledger("demo.toy", out=None)
    assert again.save() == tmp_path / "run" / "claims.json" and Ledger("demo.toy", out=tmp_path / "mine").save() == tmp_path / "mine" / "claims.json"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].endswith("nothing committed to compare with")


def test_save_says_what_agrees_what_changed_what_is_stale_and_what_was_left_out(book, home, capsys):
    path = committed("demo.toy", "cpu")
    assert path == home / "claims" / "cpu" / "demo.toy.json"
    book.save(path)
    capsys.readouterr()
    book.save()
    assert capsys.readouterr().out == "claims: 4 of 4 verdicts agree with claims/cpu/demo.toy.json; none stale\n"
    old = load_ledger(path)
    old.records["works"] = dataclasses.replace(old["works"], code_hash="0" * 64)
    room.atomic_write(path, old.to_json())
    declared(book, "later")
    book.measure("fails", ours=0.75, peer=0.5, overwrite=True)
    book.save()
    assert capsys.readouterr().out == (
        "claims: 3 of 4 verdicts agree with claims/cpu/demo.toy.json; fails: verdict refuted -> holds; stale: works; not measured: later\n"
    )


def test_records_are_stale_when_code_changed_and_not_when_words_did(home):
    module = home / "atomsnb" / "demo" / "toy.py"
    module.parent.mkdir(parents=True)
    module.write_text("X = 1\n")
    book = Ledger("demo.toy")
    declared(book)
    book.measure("works", ours=[0.9])
    path = book.save(home / "claims.json")
    assert stale(path) == stale(book) == []
    module.write_text('"""Words."""\nX = 1  # more words\n')
    assert stale(path) == []
    module.write_text("X = 2\n")
    assert stale(path) == stale(book) == ["works"]


def test_outside_a_checkout_nothing_can_be_committed_or_stale(book, monkeypatch):
    monkeypatch.setattr(room, "repo_root", lambda: None)
    for call in (lambda: committed("demo.toy"), lambda: stale(book)):
        with pytest.raises(LedgerError, match="ATOMSNB_HOME"):
            call()


def test_committed_ledgers_of_this_repository_load_and_carry_their_name():
    for path in sorted((ROOT / "claims").glob("*/*.json")):
        book = load_ledger(path)
        assert (book.paper, book.scale) == (path.stem, path.parent.name) and book.to_json() == path.read_text(encoding="utf-8")


# -- the table ---------------------------------------------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Tags with their attributes, and the text of each cell."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.open, self.rows = [], [], []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open += [tag] if tag != "br" else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def test_html_is_a_real_table_that_needs_no_script_no_style_sheet_and_no_colour(book):
    outline = Outline(book.table()._repr_html_())
    assert outline.open == [] and {"script", "style", "link", "img"}.isdisjoint(t for t, _ in outline.tags)
    assert [t for t, _ in outline.tags][:2] == ["table", "caption"]
    assert [a.get("scope") for t, a in outline.tags if t == "th"] == ["col"] * 7 + ["row"] * 3 + ["rowgroup", "row"] and [t for t, _ in outline.tags].count("tbody") == 2
    assert outline.rows[0] == ["Claim", "Paper", "Ours", "Peer", "Control", "Rule", "Verdict"]
    assert [row[-1].split(" ", 1)[1] for row in outline.rows[1:]] == ["holds", "holds in part", "refuted", "not testable at this scale", "not testable here"]
    styles = [a["style"] for t, a in outline.tags if "style" in a]
    assert not any(re.search(r"(?<![-\w])color:(?!inherit)|background:(?!transparent)", s) for s in styles)  # text in the page's own colours


def test_html_shows_figures_spread_certainty_and_reason(book):
    rows = Outline(book._repr_html_()).rows
    assert rows[1][1].startswith("0.9 %") and "0.75 %" in rows[1][2] and "spread 0.1" in rows[1][2] and "3\u00a0seeds" in rows[1][2]
    assert "recalled, not read" in rows[2][1] and "reported by others" in rows[3][1] and "recalled" not in rows[1][1]
    assert rows[4] == ["1 not testable at this scale"] and "two billion" in rows[5][2] and rows[2][5] == "ours - control > 0.1"


def shown(book):
    """Ids and divides from top to bottom, as HTML and as text show them; ids stand in the statements, so that both do."""
    rows = [row[0].rsplit("claim ", 1)[-1] if len(row) > 1 else "|" + row[0] for row in Outline(book._repr_html_()).rows[1:]]
    text = [m[1] or "|" + m[2] for m in re.finditer(r"^ claim (\w+)|^ (\d+ not testable at this scale) ─+$", str(book.table()), re.M)]
    return [re.sub(r"^(\w+?)\1$", r"\1", row) for row in rows], text


def mixed(kinds, ids=None):
    """A ledger with a claim for each letter: measured, not testable, pending."""
    book = Ledger("demo.toy")
    for id, kind in zip(ids or (f"c{i}" for i in range(len(kinds))), kinds):
        declared(book, id, statement=f"claim {id}")
        if kind == "m":
            book.measure(id, ours=[0.75])
        if kind == "n":
            book.not_testable(id, "no such machine")
    return book


@functools.cache
def one_of_each():
    """A record of a measurement, and one of a claim that is not testable."""
    return {kind: mixed(kind).records["c0"] for kind in "mn"}


@pytest.mark.parametrize("kinds, order", [
    ("nmnm", ["c1", "c3", "|2 not testable at this scale", "c0", "c2"]), ("mmn", ["c0", "c1", "|1 not testable at this scale", "c2"]), ("mpm", ["c0", "c1", "c2"]), ("npm", ["c1", "c2", "|1 not testable at this scale", "c0"]),
    ("mm", ["c0", "c1"]), ("nnn", ["c0", "c1", "c2"]), ("pp", ["c0", "c1"]), ("np", ["c1", "|1 not testable at this scale", "c0"]), ("", []),
])  # fmt: skip
def test_figures_come_before_what_cannot_be_tested(home, kinds, order):
    """Within both parts nothing moves, whatever the verdict; where there is one part there is no divide; HTML and text agree."""
    assert shown(mixed(kinds)) == (order, order)


@given(st.permutations("abcdefg"), st.text("mn", min_size=7, max_size=7))
def test_the_order_for_a_reader_is_stable(ids, kinds):
    records = one_of_each()
    rows = [(dataclasses.replace(records[k].claim, id=i), records[k]) for i, k in zip(ids, kinds)]
    assert room.reading_order(iter(rows)) == ([row for row, k in zip(rows, kinds) if k == "m"], [row for row, k in zip(rows, kinds) if k == "n"])


def test_the_order_for_a_reader_leaves_the_file_alone(home):
    book = mixed("nmnm", ("d", "b", "a", "c"))
    assert [row.claim.id for row in book.table().rows] == ["b", "c", "d", "a"] and list(book) == ["d", "b", "a", "c"]
    assert [r["claim_id"] for r in json.loads(book.to_json())["records"]] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("file", sorted((ROOT / "claims").glob("*/*.json")), ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_committed_ledgers_show_figures_first_and_fit_eighty_columns(file):
    """A file is sorted by id; a reader meets the same order in each part, and no dash before a figure."""
    ledger = load_ledger(file)
    table, text = ledger.table(), str(ledger.table())
    ids = [row.claim.id for row in table.rows]
    assert sorted(ids) == sorted(ledger.records) == list(ledger.records)
    apart = [row.verdict == "not testable here" for row in table.rows]
    assert apart == sorted(apart) and ids == sorted(ids[: len(ids) - sum(apart)]) + sorted(ids[len(ids) - sum(apart) :])
    assert max(map(len, text.splitlines())) <= 80 and text.count("not testable at this scale") == (0 < sum(apart) < len(ids)) and ledger.to_json() == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [20, 79, 80, 200])
def test_the_divide_is_no_wider_than_the_table_or_the_window(home, width):
    """On a wide terminal it ends where the table ends, on a narrow one where the window ends; colour only repeats."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system="truecolor", force_terminal=True, force_jupyter=False, legacy_windows=False)
    console.print(mixed("mn").table())
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in console.file.getvalue().splitlines()]
    rules = [len(line) for line in lines if line.strip(" ─") in ("", "1 not testable at this scale") and "─" in line]
    assert max(map(len, lines)) <= width and (width < 79 or (len(rules) == 2 and rules[0] == rules[1]))


def test_hostile_text_stays_text(home):
    book = Ledger("demo.toy")
    declared(book, statement="<script>alert(1)</script>", unit="<b>", source='"><img src=x onerror=alert(1)>')
    book.not_testable("works", "<iframe>")
    tags = {t for t, _ in Outline(book._repr_html_()).tags}
    assert tags <= {"table", "caption", "strong", "span", "br", "thead", "tbody", "tr", "th", "td", "code", "em"}
    declared(book, "markup", statement="[bold]x[/bold] [/nothing]")
    assert "[bold]x[/bold]" in str(book.table())


@pytest.mark.parametrize("fill", ["x" * 200, "word " * 40, "ü" * 100, "短" * 60])
def test_text_table_fits_eighty_columns_without_colour(book, fill):
    declared(book, "long", statement=fill, rule="abs(ours - 0.123456789) < 0.1 and ours > -1000000.123456789")
    text = str(book.table())
    assert max(len(line) for line in text.splitlines()) <= 80 and "\x1b" not in text and repr(book.table()) == text
    for word in ("Verdict", "refuted", "recalled", "two"):
        assert word in text


def test_empty_ledger_has_a_table():
    assert "no claims" in str(Ledger("demo.toy").table()) and "<table" in Ledger("demo.toy")._repr_html_() and len(Ledger("demo.toy")) == 0


def test_live_is_silent_in_a_terminal(book, capsys):
    book.live()
    declared(book, "later")
    book.measure("later", ours=[1.0])
    assert capsys.readouterr().out == ""


LIVE = """from atomsnb.core.ledger import Ledger
ledger = Ledger("demo.toy")
ledger.claim("first", "It works", source="Table 1", source_certainty="paper", rule="ours > 0", refuted_if="it does not")
ledger.claim("second", "It flies", source="Table 2", source_certainty="paper", rule="ours > 0", refuted_if="it does not")
ledger.live()"""


def test_first_screen_fills_in_as_the_notebook_runs(home, monkeypatch):
    """Executed by nbclient in a kernel: the first cell's stored output shows what later cells measured."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    cells = [LIVE, "ledger.measure('first', ours=[1.0, 2.0])", "ledger.measure('second', ours=[-1.0]); ledger.save()"]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(nb, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(home)}}).execute()
    shown = [o for o in nb.cells[0].outputs if o.output_type == "display_data"]
    assert len(shown) == 1
    rows = Outline(shown[0].data["text/html"]).rows
    assert [row[-1].split(" ", 1)[1] for row in rows[1:]] == ["holds", "refuted"] and "not measured yet" not in shown[0].data["text/html"]
    assert "✗ refuted" in shown[0].data["text/plain"]
    assert not any(o.output_type == "display_data" for cell in nb.cells[1:] for o in cell.outputs)
