"""The training loop: step, average, log, validate, checkpoint, resume, stop.

It knows nothing of data sets or losses; an entry (``training/closed_set.py``,
``training/fine_tune.py``) brings the model, the optimizer, the batches and the loss.

Repeatable: the random numbers of a step (dropout, a flow's noise) depend on ``(seed, step, rank)``
alone, and batches are a function of the step, so on the CPU a resumed run equals an uninterrupted
one bit for bit. A GPU adds some gradients, such as those of the bilinear upsampling, in another
order each time: there two runs differ in rounding, resumed or not.

Gradient accumulation: the step's loss is the plain mean of its micro-batches' losses. A loss that
averages over pixels so averages *within* each micro-batch, and each micro-batch counts alike
however many labelled or outlier pixels it holds; that is not the mean over all pixels of the step.
Over DDP ranks the losses of ``training/losses`` do divide by the count of all ranks.
"""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from anomaly_seg_ros.checkpoints.fit import load_strictly
from anomaly_seg_ros.errors import CheckpointError, ParameterError, TrainingError, first_line
from training.data.batch_check import NO_VARIANCE
from training.engine.config import changed_keys
from training.engine.distributed import Distributed
from training.engine.loop_options import LoopOptions
from training.engine.run_log import RunLog, RunningMeans
from training.engine.steps import Batch, autocast, grouped, seed_step, to_device, warming_ema
from training.engine.storage import load_checkpoint, make_folder, save_atomically

# Below this scale fp16 has no room left: the gradients overflow whatever the scaler does.
_SMALLEST_SCALE = 2.0**-10


class LossWithTerms(Protocol):
    """A loss with its parts; :class:`training.losses.LossTerms` is one.

    Attributes:
        total: Scalar with a graph.
        terms: Detached scalars by name, for the log.
    """

    total: Tensor
    terms: dict[str, Tensor]


class SecondPlayer(Protocol):
    """Something that changes the batches and learns beside the model, such as a flow.

    Its state is part of the checkpoint. Draw random numbers from torch's global generator, which
    the loop seeds for each step: then a resumed run draws the same.
    """

    def prepare(self, batch: Batch) -> Batch:
        """Changes a micro-batch (on the device) before the model sees it."""
        ...

    def after_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Takes its own step after the model's; ``batch`` is the last micro-batch, unchanged.

        Args:
            model: Without the DDP wrapper.
            batch: As it came from the loader, on the device.

        Returns:
            Detached scalars for the log.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; everything that a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        ...


class Trainer:
    """Runs a training from its last checkpoint to its last step.

    Modules stay in the mode (train or eval) in which they are handed over, so frozen BatchNorm
    stays frozen.

    Args:
        model: Called as ``loss_fn(model, batch)``; its parameters belong to ``optimizer``.
        optimizer: Each group's ``lr`` is its peak rate.
        loss_fn: Maps (network, batch on the device) to a scalar loss, or to one with terms.
        options: See :class:`LoopOptions`.
        run_dir: Receives ``last.pt``, ``best.pt``, ``log.jsonl`` and ``tensorboard/``.
        device: Where the model lives.
        distributed: This process among the others.
        validate: Maps the averaged model to a dict of figures.
        config: Stored in the checkpoint; a resume with another one is refused.
        describe_batch: Names the samples of a step, for errors.
        second_player: See :class:`SecondPlayer`.

    Raises:
        ParameterError: No parameter is trained, or an unknown precision.
        OutputError: The run folder cannot be made.
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
        """The file from which an interrupted run continues."""
        return self.run_dir / "last.pt"

    @property
    def best_path(self) -> Path:
        """The averaged weights with the best validation figure so far.

        Without a figure to choose by, a guarded run keeps the last ones that passed its guard.
        """
        return self.run_dir / "best.pt"

    def resume(self) -> bool:
        """Restores ``last.pt`` if there is one.

        Raises:
            CheckpointError: It is damaged, no training's, or of another network.
            ParameterError: It belongs to a run with another configuration.
        """
        if not self.checkpoint_path.exists():
            # A kill before the first checkpoint leaves lines that this run writes again.
            self.log.rewind(-1)
            return False
        # To the CPU: each part moves its tensors itself, and AdamW's counts of steps have to stay
        # there. On a GPU every step would wait for them, once a parameter.
        state = load_checkpoint(self.checkpoint_path)
        if "config" not in state:
            raise CheckpointError(f"{self.checkpoint_path}: not the checkpoint of a training")
        if state["config"] != self.config:
            raise ParameterError(
                f"{self.checkpoint_path} was written with other values of "
                f"{changed_keys(state['config'], self.config)}; "
                "use another run folder or restore them"
            )
        load_strictly(self.model, state["model"], str(self.checkpoint_path))
        self._average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        # The scaler of a run on the CPU is off and has no state; on a GPU it then starts anew.
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
        """Trains to ``options.steps``, or until the guard stops it.

        Args:
            batches: Micro-batches; they must begin at ``self.step``.

        Returns:
            The averaged model of the last step in eval mode; see also :meth:`best_model`.

        Raises:
            TrainingError: The loss or its gradient is not finite. The parameters are those of the
                step before, and the last checkpoint is untouched.
            OutputError: The disk is full; the last checkpoint is untouched.
        """
        network = self._wrapped()
        with tqdm(
            total=self.options.steps,
            initial=self.step,
            unit="step",
            disable=not self.distributed.is_main,
            dynamic_ncols=True,
        ) as bar:
            # A run that is resumed at step 0 has its figures already.
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
                self._report(recent, lr_factor, bar)
        self.log.close()
        return self.averaged()

    def averaged(self) -> nn.Module:
        """The model with averaged weights (and current BatchNorm statistics) in eval mode."""
        # use_buffers=False leaves the buffers of the copy at their start: take the live ones.
        average = self._average.module
        for mine, live in zip(average.buffers(), self.model.buffers(), strict=True):
            mine.copy_(live)
        return average.eval()

    def best_model(self) -> nn.Module:
        """The model of ``best.pt``, or of the last step where none was kept, in eval mode.

        Where the guard alone decides, the last step's model is that of ``best.pt``, unless the
        guard stopped the run.
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
        """One optimizer step; returns the detached loss and its terms, means over the batch."""
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
        """Adds a micro-batch's gradient; ranks exchange theirs with the last one only."""
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
            # Entries check this before the work, where the network runs without memory.
            if not str(error).startswith(NO_VARIANCE):
                raise
            raise TrainingError(
                f"step {self.step}: a batch of {len(batch[0])} is too small to be normalised "
                f"({first_line(error)}); use a larger batch_size or a smaller accumulate"
            ) from error

    def _check_finite(self, means: dict[str, Tensor], norm: Tensor) -> None:
        """Raises TrainingError before a loss or gradient that is not finite does harm."""
        # One number from the device in the good case.
        if math.isfinite(float(means["loss"] + norm)):
            return
        loss = float(means["loss"])
        # fp16: the scaler leaves such a step out and lowers its scale.
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
        factor = (1 - self.step / self.options.steps) ** self.options.poly_power
        factor *= min(1.0, (self.step + 1) / max(1, self.options.warmup))
        for group, peak in zip(self.optimizer.param_groups, self._peak_lr, strict=True):
            group["lr"] = peak * factor
        return factor

    def _report(self, recent: RunningMeans, lr_factor: float, bar: tqdm) -> None:
        """Logs, validates and checkpoints where it is time to."""
        finished = self.step == self.options.steps
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
        """Validates on the main rank; sets ``stopped`` on all ranks if the guard says so."""
        figures: dict[str, float] = {}
        fallen = False
        if self.distributed.is_main:
            figures = self.validate(self.averaged())
            self.log.scalars(self.step, figures)
            bar.write(f"step {self.step}: " + _format(figures))
            fallen = self._has_fallen(figures)
            if not fallen:
                self._keep_if_best(figures)
        # The other ranks wait here until the main one has validated.
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
        # Written so that NaN counts as fallen.
        return not _figure(figures, guard) >= lowest

    def _keep_if_best(self, figures: dict[str, float]) -> None:
        # Without a figure to choose by, each model that passed the guard takes the place of the
        # one before: when the guard stops the run, that is the one to return to.
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


def _memory_gb(device: torch.device) -> float:
    """Peak memory of the GPU, or of this process on the CPU, in GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _figure(figures: dict[str, float], name: str) -> float:
    if name not in figures:
        raise ParameterError(f"validation gives no {name!r}; it gives {', '.join(figures)}")
    return figures[name]


def _format(figures: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
