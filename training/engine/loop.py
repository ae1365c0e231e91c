# SPDX-License-Identifier: Apache-2.0
"""The training loop: step, average, log, validate, checkpoint, resume, stop.

The loop is independent of data sets and losses. An entry such as ``training/closed_set.py`` or
``training/fine_tune.py`` provides the model, the optimizer, the batches and the loss.

Reproducibility: the random numbers of a step (dropout, a flow's noise) depend only on ``(seed,
step, rank)``, and batches are a function of the step. On the CPU a resumed run therefore equals an
uninterrupted one bit for bit. A GPU adds up some gradients, such as those of bilinear upsampling,
in varying order, so any two runs differ in rounding.

Gradient accumulation: the loss of a step is the plain mean of its micro-batches' losses. A loss
that averages over pixels does so *within* each micro-batch, and all micro-batches count equally
regardless of their labelled or outlier pixels. This is not the mean over all pixels of the step.
Across DDP ranks, the losses of ``training/losses`` do divide by the count of all ranks.
"""

from __future__ import annotations

import contextlib
import math
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from anomaly_seg_ros.checkpoints.fit import load_strictly
from anomaly_seg_ros.errors import CheckpointError, ParameterError, TrainingError, first_line
from training.engine.config import changed_keys, chosen
from training.engine.distributed import Distributed
from training.engine.run_log import RunLog, RunningMeans
from training.engine.schedule import SCHEDULES
from training.engine.steps import (
    NO_VARIANCE,
    Batch,
    LossWithTerms,
    SecondPlayer,
    autocast,
    grouped,
    seed_step,
    to_device,
    warming_ema,
)
from training.engine.storage import load_checkpoint, make_folder, save_atomically

# Below this loss scale the scaler cannot prevent fp16 gradients from overflowing.
_SMALLEST_SCALE = 2.0**-10


@dataclass(frozen=True)
class LoopOptions:
    """Length of a run, its intervals, and when to stop.

    Attributes:
        steps: Total number of optimizer steps.
        warmup: Steps of linear learning-rate warm-up.
        schedule: How the learning rate falls to ``final_lr``, a key of
            :data:`~training.engine.schedule.SCHEDULES`.
        poly_power: Exponent of the schedule ``poly``, ``(1 - step / steps) ** poly_power``.
        final_lr: Learning rate after the last step; groups with a lower one keep theirs.
        ema_decay: Decay of the averaged weights, which are validated and saved.
        validate_every, checkpoint_every, log_every: Intervals in steps.
        precision: ``fp32``, ``bf16`` or ``fp16`` autocast.
        accumulate: Micro-batches per step; see the module docstring.
        clip_norm: Maximum norm of the gradient.
        seed: Seed of the random numbers drawn during steps.
        validate_first: Validate before the first step, as the reference for ``max_drop``.
        best_figure: Validation figure that selects ``best.pt``; "" keeps the last model that
            passed the guard, or none without a guard.
        lower_is_better: Whether lower values of ``best_figure`` are better.
        guard_figure: Validation figure (higher = better) that must not fall; "" for no guard.
        max_drop: Stop once ``guard_figure`` is more than this below its start; such a model is
            never the best.
        tensorboard: Also log to TensorBoard.
        max_seconds: Stop after the step in which so many seconds are over, as if the run were
            finished: validate and write a checkpoint, from which it can be resumed. 0 = no limit.
    """

    steps: int
    warmup: int = 100
    schedule: str = "poly"
    poly_power: float = 0.9
    final_lr: float = 0.0
    ema_decay: float = 0.998
    validate_every: int = 1000
    checkpoint_every: int = 200
    log_every: int = 20
    precision: str = "bf16"
    accumulate: int = 1
    clip_norm: float = 10.0
    seed: int = 0
    validate_first: bool = False
    best_figure: str = ""
    lower_is_better: bool = False
    guard_figure: str = ""
    max_drop: float = 0.0
    tensorboard: bool = False
    max_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_seconds < math.inf:  # written so that NaN is refused
            raise ParameterError(f"max_seconds {self.max_seconds:g}: expected 0 or more")
        for name in ("steps", "validate_every", "checkpoint_every", "log_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.guard_figure and not self.validate_first:
            raise ParameterError("guard_figure needs validate_first: it compares with the start")
        chosen(SCHEDULES, "schedule", self.schedule)

    @classmethod
    def configured(cls, config: Mapping[str, Any], **fixed: Any) -> LoopOptions:
        """Takes every option that the configuration has, and those that an entry fixes."""
        names = {field.name for field in fields(cls)}
        return cls(**{**{key: config[key] for key in names & config.keys()}, **fixed})


class Trainer:
    """Runs a training from its last checkpoint to its last step.

    Modules keep the mode (train or eval) that they have when passed in, so frozen BatchNorm stays
    frozen.

    Args:
        model: Model to train; called as ``loss_fn(model, batch)``.
        optimizer: Optimizer of the model's parameters; each group's ``lr`` is its peak rate.
        loss_fn: Maps (network, batch on the device) to a scalar loss or to a
            :class:`~training.engine.steps.LossWithTerms`.
        options: See :class:`LoopOptions`.
        run_dir: Folder for ``last.pt``, ``best.pt``, ``log.jsonl`` and ``tensorboard/``.
        device: Device of the model.
        distributed: This process's rank among the others.
        validate: Maps the averaged model to a dict of figures.
        config: Stored in the checkpoint; resuming with a different one is refused.
        describe_batch: Names the samples of a step, for error messages.
        second_player: See :class:`~training.engine.steps.SecondPlayer`.

    Raises:
        ParameterError: No parameter is trained, the precision is unknown, or the final learning
            rate is above the first.
        OutputError: The run folder cannot be created.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Callable[[nn.Module, Batch], Tensor | LossWithTerms],
        options: LoopOptions,
        run_dir: Path,
        device: torch.device,
        distributed: Distributed,
        validate: Callable[[nn.Module], dict[str, float]],
        config: dict,
        describe_batch: Callable[[int], str] | None = None,
        second_player: SecondPlayer | None = None,
    ) -> None:
        if not any(p.requires_grad for p in model.parameters()):
            raise ParameterError("nothing to train: every parameter is frozen")
        autocast(device, options.precision)  # refuses an unknown precision
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.options = options
        self.run_dir = run_dir
        self.device = device
        self.distributed = distributed
        self.validate = validate
        self.config = config
        self.describe_batch = describe_batch
        self.second_player = second_player
        self.step = 0
        self.start_figures: dict[str, float] = {}
        self.best: dict[str, Any] = {}
        self.stopped = ""
        self._peak_lr = [group["lr"] for group in optimizer.param_groups]
        if not 0 <= options.final_lr <= max(self._peak_lr):
            raise ParameterError(
                f"final_lr {options.final_lr:g}: expected a number from 0 to the learning rate "
                f"at the start, {max(self._peak_lr):g}"
            )
        self._average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=warming_ema(options.ema_decay), use_buffers=False
        )
        self._scaler = torch.amp.GradScaler(
            device.type, enabled=options.precision == "fp16" and device.type == "cuda"
        )
        make_folder(run_dir)
        self.log = RunLog(run_dir, distributed.is_main, options.tensorboard)

    @property
    def checkpoint_path(self) -> Path:
        """Checkpoint from which an interrupted run resumes."""
        return self.run_dir / "last.pt"

    @property
    def best_path(self) -> Path:
        """Averaged weights with the best validation figure so far.

        Without a ``best_figure``, a guarded run keeps the last ones that passed the guard.
        """
        return self.run_dir / "best.pt"

    def resume(self) -> bool:
        """Restores ``last.pt`` if there is one.

        Raises:
            CheckpointError: It is damaged, not from a training, or of another network.
            ParameterError: It belongs to a run with another configuration.
        """
        if not self.checkpoint_path.exists():
            # A run killed before its first checkpoint left log lines that are written again.
            self.log.rewind(-1)
            return False
        # Loaded to the CPU: each part moves its own tensors, and AdamW's step counts have to stay
        # there. On a GPU every step would synchronise once per parameter to read them.
        state = load_checkpoint(self.checkpoint_path)
        if "config" not in state:
            raise CheckpointError(f"{self.checkpoint_path}: not the checkpoint of a training")
        if _without_limit(state["config"]) != _without_limit(self.config):
            raise ParameterError(
                f"{self.checkpoint_path} was written with other values of "
                f"{changed_keys(_without_limit(state['config']), _without_limit(self.config))}; "
                "use another run folder or restore them"
            )
        load_strictly(self.model, state["model"], str(self.checkpoint_path))
        self._average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        # A run on the CPU has no scaler state; continued on a GPU, the scaler starts afresh.
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.start_figures = state["start_figures"]
        self.best = state["best"]
        self.stopped = state["stopped"]
        if self.second_player is not None:
            self.second_player.load_state_dict(state["second_player"])
        self.log.rewind(self.step)
        return True

    def run(self, batches: Iterable[Batch]) -> nn.Module:
        """Trains to ``options.steps``, or until the guard or the time limit stops it.

        Args:
            batches: Micro-batches, beginning at ``self.step``.

        Returns:
            The averaged model after the last step, in eval mode; see also :meth:`best_model`.

        Raises:
            TrainingError: The loss or its gradient is not finite. The parameters are those of the
                previous step, and the last checkpoint is untouched.
            OutputError: The disk is full; the last checkpoint is untouched.
        """
        network = self._wrapped()
        began = time.monotonic()
        with tqdm(
            total=self.options.steps,
            initial=self.step,
            unit="step",
            disable=not self.distributed.is_main,
            dynamic_ncols=True,
        ) as bar:
            # A run resumed at step 0 already has these figures.
            if self.step == 0 and self.options.validate_first and not self.start_figures:
                self.start_figures = self._validate(bar)
                self._checkpoint()
            recent = RunningMeans()
            for micro_batches in grouped(batches, self.options.accumulate):
                if self.stopped:
                    break
                lr_factor = self._set_learning_rate()
                recent.add(self._train_step(network, micro_batches))
                self.step += 1
                bar.update()
                late = self._is_late(began)
                self._report(recent, lr_factor, bar, late)
                if late:
                    bar.write(f"max_seconds are over at step {self.step}; the run can be resumed")
                    break
        self.log.close()
        return self.averaged()

    def averaged(self) -> nn.Module:
        """Returns the averaged model, with the current BatchNorm statistics, in eval mode."""
        # With use_buffers=False the copy's buffers are never updated, so take the live ones.
        average = self._average.module
        for mine, live in zip(average.buffers(), self.model.buffers(), strict=True):
            mine.copy_(live)
        return average.eval()

    def best_model(self) -> nn.Module:
        """Returns the model of ``best.pt``, or of the last step if none was kept, in eval mode.

        Without a ``best_figure``, that is the last step's model unless the guard stopped the run.
        """
        model = self.averaged()
        if self.best:
            model.load_state_dict(load_checkpoint(self.best_path)["model"])
        return model

    def _wrapped(self) -> nn.Module:
        if self.distributed.world_size == 1:
            return self.model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=ids)

    def _train_step(self, network: nn.Module, micro_batches: list[Batch]) -> dict[str, Tensor]:
        """Runs one optimizer step; returns loss and terms, detached means over the batch."""
        seed_step(self.options.seed, self.step, self.distributed.rank)
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        batch: Batch = ()
        for index, micro_batch in enumerate(micro_batches):
            batch = to_device(micro_batch, self.device)
            last = index == len(micro_batches) - 1
            for name, value in self._backward(network, batch, last).items():
                share = value / len(micro_batches)
                means[name] = means[name] + share if name in means else share
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self._check_finite(means, norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._average.update_parameters(self.model)
        if self.second_player is not None:
            means |= self.second_player.after_step(self.model, batch)
        return means

    def _backward(self, network: nn.Module, batch: Batch, last: bool) -> dict[str, Tensor]:
        """Accumulates a micro-batch's gradient; ranks synchronise on the last micro-batch only."""
        if self.second_player is not None:
            batch = self.second_player.prepare(batch)
        waits = isinstance(network, DistributedDataParallel) and not last
        with network.no_sync() if waits else contextlib.nullcontext():
            with autocast(self.device, self.options.precision):
                loss = self._loss(network, batch)
            total, terms = (loss, {}) if isinstance(loss, Tensor) else (loss.total, loss.terms)
            self._scaler.scale(total / self.options.accumulate).backward()
        return {"loss": total.detach().float(), **terms}

    def _loss(self, network: nn.Module, batch: Batch) -> Tensor | LossWithTerms:
        try:
            return self.loss_fn(network, batch)
        except ValueError as error:
            # Entries check this in advance, for networks that run on meta tensors.
            if not str(error).startswith(NO_VARIANCE):
                raise
            raise TrainingError(
                f"step {self.step}: a batch of {len(batch[0])} is too small to be normalised "
                f"({first_line(error)}); use a larger batch_size or a smaller accumulate"
            ) from error

    def _check_finite(self, means: dict[str, Tensor], norm: Tensor) -> None:
        """Raises TrainingError if the loss or the gradient is not finite, before the update."""
        # In the normal case only one number is copied from the device.
        if math.isfinite(float(means["loss"] + norm)):
            return
        loss = float(means["loss"])
        # fp16: the scaler skips such a step and lowers its scale.
        scaler_helps = self._scaler.is_enabled() and self._scaler.get_scale() > _SMALLEST_SCALE
        if scaler_helps and math.isfinite(loss):
            return
        fault = f"the norm of its gradient is {float(norm)}"
        if not math.isfinite(loss):
            parts = ", ".join(f"{k} {float(v):g}" for k, v in means.items() if k != "loss")
            fault = f"the loss is {loss}" + (f" ({parts})" if parts else "")
        batch = self.describe_batch(self.step) if self.describe_batch else "not described"
        kept = self.checkpoint_path if self.checkpoint_path.exists() else "none yet"
        raise TrainingError(
            f"step {self.step}: {fault}. The parameters were not changed. "
            f"Last good checkpoint: {kept}. Batch of rank {self.distributed.rank}: {batch}"
        )

    def _set_learning_rate(self) -> float:
        options = self.options
        factor = SCHEDULES[options.schedule](self.step / options.steps, options.poly_power)
        factor *= min(1.0, (self.step + 1) / max(1, options.warmup))
        for group, peak in zip(self.optimizer.param_groups, self._peak_lr, strict=True):
            final = min(peak, options.final_lr)
            group["lr"] = final + (peak - final) * factor
        return factor

    def _is_late(self, began: float) -> bool:
        """Whether the time limit is over, by the clock of the main rank."""
        limit = self.options.max_seconds
        return bool(limit) and self.distributed.agreed(time.monotonic() - began >= limit)

    def _report(self, recent: RunningMeans, lr_factor: float, bar: tqdm, late: bool) -> None:
        """Logs, validates and writes a checkpoint when due."""
        finished = late or self.step == self.options.steps
        if self.step % self.options.log_every == 0:
            figures = self.distributed.means(recent.take())
            bar.set_postfix(loss=f"{figures['loss']:.3f}")
            memory = {"memory_gb": _memory_gb(self.device)}
            self.log.scalars(self.step, {**figures, "lr_factor": lr_factor, **memory})
        if self.step % self.options.validate_every == 0 or finished:
            self._validate(bar)
            recent.restart_clock()
        if self.step % self.options.checkpoint_every == 0 or finished or self.stopped:
            self._checkpoint()

    def _validate(self, bar: tqdm) -> dict[str, float]:
        """Validates on the main rank; sets ``stopped`` on all ranks if the guard fails."""
        figures: dict[str, float] = {}
        fallen = False
        if self.distributed.is_main:
            figures = self.validate(self.averaged())
            self.log.scalars(self.step, figures)
            bar.write(f"step {self.step}: " + _format(figures))
            fallen = self._has_fallen(figures)
            if not fallen:
                self._keep_if_best(figures)
        # The other ranks wait here until the main rank has validated.
        if self.distributed.agreed(fallen):
            guard = self.options.guard_figure
            self.stopped = (
                f"stopped at step {self.step}: {guard} fell more than {self.options.max_drop:g} "
                "below its start"
            )
            if self.distributed.is_main:
                start, now = self.start_figures[guard], figures[guard]
                bar.write(f"{self.stopped} ({start:.4f} to {now:.4f})")
        return figures

    def _has_fallen(self, figures: dict[str, float]) -> bool:
        guard = self.options.guard_figure
        if not guard or guard not in self.start_figures:
            return False
        lowest = self.start_figures[guard] - self.options.max_drop
        # Written so that NaN counts as a drop.
        return not _figure(figures, guard) >= lowest

    def _keep_if_best(self, figures: dict[str, float]) -> None:
        # Without a best_figure, each model that passes the guard replaces the previous one, so
        # that there is one to return to when the guard stops the run.
        name = self.options.best_figure or self.options.guard_figure
        if not name:
            return
        value = _figure(figures, name)
        if self.options.best_figure:
            sign = -1 if self.options.lower_is_better else 1
            if math.isnan(value) or (self.best and sign * value <= sign * self.best["value"]):
                return
        self.best = {"figure": name, "value": value, "step": self.step, "figures": figures}
        save_atomically({"model": self.averaged().state_dict(), **self.best}, self.best_path)

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
            "start_figures": self.start_figures,
            "best": self.best,
            "stopped": self.stopped,
        }
        if self.second_player is not None:
            state["second_player"] = self.second_player.state_dict()
        save_atomically(state, self.checkpoint_path)


def _without_limit(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the time limit, which may differ when a run is resumed."""
    return {key: value for key, value in config.items() if key != "max_seconds"}


def _memory_gb(device: torch.device) -> float:
    """Peak memory in GB, of the GPU or, on the CPU, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _figure(figures: dict[str, float], name: str) -> float:
    if name not in figures:
        raise ParameterError(f"validation gives no {name!r}; it gives {', '.join(figures)}")
    return figures[name]


def _format(figures: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
