"""What the paper's tables hold, as far as it is on record here: the settings of every row, and its numbers.

"The paper" is Li, Ma, Qu, Huang, Metze: Audio-Visual Event Recognition Through the Lens of Adversary (ICASSP 2021,
arXiv 2011.07430). Its full text was not at hand when this was written: settings and numbers are those that RECIPE.md 5
names. Every other cell is None, which means "not on record here" and never "the paper has none"; `PaperTable.missing`
says what is to be filled in from the paper. `RELEASED_RUNS` are not the paper's: they are outputs that stand in
notebooks of the authors' repository.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

from models.metrics import METRICS

PAPER = "arXiv:2011.07430"
FREQ_BANDS = ((0, 20), (20, 40), (40, 64))  # mel bins, the end excluded: where δ may be other than 0
TIME_HALVES = ((0, 200), (200, 400))  # frames of 25 ms, the end excluded

Range = tuple[int, int]


@dataclass(frozen=True)
class RowKey:
    """What a number was measured on.

    Args:
        model: name in `models.registry`.
        norm: "1", "2" or "inf"; None: not attacked.
        epsilon: radius of the ball in normalised units; None: not attacked.
        freq: mel bins that δ may use, None: all.
        time: frames that δ may use, None: all.
        class_name: AudioSet's display name, None: mean over classes.

    Raises:
        ValueError: an attack without ε, an ε or a mask without an attack, or an unknown norm.
    """

    model: str
    norm: str | None = None
    epsilon: float | None = None
    freq: Range | None = None
    time: Range | None = None
    class_name: str | None = None

    def __post_init__(self) -> None:
        if self.norm not in (None, "1", "2", "inf"):
            raise ValueError(f"norm: '1', '2', 'inf' or None expected, got {self.norm!r}")
        if (self.norm is None) != (self.epsilon is None):
            raise ValueError(f"norm and epsilon: both or neither expected, got {self.norm!r} and {self.epsilon!r}")
        if self.norm is None and (self.freq or self.time):
            raise ValueError("freq and time: only of an attack, got a mask with norm None")


@dataclass(frozen=True)
class Row:
    """Numbers as printed (None: not on record), and where they come from if not from the table itself."""

    key: RowKey
    values: Mapping[str, float | None]
    note: str = ""

    @property
    def d_prime_gap(self) -> float | None:
        """Printed d′ minus √2·Φ⁻¹(printed AUC); None where either is not on record."""
        auc, printed = self.values.get("AUC"), self.values.get("d_prime")
        if auc is None or printed is None:
            return None
        return printed - math.sqrt(2) * NormalDist().inv_cdf(auc)


@dataclass(frozen=True)
class PaperTable:
    """One table: `rows` in an order of ours, `layout_inferred` where RECIPE.md 5 leaves open which row stands in it."""

    number: int
    caption: str
    rows: tuple[Row, ...]
    missing: str
    layout_inferred: bool = False
    columns: tuple[str, ...] = METRICS

    @property
    def source(self) -> str:
        """Where the numbers are printed."""
        return f"{PAPER}, Table {self.number}"

    def find(self, key: RowKey) -> Row | None:
        """The row of exactly that key, or None."""
        return next((row for row in self.rows if row.key == key), None)

    def value(self, key: RowKey, column: str) -> float | None:
        """The printed number; None where there is no such row or the number is not on record.

        Raises:
            ValueError: the table has no such column.
        """
        if column not in self.columns:
            raise ValueError(f"column: one of {', '.join(self.columns)} expected, got {column!r}")
        row = self.find(key)
        return row.values[column] if row else None


@dataclass(frozen=True)
class Figure:
    """A figure's panels by their attack; `inferred` says what of the keys is not the paper's word."""

    number: int
    caption: str
    panels: tuple[RowKey, ...]
    inferred: str


@dataclass(frozen=True)
class Inconsistency:
    """Something in the paper that does not agree with itself; `computable` once the numbers needed are on record."""

    tables: tuple[int, ...]
    statement: str
    computable: bool


@dataclass(frozen=True)
class Conclusion:
    """One of the paper's three questions with its answer in our words; None where the answer is not on record."""

    question: str
    answer: str | None
    basis: str


def _row(key: RowKey, mean_ap: float | None = None, note: str = "") -> Row:
    return Row(key, {"mAP": mean_ap, "AUC": None, "d_prime": None}, note)


_NO_AUC_D_PRIME = "AUC and d′ of every row"
_CLEAN = "whether unattacked rows are printed, and their numbers"
_REST_OF_2_AND_3 = f"{_NO_AUC_D_PRIME}; {_CLEAN}; which masks stand in which of Tables 2 and 3; footnote 4, on l∞"

TABLES: Mapping[int, PaperTable] = {
    table.number: table
    for table in (
        PaperTable(
            1,
            "The four ways of fusing sound and picture under an l2 attack on the sound, ε 0.3",
            tuple(_row(RowKey(model, "2", 0.3)) for model in ("early", "mid1", "mid2", "late")),
            missing=f"mAP of every row (late: see UNPLACED); {_NO_AUC_D_PRIME}; {_CLEAN}",
        ),
        PaperTable(
            2,
            "The best audio CSN under l2 attacks kept to bands of mel bins",
            tuple(
                _row(
                    RowKey("csn", "2", epsilon, freq),
                    *((0.104, "taken as unmasked") if (epsilon, freq) == (0.3, None) else ()),
                )
                for epsilon in (0.1, 0.3)
                for freq in (None, *FREQ_BANDS)
            ),
            missing=f"mAP of all rows but the unmasked one at ε 0.3; {_REST_OF_2_AND_3}",
            layout_inferred=True,
        ),
        PaperTable(
            3,
            "The best audio CSN under l2 attacks kept to one half of the clip",
            tuple(_row(RowKey("csn", "2", epsilon, None, time)) for epsilon in (0.1, 0.3) for time in TIME_HALVES),
            missing=f"mAP of every row; {_REST_OF_2_AND_3}",
            layout_inferred=True,
        ),
        PaperTable(
            4,
            "Three audio architectures and late fusion under an l2 attack, ε 0.3, mean of 3 seeds",
            tuple(
                _row(RowKey(model, "2", 0.3), 0.221 if model == "csn" else None)
                for model in ("resnet50", "crnn", "csn", "late")
            ),
            missing=f"mAP of resnet50, crnn and late (see UNPLACED); {_NO_AUC_D_PRIME}; {_CLEAN}",
        ),
        PaperTable(
            5,
            "CRNN and CSN class by class under an l2 attack, ε 0.1: eight classes",
            (),
            missing="the eight classes and all numbers",
        ),
        PaperTable(
            6,
            "CSN's best classes with and without an l2 attack, ε 0.1",
            (),
            missing="the classes and all numbers",
        ),
    )
}

# On record is only "the attacked late model", which Tables 1 and 4 both have with the same setting.
UNPLACED: tuple[Row, ...] = (_row(RowKey("late", "2", 0.3), 0.27, "Table 1 or Table 4; two decimals on record"),)

FIGURE_2 = Figure(
    2,
    "Perturbations of the best audio CSN: three under l2 with a mask, one under l∞ without",
    (
        RowKey("csn", "2", 0.3, freq=(0, 20)),
        RowKey("csn", "2", 0.3, freq=(20, 40)),
        RowKey("csn", "2", 0.3, time=(0, 200)),
        RowKey("csn", "inf", 0.3),
    ),
    inferred="ε of the three l2 panels is not stated and taken as 0.3; RECIPE.md 5 names no mask for l∞",
)

INCONSISTENCIES: tuple[Inconsistency, ...] = (
    Inconsistency(
        (2, 4),
        "CSN under the l2 attack with ε 0.3 is 0.104 mAP in Table 2 (the best model) and 0.221 in Table 4 (the mean of "
        "three seeds)",
        computable=True,
    ),
    Inconsistency((1, 4), "the printed d′ is not √2·Φ⁻¹ of the printed AUC", computable=False),
)

CONCLUSIONS: tuple[Conclusion, ...] = (
    Conclusion(
        "How does the place of fusion (early, middle, late) trade robustness against accuracy?",
        "Late fusion keeps most under the attack.",
        "inferred from RECIPE.md 5, which ties the first conclusion to the attacked late model's 0.27",
    ),
    Conclusion(
        "What do frequency bands and stretches of time contribute to robustness?", None, "the abstract only asks"
    ),
    Conclusion("What do the kinds of neural modules contribute to robustness?", None, "the abstract only asks"),
)


@dataclass(frozen=True)
class ReleasedRun:
    """A result that stands in a notebook of the authors' repository, scored on 20,098 clips of the evaluation list.

    The repository was first committed after publication: these are not the paper's numbers, and the models need not be
    its models.
    """

    row: Row
    notebook: str
    commit: str


RELEASED_REPOSITORY = "lijuncheng16/AudioSetDoneRight"


def _released(
    key: RowKey, numbers: tuple[float, float, float], notebook: str, commit: str, note: str = ""
) -> ReleasedRun:
    return ReleasedRun(Row(key, dict(zip(METRICS, numbers, strict=True)), note), notebook, commit)


RELEASED_RUNS: tuple[ReleasedRun, ...] = (
    _released(
        RowKey("early"),
        (0.392059, 0.965531, 2.572211),
        "checkPerformance-reproduce-early.ipynb",
        "add598a9553db4f4209b9b0bebe7f60c6e89ffe6",
        "checkpoint 11",
    ),
    _released(
        RowKey("mid1"),
        (0.465091, 0.977829, 2.843767),
        "checkPerformance-reproduce.ipynb",
        "add598a9553db4f4209b9b0bebe7f60c6e89ffe6",
        "there called mid0; its 12,288 columns before the projection are mid 1's",
    ),
    _released(
        RowKey("late"),
        (0.426546, 0.971287, 2.687072),
        "checkPerformance-reproduce_MMTLF.ipynb",
        "46b7d7c5b8ca4171ce4ec8480a042aa61ef0973b",
    ),
    _released(
        RowKey("video"),
        (0.233801, 0.906902, 1.869476),
        "checkPerformance-reproduce-video_only.ipynb",
        "46b7d7c5b8ca4171ce4ec8480a042aa61ef0973b",
        "the 0.234 that RECIPE.md names",
    ),
    _released(
        RowKey("csn", "inf", 0.1),
        (0.185232, 0.903369, 1.839879),
        "Adversary_MMTLF-pgd-audio.ipynb",
        "588866f8cefc8c01cbd81ac1ac0571975d0d4915",
        "16 heads for 8; rule accumulated, α 0.1, 20 passes, fitted and scored on the same clips",
    ),
)


def numbers_of(key: RowKey, column: str = "mAP") -> Iterator[tuple[int, float]]:
    """Every table that has a number on record for that key, with the number: for printing beside ours."""
    for number, table in TABLES.items():
        value = table.value(key, column)
        if value is not None:
            yield number, value
