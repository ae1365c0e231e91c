from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_runs import a_plan

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.evaluation.pictures import pictures_folder, read_pictures
from anomaly_seg_ros.evaluation.run import run_plan


def test_the_best_and_the_worst_images(tmp_path: Path, model: Path, obstacles: Path) -> None:
    benchmark = run_plan(a_plan(tmp_path, model, obstacles))
    counts = ImageCounts.load(tmp_path / "images" / "tiny__obstacles.npz")
    # max_logit is the tiny model's default; the fifth image has no anomaly and no AP.
    ap = counts.per_image("max_logit")["AP"][:4]
    order = np.argsort(-ap)
    ((key, pictures),) = read_pictures(benchmark, tmp_path).items()
    assert key == ("tiny", "obstacles")
    assert [caption.partition(":")[0] for caption, _ in pictures] == [
        f"f{order[place]}" for place in (0, 2, 3)
    ]
    assert f"max_logit, AP {100 * ap[order[0]]:.1f} %" in pictures[0][0]
    for _, content in pictures:
        strip = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert strip.shape[1] >= 4 * 320
        assert strip.std() > 10
    next(pictures_folder(tmp_path, *key).glob("0001.png")).unlink()
    with pytest.raises(OutputError, match="tiny__obstacles"):
        read_pictures(benchmark, tmp_path)
