"""Card of the encoder networks: what ships, how it was trained, and what it is worth on held-out people."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from lib import datasets, paths, runs
from lib.drawings.prior import line_panels
from lib.encoder_training import GENERATOR, PLAN, RECIPES
from lib.encoders import ENCODERS, load_encoder, networks_of
from lib.encoders.storage import SHIPPED, TRAINED, load_network, network_path
from lib.evaluation.encoders import (
    METRICS,
    MOST_LPIPS,
    MOST_MSE,
    MOST_OF_OWN_CODE,
    MeanLatent,
    Values,
    goals,
    held_out_quality,
    summary,
)
from lib.figures import Picture
from lib.generators import EG3D, load_generator
from lib.runs.provenance import compact_log

RUN = "encoders-full"

CARD_FILE = SHIPPED / "README.md"

MOST_BYTES = 8_000_000
"""Of all shipped networks together."""

TRAINED_STEPS = 3000
"""On pictures; with fewer a network is a preview."""

ALIGNMENT = "goae"
"""The method that has a goal beside its own w+."""

CURVE_ROWS = 40
"""Of a training's log, in the record and the figure."""

CARD = """# Model card: encoders for `{generator}`

One pass from a photo to a head, where optimisation takes hundreds of steps. Small networks of the structure of pSp,
e4e, TriPlaneNet and GOAE, trained here: none of the papers' weights are in them.

    generator = lib.generators.load_generator("{generator}")
    encoder = lib.encoders.load_encoder("goae", generator)
    head = encoder.encode(photo, camera)  # [1, 3, {resolution}, {resolution}] in [-1, 1]

{networks}

Those that ship take {total:.1f} MB, as float16. {preview}

**Made by** `python -m lib.encoder_training NAME`: {training_portraits} portraits of people who do not exist, sampled
from the 2D GAN MobileStyleGAN, with cameras from landmarks, and samples of the frozen generator, whose codes and
depths are known. Encoders learn codes first, then pictures, by the losses of their papers and, of samples, by
their true codes and depths, which no paper has; a refinement leaves its
encoder as it is.{history}
Steps are far fewer, and pictures smaller, than in any of the papers: what is compared are their ideas at one small size.

**Licence**: research and education, non-commercial, as the ancestors of the teacher demand (see the asset manifest).
The pictures show nobody; do not use the networks to make pictures of real people without their consent.

## Measured

On {singles} single portraits of people who were never trained on, and on {people} such people who were inverted from
the front and seen from yaws of ±0.3 and ±0.6. MSE in [-1, 1]; LPIPS is AlexNet's at 256 px; identity is the cosine of
the evaluation network, which no training has seen. In brackets: 95 % intervals (bootstrap over people). What lies
outside the teacher's picture does not count.

### The photo's own view

{input}

Goals: an MSE of at most {most_mse} and an LPIPS of at most {most_lpips} of the mean latent's; of GOAE's feature
alignment also an MSE of at most {most_of_own} of that of its own w+.

| network | MSE of the mean latent's | LPIPS of the mean latent's | MSE of its own w+'s | goals |
|---|---|---|---|---|
{goals}

### Other views of the same people

{other}

## The trainings

![Errors by step: of codes, and of pictures, by encoders and by refinements]({figure})

## Known failures

A code of one pass is smoother than the photo: hair, wrinkles, glasses and all that is rare are guessed. Refinements gain
less from other sides than from the photo's, as the table of other views shows. Photos that are no portraits of this
teacher (other crops, hands, hats, yaw beyond 0.7 rad) are far from all that was trained on. The camera of a photo
must be known; refinements trust it.

## Files

| file | bytes | SHA-256 |
|---|---|---|
{files}
"""


# ----------------------------------------------------------------------- what is known of a network
def ship(name: str) -> Path:
    """The network's file among those that ship: copied from the training where it is not there yet."""
    file = SHIPPED / f"{name}.safetensors"
    if not file.is_file():
        with paths.replacing(file) as temporary:
            shutil.copyfile(network_path(name), temporary)
    return file


def shown_by(network: str) -> str:
    """The first method of `ENCODERS` that ends with this network."""
    for method in ENCODERS:
        if networks_of(method)[-1] == network:
            return method
    raise ValueError(f"no method of ENCODERS ends with the network {network!r}")


def described(name: str, training: Path = TRAINED) -> dict:
    """What a network's file and the logs of its training say, without measuring."""
    path = network_path(name)
    stored = load_network(path)
    data = path.read_bytes()
    logs = {"pictures": training / name}
    if RECIPES[name].codes:
        logs["codes"] = training / f"codes-{RECIPES[name].codes}"
    curves = {part: curve(folder / "log.jsonl") for part, folder in logs.items()}
    return {
        "method": shown_by(name),
        "kind": stored.kind,
        "parameters": sum(p.numel() for p in stored.network.parameters()),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "ships": path.is_relative_to(SHIPPED),
        "encoder": RECIPES[name].encoder,
        "steps": int(stored.facts["steps"]),
        "code_steps": json.loads(stored.facts["trained"]).get("codes", 0),
        "settings": json.loads(stored.facts["settings"]),
        "seconds": {part: found["seconds"][-1] for part, found in curves.items()},
        "curves": curves,
    }


def curve(log: Path) -> dict[str, list[float | None]]:
    """A log of a training, made small."""
    if not log.is_file():
        raise FileNotFoundError(
            f"no log {log}: a card shows how its networks were trained, so it is written where they were "
            "(`python -m lib.encoder_training`)"
        )
    return compact_log(log.read_text().splitlines(), CURVE_ROWS)


def is_preview(network: Mapping) -> bool:
    return network["steps"] < TRAINED_STEPS


# ----------------------------------------------------------------------- measuring
def measured(
    names: list[str], generator: EG3D, portraits: datasets.Portraits, singles: int, people: int
) -> dict[str, dict]:
    """Numbers of the mean latent, under "mean", and of networks by name, on the same held-out portraits.

    A refinement is held beside the network that says its own w+.
    """

    @functools.cache
    def quality(network: str) -> dict[str, Values]:
        encoder = load_encoder(shown_by(network), generator)
        return held_out_quality(encoder, portraits, singles, people)

    mean = held_out_quality(MeanLatent(generator), portraits, singles, people)
    numbers = {"mean": summary(mean, mean)}
    for name in names:
        own = RECIPES[name].encoder
        numbers[name] = summary(quality(name), mean, quality(own) if own else None)
    return numbers


# ----------------------------------------------------------------------- writing
def encoders_card(numbers: dict) -> str:
    """The card of the numbers of `main`."""
    networks: dict[str, dict] = numbers["networks"]
    previews = [f"`{name}`" for name, network in networks.items() if is_preview(network)]
    texts = {
        "networks": network_table(networks),
        "total": sum(network["bytes"] for network in networks.values() if network["ships"]) / 1e6,
        "preview": _preview(previews),
        "input": value_table(numbers["quality"], networks, "input"),
        "other": value_table(numbers["quality"], networks, "other"),
        "goals": "\n".join(
            goal_row(name, numbers["quality"][name], network) for name, network in networks.items()
        ),
        "files": "\n".join(
            f"| {name}.safetensors | {network['bytes']} | {network['sha256']} |"
            for name, network in networks.items()
            if network["ships"]
        ),
        "most_mse": MOST_MSE,
        "most_lpips": MOST_LPIPS,
        "most_of_own": MOST_OF_OWN_CODE,
        "figure": "../../../figures/encoders/curves.png",
    }
    return CARD.format(**(numbers["facts"] | texts))


def _preview(names: list[str]) -> str:
    if not names:
        return f"Each was trained for at least {TRAINED_STEPS} steps on pictures."
    return f"Previews, trained for fewer than {TRAINED_STEPS} steps on pictures: {', '.join(names)}."


def network_table(networks: Mapping[str, Mapping]) -> str:
    """What the networks are, and how long they were trained."""
    rows = [
        "| network | method | parameters | MB | steps on codes | on pictures | LPIPS at | minutes | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, network in networks.items():
        notes = [f"refines `{network['encoder']}`"] if network["encoder"] else []
        notes += ["preview"] * is_preview(network) + ["does not ship"] * (not network["ships"])
        rows.append(
            f"| `{name}` | `{network['method']}` | {network['parameters'] / 1e6:.2f} M "
            f"| {network['bytes'] / 1e6:.2f} | {network['code_steps'] or '–'} | {network['steps']} "
            f"| {network['settings']['lpips_resolution']} px "
            f"| {sum(network['seconds'].values()) / 60:.0f} | {'; '.join(notes)} |"
        )
    return "\n".join(rows)


def value_table(quality: Mapping[str, Mapping], networks: Mapping[str, Mapping], place: str) -> str:
    """METRICS with their intervals, of the mean latent and of networks, in one kind of view."""
    rows = ["| network | MSE | LPIPS | identity |", "|---|---|---|---|"]
    labels = {"mean": "mean latent"} | {name: f"`{name}`" for name in networks}
    for name, label in labels.items():
        cells = [_cell(quality[name][place][metric]) for metric in METRICS]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(rows)


def goal_row(name: str, quality: Mapping, network: Mapping) -> str:
    """A network's errors in parts of the mean latent's and of its own w+'s, and whether that is what was aimed at."""
    place = quality["input"]
    cells = [_cell(place["of_mean"]["mse"]), _cell(place["of_mean"]["lpips"])]
    cells.append(_cell(place["of_own_code"]["mse"]) if "of_own_code" in place else "–")
    missed = [goal for goal, met in goals(quality, network["method"] == ALIGNMENT).items() if not met]
    return f"| `{name}` | {' | '.join(cells)} | {'missed: ' + ', '.join(missed) if missed else 'met'} |"


def _cell(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def training_curves(networks: Mapping[str, Mapping]) -> Picture:
    """Errors of all trainings by step: of codes, and the MSE of pictures, encoders and refinements.

    Other terms of the losses differ in weight and form from network to network.
    """
    panels: dict[str, dict] = {"codes": {}, "pictures: encoders": {}, "pictures: refinements": {}}
    for name, network in networks.items():
        curves, settings = network["curves"], network["settings"]
        if "codes" in curves:
            panels["codes"][RECIPES[name].codes] = curves["codes"]["step"], curves["codes"]["code"]
        of = "refinements" if network["encoder"] else "encoders"
        error = [value / settings["lam_l2"] for value in curves["pictures"]["l2"]]
        short = name.removeprefix(f"{GENERATOR}-").replace("_", " ")
        panels[f"pictures: {of}"][short] = curves["pictures"]["step"], error
    panels = {title: series for title, series in panels.items() if series}
    labels = ["in variances of w" if title == "codes" else "MSE" for title in panels]
    return line_panels(panels, "step", labels, markers=False)


def publish(numbers: dict) -> str:
    """Write the curves, the record and the card; returns the card."""
    figure = runs.save_figure(training_curves(numbers["networks"]), "curves", RUN)
    runs.record(RUN, numbers, [figure])
    text = encoders_card(numbers)
    with paths.replacing(CARD_FILE) as temporary:
        temporary.write_text(text)
    return text


def require_small(networks: Mapping[str, Mapping]) -> None:
    """Networks that ship are part of every clone."""
    total = sum(network["bytes"] for network in networks.values() if network["ships"])
    if total > MOST_BYTES:
        raise ValueError(
            f"the shipped networks take {total / 1e6:.2f} MB together, at most {MOST_BYTES / 1e6:.0f} are allowed: "
            f"remove some of {SHIPPED}, and name them with --unshipped"
        )


def main(names: list[str], unshipped: list[str], singles: int, people: int, history: str = "") -> str:
    """Ship networks, measure them and those that do not ship, and write the one card of all."""
    for name in names:
        ship(name)
    networks = {name: described(name) for name in [*names, *unshipped]}
    require_small(networks)
    generator = load_generator(GENERATOR)
    portraits = datasets.load_portraits(PLAN, generator.resolution, generator.neural_resolution)
    facts = {
        "generator": GENERATOR,
        "resolution": generator.resolution,
        "training_portraits": int((~portraits.held_out).sum()),
        "singles": singles,
        "people": people,
        "history": f" {history}" if history else "",
    }
    quality = measured(list(networks), generator, portraits, singles, people)
    return publish({"facts": facts, "networks": networks, "quality": quality})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Ship trained encoder networks, measure them on held-out people, write their card."
    )
    parser.add_argument("names", nargs="+", choices=list(RECIPES), metavar="NAME", help="networks that ship")
    parser.add_argument("--unshipped", nargs="*", default=[], choices=list(RECIPES), metavar="NAME")
    parser.add_argument("--singles", type=int, default=200, help="held-out portraits of the photo's own view")
    parser.add_argument(
        "--people", type=int, default=40, help="held-out people who are seen from elsewhere, too"
    )
    parser.add_argument(
        "--history", default="", help="what differed from the recipes in the course of a training"
    )
    print(main(**vars(parser.parse_args())))
