"""What a study is: models × seeds × attacks × evaluations, as plain data, and the studies that ship."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from models.registry import entry_of
from pipeline.job_options import SEEDS

Scale = Literal["full", "laptop", "demo"]
SCALES: tuple[Scale, ...] = get_args(Scale)
SPLITS = ("train", "valid", "fit", "select", "report")
PRESETS = ("icassp2021",)
MASKS = ("full", "freq0-20", "freq20-40", "freq40-64", "time0-200", "time200-400")


@dataclass(frozen=True)
class ModelPlan:
    """A recogniser to be trained once for each seed.

    Attributes:
        name: within the study.
        model: in the registry.
        flags: for `pipeline/train.py`, beside the study's own.
    """

    name: str
    model: str
    flags: tuple[str, ...] = ()

    @property
    def hears(self) -> bool:
        """Whether there is a sound to perturb."""
        return "logmel" in entry_of(self.model).model.columns

    @property
    def sees(self) -> bool:
        """Whether it reads the picture."""
        return "video" in entry_of(self.model).model.columns


@dataclass(frozen=True)
class AttackPlan:
    """Perturbations to be made in one run, for each of some models.

    Attributes:
        name: within the study.
        flags: for `attacks/universal_pgd.py`, beside the study's own.
        models: names of the study's models; none for all that hear.
        best_seed: only of the seed with the best validation mAP, as the paper's tables 2 and 3.
    """

    name: str
    flags: tuple[str, ...]
    models: tuple[str, ...] = ()
    best_seed: bool = False


@dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        name, scale: for the report.
        seeds: of the models' training.
        models, attacks: what is made.
        splits: by use (`train`, `valid`, `fit`, `select`, `report`), names of the store's splits.
        train_flags, attack_flags, evaluate_flags: for every command of a kind.
        transfer: attacks that are tried on every other model too.
        floor: name of the video-only model, whose score is the floor of fusions; empty for none.
        gap: whether models are scored on the fit split too, for what perturbations owe to the clips they are fitted to.

    Raises:
        ValueError: the parts do not fit each other.
    """

    name: str
    scale: str
    seeds: tuple[int, ...]
    models: tuple[ModelPlan, ...]
    attacks: tuple[AttackPlan, ...]
    splits: Mapping[str, tuple[str, ...]]
    train_flags: tuple[str, ...] = ()
    attack_flags: tuple[str, ...] = ()
    evaluate_flags: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()
    floor: str = ""
    gap: bool = True

    def __post_init__(self) -> None:
        names = [plan.name for plan in self.models]
        attacks = [plan.name for plan in self.attacks]
        for what, listed in (("models", names), ("attacks", attacks), ("seeds", list(self.seeds))):
            if (not listed and what != "attacks") or len(set(listed)) != len(listed):
                raise ValueError(f"a study's {what}: one or more expected, each name once, got {listed}")
        if any(not isinstance(seed, int) or seed not in range(SEEDS) for seed in self.seeds):
            raise ValueError(f"expected a study's seeds of 0 to {SEEDS - 1}, got {list(self.seeds)}")
        for name in (*names, *attacks):
            if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_"):
                raise ValueError(f"expected names of small letters, digits and _ in a study, got {name!r}")
        unknown = {name for plan in self.attacks for name in plan.models} - set(names)
        unknown |= set(self.transfer) - set(attacks) | ({self.floor} - {"", *names})
        if unknown:
            raise ValueError(f"no model or attack of the study: {', '.join(sorted(unknown))}")
        lacking = [name for name in SPLITS if not self.splits.get(name)]
        if lacking:
            raise ValueError(f"a study's splits for {', '.join(SPLITS)} expected, none for {', '.join(lacking)}")
        for plan in self.models:
            entry_of(plan.model)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Study:
        """The inverse of `to_dict`. Raises ValueError for anything else."""
        try:
            values = dict(raw)
            values["models"] = tuple(ModelPlan(**_tuples(plan)) for plan in raw["models"])
            values["attacks"] = tuple(AttackPlan(**_tuples(plan)) for plan in raw["attacks"])
            values["splits"] = {name: tuple(listed) for name, listed in raw["splits"].items()}
            return cls(**_tuples(values))
        except (KeyError, TypeError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"expected a study as --print-config shows one, got another form: {what}") from None


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}


def preset(name: str, scale: Scale) -> Study:
    """A study that ships. `icassp2021` is the paper's: at full size, scaled to a laptop, or to the demo's minutes.

    Raises:
        ValueError: no such preset.
    """
    if name != "icassp2021":
        raise ValueError(f"expected a preset of {', '.join(PRESETS)}, got {name!r}")
    return {"full": _full, "laptop": _laptop, "demo": _demo}[scale]()


def _repeat(flag: str, *values: object) -> tuple[str, ...]:
    return tuple(word for value in values for word in (flag, str(value)))


def _full() -> Study:
    """RECIPE.md 3 and 5: the paper's models and attacks, three seeds, and the controls."""
    fusions = ("early", "mid1", "mid2", "late")
    models = tuple(ModelPlan(name, name) for name in ("csn", "crnn", "resnet50", "video", *fusions))
    both_rules = _repeat("--rule", "projected", "accumulated") + _repeat("--scope", "clip", "frame")
    return Study(
        name="icassp2021",
        scale="full",
        seeds=(15213, 15214, 15215),
        models=models,
        attacks=(
            AttackPlan("paper", both_rules + _repeat("--epsilon", 0.1, 0.3)),
            AttackPlan("objectives", _repeat("--objective", "rank", "bounded") + _repeat("--epsilon", 0.1, 0.3)),
            AttackPlan("sweep", _repeat("--epsilon", 0.03, 0.1, 0.3, 1, 3, 10, "inf")),
            AttackPlan(
                "masks",
                both_rules + _repeat("--norm", 2, "inf") + _repeat("--epsilon", 0.1, 0.3) + _repeat("--mask", *MASKS),
                ("csn",),
                best_seed=True,
            ),
        ),
        splits={
            "train": ("train",),
            "valid": ("valid",),
            "fit": ("train",),
            "select": ("select",),
            "report": ("eval",),
        },
        attack_flags=("--alpha", "0.01", "--batch-size", "300"),
        transfer=("paper",),
        floor="video",
    )


def _laptop() -> Study:
    """The same at an eighth of the width on a store of a hundred clips: hours become minutes, and numbers toys."""
    full = _full()
    plans = {
        "csn": "dropout=0.1",
        "video": "dropout=0.1",
        **dict.fromkeys(("early", "mid1", "mid2", "late"), "dropout=0.1"),
    }
    models = []
    for plan in full.models:
        flags = ("--set", plans[plan.name]) if plan.name in plans else ()
        models.append(replace(plan, flags=flags + (("--normalize-video",) if plan.sees else ())))
    paper, objectives, sweep, masked = full.attacks
    masks = _repeat("--norm", 2, "inf") + _repeat("--epsilon", 0.3) + _repeat("--mask", *MASKS)
    return replace(
        full,
        scale="laptop",
        seeds=(1, 2),
        models=tuple(models),
        attacks=(
            paper,
            replace(objectives, flags=(*_repeat("--objective", "rank", "bounded"), "--epsilon", "0.3")),
            # Steps that small would reach no large ball: these have their own length.
            replace(sweep, flags=(*_repeat("--epsilon", 0.3, 3, 30, "inf"), "--alpha", "6")),
            replace(masked, flags=masks),
        ),
        splits={**full.splits, "valid": ("valid", "select")},
        train_flags=(
            *("--width", "0.125", "--steps", "160", "--learning-rate", "0.001", "--batch-size", "16"),
            *("--evaluate-every", "40"),
        ),
        attack_flags=("--alpha", "0.1", "--batch-size", "32", "--group-size", "16", "--passes", "10"),
        evaluate_flags=("--group-size", "16"),
    )


def _demo() -> Study:
    """Two models, one seed, one attack: what fits into the demo's minutes."""
    laptop = _laptop()
    return replace(
        laptop,
        scale="demo",
        seeds=(1,),
        models=tuple(plan for plan in laptop.models if plan.name in ("csn", "mid2")),
        attacks=(
            AttackPlan(
                "paper",
                _repeat("--rule", "projected", "accumulated")
                + _repeat("--scope", "clip", "frame")
                + _repeat("--epsilon", 0.3, 30),
            ),
        ),
        train_flags=(
            *("--width", "0.125", "--steps", "60", "--learning-rate", "0.002", "--batch-size", "16"),
            *("--evaluate-every", "20"),
        ),
        attack_flags=("--alpha", "6", "--batch-size", "32", "--group-size", "16", "--passes", "4"),
        evaluate_flags=("--group-size", "16"),
        transfer=(),
        floor="",
        gap=False,
    )
