"""The study as a graph, on one machine: a change runs again what depends on it, and nothing else.

assets -> inversions -> measurements -> table -> figures -> ledger

    snakemake --cores 2                        everything, at scale quick
    snakemake --cores 2 --config scale=full    the committed figures and tables; hours on a CPU
    snakemake --cores 2 ledger                 only the claims and what they need
    snakemake --cores 2 prior                  portraits -> prior: sampled from the teacher, then trained on
    snakemake --cores 2 encoders               portraits -> encoders: those that ship and their ablations, in the cache
    snakemake -n                               what would be done, and why

The embedded generator is the one that is shipped, and no step replaces it. `prior` goes on from it and leaves its
weights in the cache, training/portraits64/generator.safetensors, after days on a CPU or hours on a GPU. Whether they
are better is for a person to say, who copies them to lib/weights and has `python -m lib.model_cards` measure them; then
all the rest is run again.

A step runs again when its files are newer, or its parameters have changed. One of them, `code`, is the version of all
that its notebook or module says and of the definitions of lib/ that it depends on: a docstring, or a function beside
those that are used, changes nothing. Steps are the commands that one would type, and know what they have done:
inversions are in the cache, rows of tables in papermill_runs/out. One that runs again computes what is different.

A notebook that fails is kept by the runner as papermill_runs/out/<run>.failed.ipynb, which is no output here: Snakemake
deletes the outputs of failed steps, but for those marked `update`.
"""

import sys

import yaml

from lib.encoder_training import RECIPES
from lib.paths import ROOT
from lib.runs import SCALES
from lib.runs.execution import read_runs
from lib.versions import file_version

SCALE = config.get("scale", "quick")
if SCALE not in SCALES:
    raise ValueError(f"--config takes scale={'|'.join(SCALES)}; got {SCALE}")

PYTHON = sys.executable
OUT = "papermill_runs/out"
RESULTS = "papermill_runs/results"
RUNS = {run.id: run for run in read_runs() if SCALE in run.parameters}
PLAN = yaml.safe_load((ROOT / "papermill_runs" / "evaluation.yaml").read_text()).get(SCALE)
KINDS = list(dict.fromkeys(kind for block in PLAN["inputs"] for kind in block["kinds"])) if PLAN else []
TABLE = f"{RESULTS}/evaluation-{SCALE}.parquet"
LEDGER = "comparison_claims"
ASSETS = f"{OUT}/graph/assets"
WEIGHTS = ["lib/weights/portraits64.safetensors", "lib/weights/portraits64-posefree.safetensors"]
NETWORKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "lib/weights/encoders").glob("*.safetensors"))
"""Of encoders, those that ship."""
RECORDS = {
    "prior_dataset": [f"{RESULTS}/portraits-full.json"],
    "prior_training": [f"{RESULTS}/training_portraits64-full.json", "lib/weights/portraits64.json"],
    "posefree_generator": ["lib/weights/portraits64-posefree.json"],
}
"""Committed records that notebooks read and no step here makes."""


def code(file):
    """Version of a file of the repository and of all code that it depends on."""
    return file_version(ROOT / file)


def plan_of(method):
    """Settings of a method at this scale, and of the one that it starts from."""
    given = PLAN["methods"][method] or {}
    return given | ({"start": plan_of(given["start"])} if "start" in given else {})


def recorded_inputs(run):
    """Results that a notebook reads: those of other steps, which its parameters name, and committed records."""
    named = [text for text in RUNS[run].parameters[SCALE].values() if str(text).startswith(RESULTS)]
    return named + RECORDS.get(run, [])


wildcard_constraints:
    kind="[a-z]+",
    run="[a-z0-9_]+",


rule all:
    input:
        [TABLE] if PLAN else [],
        expand(f"{OUT}/{{run}}-{SCALE}.ipynb", run=RUNS),


rule figures:
    input:
        expand(f"{OUT}/{{run}}-{SCALE}.ipynb", run=[run for run in RUNS if run != LEDGER]),


rule ledger:
    input:
        f"{OUT}/{LEDGER}-{SCALE}.ipynb",


rule assets:
    input:
        "lib/assets.toml",
    output:
        touch(ASSETS),
    params:
        names=sorted({name for run in RUNS.values() for name in run.assets}),
    shell:
        "{PYTHON} -m lib.assets fetch {params.names} --for metrics"


rule portraits:
    input:
        ASSETS,
    output:
        touch(f"{OUT}/graph/portraits"),
    params:
        code=code("lib/datasets/portraits.py"),
    shell:
        "{PYTHON} -m lib.datasets"


rule prior:
    input:
        rules.portraits.output,
    output:
        touch(f"{OUT}/graph/prior"),
    params:
        code=code("lib/prior.py"),
    shell:
        "{PYTHON} -m lib.prior --from portraits64"


rule encoder:
    input:
        rules.portraits.output,
        # What a refinement refines comes first.
        lambda wildcards: [f"{OUT}/graph/encoders/{name}" for name in [RECIPES[wildcards.name].encoder] if name],
    output:
        touch(f"{OUT}/graph/encoders/{{name}}"),
    params:
        code=code("lib/encoder_training.py"),
    shell:
        "{PYTHON} -m lib.encoder_training {wildcards.name}"


rule encoders:
    input:
        expand(f"{OUT}/graph/encoders/{{name}}", name=RECIPES),


if PLAN:

    rule inversions:
        input:
            ASSETS,
            WEIGHTS + NETWORKS,
        output:
            f"{OUT}/evaluation/{SCALE}/inversions/{{kind}}-{{method}}.parquet",
        params:
            code=[code("lib/evaluation/methods.py"), code("lib/datasets/catalogue.py")],
            method=lambda wildcards: plan_of(wildcards.method),
            inputs=PLAN["inputs"],
        shell:
            "{PYTHON} -m lib.evaluation --scale {SCALE} --scenes {wildcards.kind} --methods {wildcards.method}"
            " --invert-only --out {output}"

    rule measurements:
        input:
            rules.inversions.output,
        output:
            f"{OUT}/evaluation/{SCALE}/tables/{{kind}}-{{method}}.parquet",
        params:
            code=code("lib/evaluation/measures.py"),
            metrics=PLAN.get("metrics"),
        shell:
            "{PYTHON} -m lib.evaluation --scale {SCALE} --scenes {wildcards.kind} --methods {wildcards.method}"
            " --out {output}"

    rule table:
        input:
            expand(rules.measurements.output, kind=KINDS, method=PLAN["methods"]),
        output:
            update(TABLE),
            update(TABLE.replace(".parquet", ".json")),
        params:
            code=code("lib/evaluation/results.py"),
        shell:
            "{PYTHON} -m lib.evaluation --scale {SCALE}"


rule notebook:
    input:
        ASSETS,
        WEIGHTS + NETWORKS,
        lambda wildcards: RUNS[wildcards.run].notebook.relative_to(ROOT).as_posix(),
        lambda wildcards: recorded_inputs(wildcards.run),
    output:
        update(f"{OUT}/{{run}}-{SCALE}.ipynb"),
        update(f"{RESULTS}/{{run}}-{SCALE}.json"),
    params:
        code=lambda wildcards: code(RUNS[wildcards.run].notebook),
        parameters=lambda wildcards: RUNS[wildcards.run].parameters[SCALE],
    shell:
        # The runner leaves alone what it finds done; it is as new as its inputs then.
        "{PYTHON} -m lib.runs --scale {SCALE} --only {wildcards.run} && touch {output}"
