# SPDX-License-Identifier: Apache-2.0
"""Wrong calls of the tools and the node, whose error texts are golden, and the files they name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

WRONG_CALLS = (
    ("evaluate", "--data clip --out o --models nothing"),
    ("evaluate", "--data nothing --out o"),
    ("evaluate", "--data nonsense:clip --out o"),
    ("evaluate", "--data clip?nonsense=1 --out o"),
    ("evaluate", "--data clip --out o --scores energie"),
    ("evaluate", "--data clip --out o --threads 0"),
    ("evaluate", "--data clip --out o --name x"),
    ("evaluate", "--data clip --out o --dumped nowhere"),
    ("evaluate", "--data clip --out o --dump png x"),
    ("evaluate", "--data clip --out o --models default default"),
    ("evaluate", "--data clip --out o --device tpu"),
    ("evaluate", "--data clip --out o --via pigeon"),
    ("evaluate", "--data binary --out o"),
    ("evaluate", "--data bag:empty --out o"),
    ("evaluate", "--out o"),
    ("evaluate_bag", "nothing --out o"),
    ("evaluate_bag", "empty --out o"),
    ("evaluate_bag", "text.txt --out o"),
    ("evaluate_bag", "junk.mcap --out o"),
    ("evaluate_bag", "bag --out o --mode in-process --image-topic /none"),
    ("evaluate_bag", "bag --out o --mode in-process --bit-depth 99"),
    ("evaluate_bag", "bag --out o --mode in-process --stamp-tolerance -1"),
    ("evaluate_bag", "bag --out o --mode in-process --inference-size 8 8"),
    ("evaluate_bag", "bag --out o --mode in-process --model closed_set --score dense_hybrid"),
    ("evaluate_bag", "bag --out o --mode in-process --model text.txt"),
    ("evaluate_bag", "bag --out o --mode in-process --model junk.pth"),
    ("evaluate_bag", "bag --out text.txt/o --mode in-process"),
    ("evaluate_folder", "--data nothing --out o"),
    ("evaluate_folder", "--data empty --out o"),
    ("evaluate_folder", "--data clip --dataset cityscapes --out o"),
    ("evaluate_folder", "--data values --dataset folder --out o --mode in-process"),
    ("evaluate_folder", "--data binary --dataset folder --out o"),
    ("evaluate_folder", "--data clip --out o --labels nonsense"),
    ("demo", "--data empty --out o"),
    ("dataset_to_bag", "--root missing --out new"),
    ("dataset_to_bag", "--root binary --dataset folder --split val --out new"),
    ("dataset_to_bag", "--root binary --dataset folder --option size=2 --out new"),
    ("dataset_to_bag", "--root binary --dataset folder --option size --out new"),
    ("dataset_to_bag", "--root clip --jpeg-quality 0 --out new"),
    ("dataset_to_bag", "--root clip --out bag"),
    ("dataset_to_bag", "--root clip --limit 0 --out new"),
    ("dataset_to_bag", "--root truncated --dataset folder --out new"),
    ("compare", "nothing nothing"),
    ("compare", "bad.json bad.json"),
    ("compare", "empty empty"),
    ("convert_model", "nothing --to x.safetensors"),
    ("convert_model", "default --to model.onnx"),
    ("convert_model", "default --to x.safetensors --std 1 0 1"),
    ("convert_model", "default --to x.safetensors --inference-size 63 96"),
    ("convert_model", "default --to x.safetensors --classes nowhere"),
    ("convert_model", "junk.pth --to x.safetensors"),
    ("inspect_model", "no.safetensors"),
    ("inspect_model", "junk.safetensors"),
    ("inspect_model", "text.txt"),
    ("inspect_model", "default --as erfnet"),
    ("export_model", "default --to onnx --out x.pt2"),
    ("export_model", "default --to pt2 --out x.pt2 --opset 18"),
    ("export_model", "closed_set --to pt2 --out x.pt2 --score dense_hybrid"),
    ("export_model", "default --to pt2 --out no/x.pt2"),
    ("inject_faults", "nothing --out o"),
    ("segment", "nothing --out o"),
    ("segment", "empty --out o"),
    ("segment", "text.txt --out o"),
    ("segment", "values/images text.txt --out o"),
    ("segment", "truncated/images --out o"),
    ("segment", "97 --out o"),
    ("segment", "values --out values"),
    ("segment", "values --out text.txt"),
    ("segment", "values --out o --threshold 2"),
    ("segment", "values --out o --alpha -1"),
    ("segment", "values --out o --limit 0"),
    ("segment", "values --out o --write pictures"),
    ("segment", "values --out o --model closed_set --score dense_hybrid"),
    ("segment", "values --out o --model nowhere"),
    ("training.closed_set", "--run-dir r --set stepps=3"),
    ("training.closed_set", "--run-dir r --set steps=1.5"),
    ("training.closed_set", "--run-dir r --set steps"),
    ("training.closed_set", "--run-dir r --config nowhere.yaml"),
    ("training.closed_set", "--run-dir r --config bad.yaml"),
    ("training.fine_tune", "--run-dir r --set mixing.propability=1"),
    ("training.fine_tune", "--run-dir r --set probability=1"),
    ("training.calibrate", "--model default --out x.txt"),
    ("training.calibrate", "--model default --out x.json --target-fpr 2"),
)
# Words behind --ros-args, and the environment.
WRONG_NODES: tuple[tuple[str, dict[str, str]], ...] = (
    ("-p threshold:=high", {}),
    ("-p threshold:=2.0", {}),
    ("-p qos_depth:=0", {}),
    ("-p image_transport:=pigeon", {}),
    ("-p backend:=abacus", {}),
    ("-p cameras:=[front/left]", {}),
    ("--params-file nowhere.yaml", {}),
    ("--params-file bad.yaml", {}),
    ("--foo", {}),
    ("", {"ROS_DOMAIN_ID": "233"}),
)


def write_inputs(folder: Path, clip: Path) -> None:
    """Writes what the calls name, except the bag, into the folder that they run in."""
    (folder / "empty").mkdir()
    (folder / "clip").symlink_to(clip)
    for name, content in {
        "text.txt": b"hello\n",
        "bad.yaml": b"/**: [\n",
        "bad.json": b"{",
        "junk.mcap": b"no bag" * 100,
        "junk.pth": b"no weights" * 100,
        "junk.safetensors": b"no weights" * 100,
    }.items():
        (folder / name).write_bytes(content)
    picture = np.random.default_rng(1).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    for name, largest in {"binary": 255, "values": 7, "truncated": 1}.items():
        mask = np.zeros((60, 90), np.uint8)
        mask[20:40, 20:50] = largest
        for part, array in (("images", picture), ("labels", mask)):
            (folder / name / part).mkdir(parents=True)
            cv2.imwrite(str(folder / name / part / "a.png"), array)
    image = folder / "truncated" / "images" / "a.png"
    image.write_bytes(image.read_bytes()[:5000])
