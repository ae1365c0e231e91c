# SPDX-License-Identifier: Apache-2.0
"""torch.compile: operators fused into C++ on the CPU and into Triton kernels on a GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.backends.compiled import while_converting
from anomaly_seg_ros.inference.backends.contract import as_batch
from anomaly_seg_ros.inference.backends.cuda_graph import Network
from anomaly_seg_ros.inference.backends.torch_backend import TorchBackend
from anomaly_seg_ros.system.stopwatch import Stopwatch

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
# torch runs sizes beyond this number operator by operator, with a warning. Its default is 8, which
# batches and the tiles at a frame's edges may reach.
_MOST_SIZES = 64


class TorchCompileBackend(TorchBackend):
    """Runs the network with torch.compile, compiled anew for each size of frame.

    The first frame of a size takes up to a minute. Compiled code is cached on disk, so the next
    process starts several times faster.

    Arguments and attributes are those of :class:`TorchBackend`.

    Raises:
        ParameterError: This machine has no compiler, or the device does not support the precision.
    """

    name = "torch_compile"

    def __init__(
        self,
        network: nn.Module,
        metadata: ModelMetadata,
        device: torch.device,
        precision: str,
        cuda_graphs: bool = False,
    ) -> None:
        check_compiler(device)
        note = keep_compiled()
        self._compiled: Network | None = None
        self._shapes: set[tuple[int, ...]] = set()
        super().__init__(network, metadata, device, precision, cuda_graphs)
        if note:
            self.notes.append(note)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """See :class:`~anomaly_seg_ros.inference.backends.contract.Backend`."""
        if self._device.type == "cpu" and len(frames) > 1:
            # Each batch size would be compiled, and a CPU gains nothing from batches.
            return as_batch([self(frame[None], watch) for frame in frames])
        if frames.shape in self._shapes:
            return super().__call__(frames, watch)
        errors = (torch._dynamo.exc.TorchDynamoException,)
        with (
            while_converting(self.name, frames.shape, errors),
            torch._dynamo.config.patch(recompile_limit=_MOST_SIZES),
        ):
            output = super().__call__(frames, watch)
        self._shapes.add(frames.shape)
        return output

    def _runnable(self) -> Network:
        if self._compiled is None:
            self._compiled = torch.compile(self._network, dynamic=False)
        return self._compiled


def check_compiler(device: torch.device) -> None:
    """Checks for the compilers that torch.compile calls.

    Raises:
        ParameterError: Something is missing; says what to install.
    """
    cpu = device.type == "cpu"
    if not cpu and importlib.util.find_spec("triton") is None:
        raise ParameterError("backend 'torch_compile' needs Triton on a GPU: pip install triton")
    variable, usual = ("CXX", ("g++", "clang++")) if cpu else ("CC", ("gcc", "clang"))
    # torch looks for the first of these on Linux, for the second on macOS.
    wanted = os.environ.get(variable) or usual[cpu and sys.platform == "darwin"]
    candidates = (wanted,) if cpu else (wanted, *usual)
    if not any(shutil.which(name.split()[0]) for name in candidates):
        language = "C++" if cpu else "C"
        raise ParameterError(
            f"backend 'torch_compile' needs a {language} compiler, and '{wanted}' is not there: "
            f"sudo apt install g++, or set {variable}"
        )
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        raise ParameterError(
            f"backend 'torch_compile' needs the headers of Python, and {headers} is not there: "
            "sudo apt install python3-dev"
        )


def keep_compiled() -> str | None:
    """Points torch's cache of compiled code to a folder that survives a reboot.

    That is ``$TORCHINDUCTOR_CACHE_DIR`` where it is set, else ``anomaly_seg_ros/inductor`` in
    ``$XDG_CACHE_HOME`` or ``~/.cache``. Its content is run as code, so no other user may write to
    it, which torch's default in the temporary folder cannot guarantee.

    Returns:
        A sentence for the user if the folder cannot be made, else None.
    """
    given = os.environ.get(_CACHE)
    if given and not _is_torchs_own(Path(given)):
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = home / "anomaly_seg_ros" / "inductor"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writeable")
    except OSError as error:
        return f"backend 'torch_compile': it compiles anew at every start ({error})"
    os.environ[_CACHE] = str(folder)
    return None


def _is_torchs_own(folder: Path) -> bool:
    """Tells torch's default, which it writes into the variable itself, from a user's choice."""
    temporary = Path(tempfile.gettempdir())
    return folder.parent == temporary and folder.name.startswith("torchinductor_")
