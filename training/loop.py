"""The training loop: step, average, log, validate, checkpoint, resume.

It knows nothing of data sets or losses; an entry (``training/closed_set.py``) brings the model,
the optimizer, the batches and the loss.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LoopOptions:
    """How long and how often.

    Attributes:
        steps: Optimizer steps in all.
        warmup: Steps of linear learning-rate warm-up.
        poly_power: The rate falls as ``(1 - step / steps) ** poly_power``.
        ema_decay: Of the averaged weights that are validated and shipped.
        validate_every, checkpoint_every, log_every: In steps.
        precision: ``fp32``, ``bf16`` or ``fp16`` autocast.
    """

    steps: int
    warmup: int = 100
    poly_power: float = 0.9
    ema_decay: float = 0.998
    validate_every: int = 1000
    checkpoint_every: int = 200
    log_every: int = 20
    precision: str = "bf16"


class Distributed:
    """Rank and world from torchrun's environment; one process without it."""

    def __init__(self, device: torch.device) -> None:
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.world_size > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes."""
        return self.rank == 0

    def close(self) -> None:
        """Leaves the process group."""
        if self.world_size > 1:
            dist.destroy_process_group()


def save_atomically(state: dict, path: Path) -> None:
    """Writes a checkpoint so that a kill leaves either the old file or the new one."""
    partial = path.with_suffix(path.suffix + ".partial")
    torch.save(state, partial)
    partial.replace(path)


class Trainer:
    """Runs a training from its last checkpoint to its last step.

    Args:
        model: Called as ``loss_fn(model, batch)``; its parameters belong to ``optimizer``.
        optimizer: Each group's ``lr`` is its peak rate.
        loss_fn: Maps (network, (images, targets) on the device) to a scalar loss.
        options: See :class:`LoopOptions`.
        run_dir: Receives ``last.pt``, ``log.jsonl``.
        device: Where the model lives.
        validate: Maps the averaged model to a dict of figures.
        config: Stored in the checkpoint; a resume with another one is refused.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Callable[[nn.Module, Batch], Tensor],
        options: LoopOptions,
        run_dir: Path,
        device: torch.device,
        distributed: Distributed,
        validate: Callable[[nn.Module], dict[str, float]],
        config: dict,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.options = options
        self.run_dir = run_dir
        self.device = device
        self.distributed = distributed
        self.validate = validate
        self.config = config
        self.step = 0
        self._peak_lr = [group["lr"] for group in optimizer.param_groups]
        self._average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=_warming_ema(options.ema_decay), use_buffers=False
        )
        self._scaler = torch.amp.GradScaler(
            device.type, enabled=options.precision == "fp16" and device.type == "cuda"
        )
        run_dir.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint_path(self) -> Path:
        """The file from which an interrupted run continues."""
        return self.run_dir / "last.pt"

    def resume(self) -> bool:
        """Restores ``last.pt`` if there is one.

        Raises:
            ValueError: The checkpoint belongs to a run with another configuration.
        """
        if not self.checkpoint_path.exists():
            return False
        state = torch.load(self.checkpoint_path, map_location=self.device, weights_only=True)
        if state["config"] != self.config:
            changed = sorted(
                key
                for key in state["config"].keys() | self.config.keys()
                if state["config"].get(key) != self.config.get(key)
            )
            raise ValueError(
                f"{self.checkpoint_path} was written with other values of {changed}; "
                "use another run folder or restore them"
            )
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        return True

    def run(self, batches: Iterable[Batch]) -> nn.Module:
        """Trains to ``options.steps``; ``batches`` must begin at ``self.step``.

        Returns:
            The averaged model in eval mode.
        """
        options = self.options
        network: nn.Module = self.model
        if self.distributed.world_size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            network = DistributedDataParallel(self.model, device_ids=ids)
        bar = tqdm(
            total=options.steps,
            initial=self.step,
            unit="step",
            disable=not self.distributed.is_main,
            dynamic_ncols=True,
        )
        recent: list[float] = []
        started = time.monotonic()
        self.model.train()
        for images, targets in batches:
            lr_factor = self._set_learning_rate()
            loss = self._train_step(network, (images, targets))
            recent.append(loss)
            self.step += 1
            bar.update()
            if self.step % options.log_every == 0:
                mean = sum(recent) / len(recent)
                rate = len(recent) / (time.monotonic() - started)
                self._log({"loss": mean, "lr_factor": lr_factor, "steps_per_s": rate})
                bar.set_postfix(loss=f"{mean:.3f}")
                recent.clear()
                started = time.monotonic()
            finished = self.step == options.steps
            if self.step % options.validate_every == 0 or finished:
                figures = self._validate()
                bar.write(f"step {self.step}: " + _format(figures))
            if self.step % options.checkpoint_every == 0 or finished:
                self._checkpoint()
        bar.close()
        return self.averaged()

    def averaged(self) -> nn.Module:
        """The model with averaged weights (and current BatchNorm statistics) in eval mode."""
        # use_buffers=False leaves the buffers of the copy at their start: take the live ones.
        average = self._average.module
        for mine, live in zip(average.buffers(), self.model.buffers(), strict=True):
            mine.copy_(live)
        return average.eval()

    def _train_step(self, network: nn.Module, batch: Batch) -> float:
        images, targets = (x.to(self.device, non_blocking=True) for x in batch)
        with _autocast(self.device, self.options.precision):
            loss = self.loss_fn(network, (images, targets))
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._average.update_parameters(self.model)
        value = float(loss.detach())
        if not torch.isfinite(loss.detach()):
            raise FloatingPointError(f"the loss became {value} at step {self.step}")
        return value

    def _set_learning_rate(self) -> float:
        factor = (1 - self.step / self.options.steps) ** self.options.poly_power
        factor *= min(1.0, (self.step + 1) / max(1, self.options.warmup))
        for group, peak in zip(self.optimizer.param_groups, self._peak_lr, strict=True):
            group["lr"] = peak * factor
        return factor

    def _validate(self) -> dict[str, float]:
        figures = {}
        if self.distributed.is_main:
            figures = self.validate(self.averaged())
            self._log(figures)
        if self.distributed.world_size > 1:
            dist.barrier()
        return figures

    def _checkpoint(self) -> None:
        if not self.distributed.is_main:
            return
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "config": self.config,
        }
        save_atomically(state, self.checkpoint_path)

    def _log(self, figures: dict[str, float]) -> None:
        if self.distributed.is_main:
            with (self.run_dir / "log.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.step, **figures}) + "\n")


def _warming_ema(decay: float) -> Callable:
    """An EMA whose decay grows with the number of updates, so early weights do not linger."""

    @torch.no_grad()
    def update(averaged: list[Tensor], live: list[Tensor], count: Tensor | int) -> None:
        current = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, live, 1 - current)

    return update


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision == "fp32":
        return contextlib.nullcontext()
    if precision not in dtypes:
        raise ValueError(f"precision {precision!r}, expected fp32, {', '.join(dtypes)}")
    return torch.autocast(device.type, dtypes[precision])


def _format(figures: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
