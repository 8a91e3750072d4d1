"""One file of figures from the runs of benchmarks/language_models.py, and their weights in the package.

    python benchmarks/language_models_ship.py --runs FOLDER [FOLDER ...] -- merge ship

Jobs:

    merge   results*.json, tars and logs of the folders into benchmarks/results/language_models.json: rows of the shipped recipes by model, rows of other recipes
            under `variants`, tables of the sweep, of regularisation and of speed, and what `evaluate`, `evaluate-json`, `baselines` and `remeasure` measured
    ship    the tars of the shipped recipes into atomsnb/models/weights, each with a card made from that file
"""
import argparse
import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from language_models import opened

from atomsnb.core.runtime import atomic_write
from atomsnb.models import registry
from atomsnb.models.training import RECIPES, ModelRecipe

MERGED = Path(__file__).resolve().parent / "results" / "language_models.json"
MEASURED = ("evaluate", "evaluate-json", "baselines", "remeasure")
MODELS = ("code-lm", "code-mdlm", "json-mdlm-bytes", "byte-lm-tiny")
LINE = re.compile(r"(?P<name>[\w-]+) seed (?P<seed>\d+): heldout (?P<fp32>[\d.]+) bits/byte in float32, (?P<bf16>[\d.]+) with bf16 weights, validation (?P<validation>[\d.]+), (?P<step_ms>[\d.]+) ms/step, (?P<wall_s>[\d.]+) s")
WORDS = {
    "code-lm": ("A causal language model of Python source, five blocks of width 256, trained on the standard library.",
                ("It knows one code base: the standard library of one Python version. Other Python code, other languages and prose are foreign to it.",
                 "It writes lines that look like Python and rarely programs that work; nothing it writes should be run unread.",
                 "Its text is 4.9 MB, read 74 times: names, comments and licence lines of the training files come back word for word.",
                 "Its context is 512 tokens, about 1.8 kB of source, and it was trained on no instructions.")),
    "code-mdlm": ("A masked-diffusion language model of Python source: the network of code-lm without the causal mask, trained to restore hidden tokens.",
                  ("It knows one code base: the standard library of one Python version. Other Python code, other languages and prose are foreign to it.",
                   "Its figure is an upper bound of its code length and lies well above what code-lm needs; as a source of left-to-right text it is the worse model.",
                   "Windows never cross the end of a file, so it expects the beginning of a file or the middle of one, and fills with end tokens behind the end.",
                   "It writes at most 512 tokens at once, prompt included; nothing it writes should be run unread.")),
    "json-mdlm-bytes": ("A masked-diffusion language model of short JSON records, byte by byte, trained on records made from functions of the standard library.",
                        ("It writes JSON in the manner of its records: names, arguments and docstrings of functions. It knows no schema and follows no instruction.",
                         "Records have at most 255 bytes of ASCII; other characters occur as escapes only, and windows have 256 positions.",
                         "Unconstrained, a large part of what it writes is no JSON, nearly all of it with few steps; a grammar is needed where validity matters.",
                         "Sampled in the order of confidence it writes the end tokens first, so records come out shorter than real ones.",
                         "Seeds 1 and 2 were trained later and on another GPU (an H200); the shipped seed is the best of the three, by 0.009 bits per byte at most.")),
    "byte-lm-tiny": ("A small causal language model of Python source, byte by byte: three blocks of width 128, for experiments on fine-tuning.",
                     ("It is made to be changed, not to be used: half a million parameters, and a context of 256 bytes.",
                      "It knows one code base: the standard library of one Python version.",
                      "What it writes looks like Python from afar and seldom parses.")),
}


def merged() -> dict:
    """The file of all results, if there is one."""
    return json.loads(MERGED.read_text()) if MERGED.is_file() else {}


def final(recipe: dict) -> bool:
    """Whether a recipe is the shipped one, apart from the seed."""
    name = recipe["name"]
    return ModelRecipe(**recipe) == RECIPES[name].replace(seed=recipe["seed"])


def merge(folders: "list[Path]") -> None:
    """Everything that the runs wrote, sorted by what it is: final seeds (the shipped recipe), variants (other recipes), tables."""
    held, provenances = merged(), {}
    out: dict = {"provenance": {}, "sweep": [], "regular": [], "speed": [], "variants": [], **{name: [] for name in MODELS}}
    keep = lambda row: out[row["recipe"]["name"] if final(row["recipe"]) else "variants"].append(row)  # noqa: E731
    for folder in folders:
        for path in sorted(folder.glob("results*.json")):
            found = json.loads(path.read_text())
            told = found.pop("provenance")
            facts = told.pop("corpus", None)
            if facts is not None and out.setdefault("corpus", facts) != facts:
                raise ValueError(f"{path.name} was made from another corpus")
            provenances.setdefault(told["device"], told)
            for key, value in found.items():
                if key in ("sweep", "regular"):
                    out[key] += value
                elif key == "speed":
                    out["ceilings"] = value["ceilings"]
                    out["speed"] += [{"device": told["device"], **row} for row in value["rows"]]
                elif key in MODELS:
                    for row in value:
                        keep(row)
                elif key in MEASURED:
                    held[key] = value | {"device": told["device"], "threads": told["threads"], "versions": told["versions"], "date": told["date"]}
        for path in sorted(folder.glob("*.tar")):
            figures = opened(path)[1]
            if not any(row["recipe"] == figures["recipe"] for row in out[path.stem] + out["variants"]):
                keep({"seed": figures["recipe"]["seed"]} | figures)
        for path in sorted(folder.glob("*.log")):  # a call that was cut off leaves its later seeds as lines alone, rounded as they were printed
            for line in LINE.finditer(path.read_text()):
                tar = folder / f"{line['name']}.tar"
                recipe = opened(tar)[1]["recipe"] | {"seed": int(line["seed"])} if tar.is_file() else None
                if recipe is not None and final(recipe) and not any(row["seed"] == recipe["seed"] for row in out[line["name"]]):
                    out[line["name"]].append({"seed": recipe["seed"], "recipe": recipe, "device": opened(tar)[1]["device"], "from": "a line of the log, rounded as printed", "step_ms": float(line["step_ms"]), "wall_s": float(line["wall_s"]),
                                              "validation": {"fp32": {"bits_per_byte": float(line["validation"])}}, "heldout": {k: {"bits_per_byte": float(line[k])} for k in ("fp32", "bf16")}})
    for name in MODELS:
        out[name].sort(key=lambda row: row["seed"])
    out["provenance"] = provenances
    out |= {key: held[key] for key in MEASURED if key in held}
    atomic_write(MERGED, json.dumps(out, indent=1) + "\n")
    print({key: len(value) for key, value in out.items()}, flush=True)


def headline(row: dict) -> float:
    """Held-out bits per byte of a row with weights in bf16: a code length, or the bound of a masked model."""
    return row["heldout"]["bf16"]["bits_per_byte"] if "heldout" in row else row["bound"]["bf16"]["bits_per_byte"]


def shipped_card(name: str, found: dict, history: dict) -> registry.ModelCard:
    """The card of a model, every figure from the merged results."""
    rows, recipe, facts = found[name], RECIPES[name], found["corpus"]
    row, seeds = rows[0], [headline(r) for r in rows]
    measured, kind = row.get("heldout") or row["bound"], "heldout_bits_per_byte" if recipe.kind == "causal" else "heldout_bound_bits_per_byte"
    device = f"trained and measured on one {row['device']}"
    figures = {kind: measured["bf16"]["bits_per_byte"], f"{kind}_float32_weights": measured["fp32"]["bits_per_byte"], "bf16_loss_bits_per_byte": measured["bf16"]["bits_per_byte"] - measured["fp32"]["bits_per_byte"],
               f"{kind}_by_seed": {str(r["seed"]): headline(r) for r in rows}, "seed_spread_bits_per_byte": max(seeds) - min(seeds) if len(seeds) > 1 else None, "device": device}
    if recipe.kind == "causal":
        figures |= {"heldout_bits_per_byte_without_earlier_windows": measured["no_context"]["bits_per_byte"], "validation_bits_per_byte": row["validation"]["bf16"]["bits_per_byte"], "heldout_bytes": measured["bf16"]["bytes"]}
        if "baselines" in found:
            figures |= {"heldout_bits_per_byte_of_others": {key: value["bits_per_byte"] for key, value in found["baselines"].items() if isinstance(value, dict) and "bits_per_byte" in value}}
    else:
        if name == "json-mdlm-bytes" and "evaluate-json" in found:
            tried = found["evaluate-json"]
            figures |= {"json_accepted_by_policy_temperature_steps": {k: v["accepted"] for k, v in tried.items() if isinstance(v, dict) and "accepted" in v}, "json_samples_per_figure": tried["samples"], "json_measured_on": tried["device"]}
        figures |= {"bound_standard_error": measured["bf16"]["stderr"], "bound_nats_per_token": measured["bf16"]["nats_per_token"], "heldout_bytes": measured["bf16"]["bytes"]}
    limits, better = WORDS[name][1], [v for v in found["variants"] if v["recipe"]["name"] == name and "heldout" in v and v["validation"]["fp32"]["bits_per_byte"] < row["validation"]["fp32"]["bits_per_byte"]]
    if better:
        best = min(better, key=lambda v: v["validation"]["fp32"]["bits_per_byte"])
        r, mine, its = best["recipe"], row["validation"]["fp32"]["bits_per_byte"], best["validation"]["fp32"]["bits_per_byte"]
        limits += (f"It is not the best recipe that was tried: learning rate {r['lr']:g}, dropout {r['dropout']:g}, decay {r['weight_decay']:g} and {r['steps']:,} steps gave {its:.4f} bits per byte on the validation files "
                   f"against {mine:.4f} ({100 * (mine / its - 1):.1f} % better); its weights were not kept.",)
    side = "JSON records made from the functions of" if recipe.data == "json" else "source files of"
    data = {"text": f"{side} the standard library of Python {facts['python']}, test packages left out", "split": "by file, on a hash of its path; fit and train are the training text; validation chose the recipe; heldout was measured only",
            "training_bytes": facts["bytes"]["code/fit"] + facts["bytes"]["code/train"], **({"training_records": facts["records"]["fit"] + facts["records"]["train"]} if recipe.data == "json" else {}),
            "sha256_source": facts["data"]["code"], "sha256_tokenizer": facts["tokenizers"][recipe.tokenizer], "sha256_corpus": facts["sha256"]}
    told = found["provenance"][row["device"]]
    train_ = {"recipe": recipe.as_dict(), "epochs": row["epochs"], "tokens_seen": row["tokens_seen"], "seconds": row["wall_s"], "step_ms": row["step_ms"], "device": row["device"], "versions": told["versions"],
              "date": told["date"], "script": "benchmarks/language_models.py"}
    curves = {"training_nats_per_token": [[int(a), round(b, 5)] for a, b in zip(history["steps"], history["losses.loss"])][:: max(1, len(history["steps"]) // 60)],
              "validation_bits_per_byte" if recipe.kind == "causal" else "validation_nats_per_token": row["validation_curve"]}
    return registry.ModelCard(name=name, kind=recipe.kind, summary=WORDS[name][0], tokenizer=recipe.tokenizer, limits=limits, data=data, training=train_, figures=figures, curves=curves)


def ship(folders: "list[Path]") -> None:
    """The tars of the shipped recipes into the package, each with its card; what is read back is what was packed."""
    found = merged()
    for name in MODELS:
        path = next(p for folder in folders if (p := folder / f"{name}.tar").is_file() and final(opened(p)[1]["recipe"]))
        model, _, history = opened(path)
        with TemporaryDirectory() as scratch:
            target = registry.ship(registry.save_model(Path(scratch) / name, model, card=shipped_card(name, found, history)))
        back = registry.load_weights(name).tensors
        if any(not torch.equal(back[k], v) for k, v in model.state_dict().items() if k in back):
            raise RuntimeError(f"{name} came back changed")
        print(f"{name}: {(target / 'model.safetensors').stat().st_size / 2**20:.2f} MiB from {path.name}, {headline(found[name][0]):.5f} bits/byte", flush=True)
    size = sum(p.stat().st_size for p in registry.weights_dir().rglob("*") if p.is_file())
    print(f"all: {size / 2**20:.2f} MiB", flush=True)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("jobs", nargs="+", choices=["merge", "ship"])
    ap.add_argument("--runs", nargs="+", type=Path, required=True, metavar="FOLDER", help="folders that calls of language_models.py wrote")
    args = ap.parse_args()
    for job in args.jobs:
        {"merge": merge, "ship": ship}[job](args.runs)


if __name__ == "__main__":
    main()
