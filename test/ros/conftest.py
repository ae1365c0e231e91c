# SPDX-License-Identifier: Apache-2.0
"""A small untrained model, and a running detector to talk to."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.erfnet import ERFNet
from anomaly_seg_ros.models.registry import build_network

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves helper modules unfound
from detector_harness import DetectorHarness, street
from long_replay import TEST as LONG_REPLAY_TEST
from long_replay import LongReplay

# This test run's own, and the long replay's.
DOMAIN, REPLAY_DOMAIN = random.sample(range(1, 102), 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the long replay run beside other tests, and gives these the time of a busy machine.

    In one process it begins with the first of these tests and is looked at last. Where processes
    share the tests, one of them begins with it and waits, while the others go on.
    """
    own_process = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.name == LONG_REPLAY_TEST) != own_process)
    for item in items:
        ours = Path(__file__).parent in item.path.parents
        if ours and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


CLASSES = ("road", "building", "vegetation", "sky", "car")
# Calibrated ones; the network offers max_min_logit as well, and no sml or dense_hybrid.
CALIBRATED = ("msp", "entropy", "max_logit", "energy")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained network, calibrated so that half of a picture is unknown."""
    torch.manual_seed(0)
    arguments = {"num_classes": len(CLASSES), "num_outputs": len(CLASSES)}
    metadata = ModelMetadata(
        name="tiny",
        architecture="erfnet",
        arguments=arguments,
        classes=CLASSES,
        palette=np.arange(15, dtype=np.uint8).reshape(5, 3) * 17,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        inference_size=(64, 96),
    )
    network = build_network("erfnet", arguments)
    raw = Segmenter(network, metadata).predict(street(64, 96), scores=CALIBRATED).scores
    for name, scores in raw.items():
        table = RateTable.from_scores(scores, np.linspace(0.01, 0.99, 99))
        threshold, scale = float(np.median(scores)), float(scores.std())
        metadata.calibration[name] = ScoreCalibration(threshold, scale, table, table)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    save_model(path, build_network("erfnet", arguments), metadata)
    return path


@pytest.fixture(scope="module")
def segmenter(tiny_model: Path) -> Segmenter:
    """The tiny model without a node around it."""
    return Segmenter.load(tiny_model)


@pytest.fixture(autouse=True, scope="session")
def domain() -> int:
    """A DDS domain of this test run's own, also for the processes that it starts."""
    os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
    # Processes that are killed, as some are here, leave their shared memory behind in /dev/shm,
    # where a later participant of the same port can get stuck on it.
    os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"
    return DOMAIN


@pytest.fixture(autouse=True, scope="session")
def long_replay(request: pytest.FixtureRequest) -> Iterator[LongReplay | None]:
    """Begins with the first of these tests, which mostly wait and leave it the cores."""
    shared = "PYTEST_XDIST_WORKER" in os.environ  # every process has the whole list of tests
    if shared or all(item.name != LONG_REPLAY_TEST for item in request.session.items):
        yield None
        return
    replay = LongReplay(REPLAY_DOMAIN)
    yield replay
    replay.close()


@pytest.fixture
def start_detector(tiny_model: Path) -> Iterator[Callable[..., DetectorHarness]]:
    """Starts a detector in this process with a command line and parameters, and ends it."""
    running: list[DetectorHarness] = []

    def start(
        words: Sequence[str] = (), wait_active: bool = True, **parameters: object
    ) -> DetectorHarness:
        defaults = {"model": str(tiny_model), "backend": "torch", "diagnostics_period": 0.1}
        harness = DetectorHarness(defaults | parameters, words)
        running.append(harness)
        if wait_active:
            harness.wait_for_state("active")
        return harness

    yield start
    for harness in running:
        harness.close()


@pytest.fixture
def on_forward() -> Iterator[Callable[[Callable[[torch.Tensor], object]], None]]:
    """Has a function called with the input of every pass of the tiny model's network.

    So a test can make the network hang, or raise what torch raises when a device fails.
    """
    handles = []

    def install(function: Callable[[torch.Tensor], object]) -> None:
        def hook(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            if isinstance(module, ERFNet):
                function(arguments[0])

        handles.append(register_module_forward_pre_hook(hook))

    yield install
    for handle in handles:
        handle.remove()
