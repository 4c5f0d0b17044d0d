"""Perturbations made against one model and tried on another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attacks.document import Cell, Table, absent, fixed, sources_of, words
from attacks.extra_tables import setting_words
from attacks.facts import Fact, Setting, Study, Variant, setting_of
from attacks.tables import clips_words

MOST_RUNS = 10  # in a matrix of single runs; more are put together by model


@dataclass(frozen=True)
class Matrix:
    """mAP of each target (column) under the perturbation made against each source (row); None where not tried.

    Attributes:
        clean: of each target, None where not scored.
        facts: behind each cell.
        by_run: whether rows and columns are runs, or models (a mean over pairs of one seed).
    """

    setting: Setting
    names: tuple[str, ...]
    cells: Mapping[tuple[str, str], tuple[Fact, ...]]
    clean: Mapping[str, tuple[Fact, ...]]
    by_run: bool

    def value(self, source: str, target: str) -> float | None:
        """A cell's mean."""
        return _mean(self.cells.get((source, target), ()))

    def before(self, target: str) -> float | None:
        """A target's clean score."""
        return _mean(self.clean.get(target, ()))


def transfer_matrix(study: Study, variant: Variant) -> Matrix | None:
    """The matrix of the setting that most models share, nearest to l2 with ε 0.3; None where no two were tried."""
    facts = [fact for fact in study.facts if fact.place == "transfer" and fact.kind == "attacked" and fact.made_on]
    by_setting: dict[Setting, list[Fact]] = {}
    for fact in facts:
        if fact.spec and (fact.spec.rule, fact.spec.scope) == (variant.rule, variant.scope):
            by_setting.setdefault(setting_of(fact.spec), []).append(fact)
    by_setting = {key: found for key, found in by_setting.items() if len({fact.made_on for fact in found}) > 1}
    if not by_setting:
        return None
    setting = min(by_setting, key=lambda key: (-len({fact.made_on for fact in by_setting[key]}), _distance(key)))
    found = by_setting[setting]
    by_run = len({fact.run for fact in found}) <= MOST_RUNS
    entry_of = {f"{item.name}-s{seed}": item.name for item in study.models for seed in study.seeds}
    cells: dict[tuple[str, str], list[Fact]] = {}
    for fact in found:
        if by_run:
            cells.setdefault((fact.made_on, fact.run), []).append(fact)
        elif fact.made_on.rpartition("-s")[2] == str(fact.seed):
            cells.setdefault((entry_of[fact.made_on], fact.entry), []).append(fact)
    clean: dict[str, list[Fact]] = {}
    for fact in study.facts:
        if (fact.place, fact.kind) == ("transfer", "clean"):
            clean.setdefault(fact.run if by_run else fact.entry, []).append(fact)
    wanted = {name for pair in cells for name in pair}
    order = [f"{item.name}-s{seed}" if by_run else item.name for item in study.models for seed in study.seeds]
    names = tuple(name for name in dict.fromkeys(order) if name in wanted)
    kept = {pair: tuple(facts) for pair, facts in cells.items()}
    return Matrix(setting, names, kept, {name: tuple(facts) for name, facts in clean.items()}, by_run)


def transfer_table(name: str, matrix: Matrix) -> Table:
    """The matrix with a row of clean scores."""
    rows = [(words("clean"), *(_cell(matrix.clean.get(target, ())) for target in matrix.names))]
    for source in matrix.names:
        cells = [_cell(matrix.cells.get((source, target), ())) for target in matrix.names]
        rows.append((words(f"made against {source}"), *cells))
    seen = [fact for facts in matrix.cells.values() for fact in facts]
    caption = (
        f"mAP on {clips_words(seen)} of the model of the column under the perturbation that was made against the "
        f"model of the row: {setting_words(matrix.setting)}, objective {matrix.setting[5]}. "
        + ("Each is a single run." if matrix.by_run else "Means over pairs of one seed.")
    )
    title = f"Transfer: {setting_words(matrix.setting)}"
    return Table(name, title, caption, ("δ", *(f"on {target}" for target in matrix.names)), tuple(rows))


def _cell(facts: tuple[Fact, ...]) -> Cell:
    value = _mean(facts)
    return absent() if value is None else Cell(fixed(value), sources_of(facts), "number")


def _mean(facts: tuple[Fact, ...]) -> float | None:
    values = [value for fact in facts if (value := fact.metrics["mAP"]) is not None]
    return sum(values) / len(values) if values else None


def _distance(setting: Setting) -> tuple[bool, bool, bool, float, str]:
    _, _, norm, epsilon, mask, objective = setting
    return mask != "full", objective != "bce", norm != "2", abs(epsilon - 0.3), f"{norm}{mask}{objective}"
