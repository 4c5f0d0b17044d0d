"""Which pictures a study has, and what is said of them in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_samples import minimal, read, whole
from study_folder import StudyFolder

from attacks.document import Gallery
from attacks.figures import class_bars, curves, gap_bars, panels
from attacks.masks import Mask
from attacks.perturbation import Spec
from stores.storage import Storage


def galleries() -> dict[str, Gallery]:
    parts = [part for section in whole().document.sections for part in section.parts]
    return {part.name: part for part in parts if isinstance(part, Gallery)}


def test_figure_2_has_four_panels_in_three_ways_of_the_best_csn() -> None:
    best = whole().study.best_run("csn")
    assert best is not None
    for number in (1, 2, 3):
        gallery = galleries()[f"figure-2-{number}"]
        assert [picture.kind for picture in gallery.pictures] == ["png"] * 4
        assert best.name in gallery.caption and "Not in this store" not in gallery.caption
    titles = [picture.title for picture in galleries()["figure-2-1"].pictures]
    path = whole().root / f"attacks/{best.name}/main/deltas/projected-l2-clip-eps0.3-freq0-20-bce-s0.npy"
    delta = np.load(path).astype(float)
    assert titles[0].startswith("l2, ε 0.3, mel bins 0–20 (0–975 Hz) – measured")
    assert f"l1 {np.abs(delta).sum():.3g}, l2 {np.linalg.norm(delta):.3g}, l∞ {np.abs(delta).max():.3g}" in titles[0]
    assert titles[3].startswith("l∞, ε 0.3 – measured")


def test_panels_that_the_store_lacks_are_named(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path, ("csn",), (0,))
    study.train("csn-s0", "csn")
    study.attack("csn-s0", "csn", specs=[Spec("projected", "2", "clip", "bce", 0, Mask((0, 20)), 0.3)])
    (gallery,) = panels(read(tmp_path).study, Storage(str(tmp_path)))
    assert len(gallery.pictures) == 1
    lacking = "l2, ε 0.3, mel bins 20–40 (928–2537 Hz); l2, ε 0.3, frames 0–200 (0–5 s); l∞, ε 0.3."
    assert f"Not in this store: {lacking}" in gallery.caption
    (empty,) = panels(minimal().study, Storage(str(minimal().root)))
    assert not empty.pictures


def test_where_no_setting_of_the_paper_is_there_what_is_is_drawn(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path, ("csn",), (0,))
    study.train("csn-s0", "csn")
    specs = [
        Spec("projected", "2", scope, "bce", 0, Mask(), size) for scope in ("clip", "frame") for size in (3.0, 30.0)
    ]
    specs += [Spec("projected", "1", "clip", "bce", 0, Mask((0, 20)), 30.0)]
    study.attack("csn-s0", "csn", specs=specs)
    empty, own = panels(read(tmp_path).study, Storage(str(tmp_path)))
    assert not empty.pictures and own.name == "figure-2-own" and len(own.pictures) == 4
    titles = [picture.title for picture in own.pictures]
    assert all("ε 30" in title for title in titles[:3]) and "ε 3; projected" in titles[3]
    assert len(set(titles)) == 4 and all("measured l1" in title for title in titles)


@pytest.mark.parametrize("damage", ["missing", "rubbish", "shape", "nan"])
def test_a_perturbation_that_cannot_be_read_is_left_out(tmp_path: Path, damage: str) -> None:
    study = StudyFolder(tmp_path, ("csn",), (0,))
    study.train("csn-s0", "csn")
    study.attack("csn-s0", "csn", specs=[Spec("projected", "inf", "clip", "bce", 0, Mask(), 0.3)])
    path = next(tmp_path.rglob("*.npy"))
    {
        "missing": path.unlink,
        "rubbish": lambda: path.write_bytes(b"PNG"),
        "shape": lambda: np.save(path, np.zeros((3, 3))),
        "nan": lambda: np.save(path, np.full((400, 64), np.nan)),
    }[damage]()
    (gallery,) = panels(read(tmp_path).study, Storage(str(tmp_path)))
    assert not gallery.pictures and "l∞, ε 0.3." in gallery.caption


def test_a_name_that_leads_out_of_the_study_is_not_followed(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study", ("csn",), (0,))
    study.train("csn-s0", "csn")
    study.attack("csn-s0", "csn", specs=[Spec("projected", "inf", "clip", "bce", 0, Mask(), 0.3)])
    np.save(tmp_path / "secret.npy", np.ones((400, 64), np.float32))
    path = tmp_path / "study/attacks/csn-s0/main/summary.json"
    found = json.loads(path.read_text())
    found["perturbations"][0]["name"] = "../../../../../secret"
    path.write_text(json.dumps(found))
    (gallery,) = panels(read(tmp_path / "study").study, Storage(str(tmp_path / "study")))
    assert not gallery.pictures


def test_curves_are_drawn_for_every_model_and_said_in_numbers() -> None:
    found = curves(whole().study)
    assert [gallery.name for gallery in found] == ["curves-l2", "curves-linf"]
    assert [picture.title for picture in found[0].pictures] == ["csn", "crnn", "mid2", "late"]
    assert [picture.title for picture in found[1].pictures] == ["csn"]
    rows = [
        json.loads((whole().root / f"evaluations/csn-s{seed}/summary.json").read_text())["checkpoints"][0]["rows"]
        for seed in (0, 1)
    ]
    name = "projected-l2-clip-epsinf-full-bce-s0"
    mean = np.mean([next(row["mAP"] for row in of_seed if (row["delta"] or "").endswith(name)) for of_seed in rows])
    assert f"ε without bound → {mean:.3f}" in found[0].pictures[0].alt
    assert "chance 0." in found[0].pictures[0].alt


def test_classes_and_gap() -> None:
    bars, gap = class_bars(whole().study), gap_bars(whole().study)
    assert bars is not None and gap is not None
    assert [picture.title for picture in bars.pictures] == ["csn", "crnn", "mid2", "late"]
    assert "<script>alert('x')</script>" in bars.pictures[0].alt  # escaped where it is written, not here
    assert [picture.title for picture in gap.pictures] == [
        "l2, ε 0.3; projected, ε over the clip",
        "l2, ε 0.3; projected, ε per frame",
        "l2, ε 0.3; accumulated, as released",
    ]
    assert class_bars(minimal().study) is None and gap_bars(minimal().study) is None and curves(minimal().study) == []


def test_every_picture_has_words_and_a_name_of_its_own() -> None:
    pictures = whole().document.pictures()
    assert len({picture.name for picture in pictures}) == len(pictures) > 20
    assert all(len(picture.alt) > 30 and picture.title for picture in pictures)
