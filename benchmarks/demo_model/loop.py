"""Run one stage: optimise, report, judge, save, and stop in time."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .checkpoint import save_progress, save_stage
from .loader import BatchSource, dev_batches, train_batches
from .model import Demo
from .stage import PARTS, Batch, Stage, Tools
from .stages import STAGES

WARM_UP = 0.02
FINAL_RATE = 0.02
WEIGHT_DECAY = 0.02
BETAS = (0.9, 0.98)
MAX_NORM = 1.0
MEASURE_EVERY = 0.1
"""Share of a stage between two looks at the development scenes."""


@dataclass(frozen=True)
class Options:
    """How to train, as opposed to what; see train.py for the meaning of each."""

    folder: Path
    device: str
    batch: int
    scale: float
    workers: int
    dev_scenes: int
    report_seconds: float = 30.0
    save_seconds: float = 120.0


def run_stage(
    demo: Demo,
    tools: Tools,
    order: int,
    options: Options,
    deadline: float,
    progress: dict[str, Any] | None,
) -> bool:
    """Train stage number `order` to its end or to the deadline; return whether it is finished.

    `progress` is a checkpoint of this stage to go on from, or None.
    """
    stage = STAGES[order]
    optimizer = make_optimizer(demo, stage, options.device)
    batch = options.batch * stage.batch_factor
    total = total_batches(stage, options) * batch
    done = 0
    if progress is not None:
        optimizer.load_state_dict(progress["optimizer"])
        done = progress["done"]
    source = BatchSource(stage, order, tools, batch, total)
    cuda = options.device == "cuda"
    batches = train_batches(source, done // batch, total // batch, options.workers, pin=cuda)
    judges = dev_batches(stage, tools, batch, max(options.dev_scenes, batch))
    later = sum(other.cost * other.scenes * options.scale for other in STAGES[order + 1 :])
    clock = _Clock(stage, options, done, total, later / stage.cost)
    for made in batches:
        clock.made()
        set_rates(optimizer, done / total)
        loss = _step(demo, tools, stage, optimizer, to_device(made, options.device))
        done += batch
        clock.stepped(done, loss)
        if clock.is_measure_due(done):
            clock.record(done, measure(demo, tools, stage, judges, options.device))
        late = time.time() > deadline
        if late or clock.is_save_due():
            save_progress(options.folder, demo, optimizer, stage.name, done)
        if late and done < total:
            return False
    save_progress(options.folder, demo, optimizer, stage.name, done)
    save_stage(options.folder, demo, stage.name)
    return True


def total_batches(stage: Stage, options: Options) -> int:
    """Return the batches of a whole stage."""
    return max(1, round(stage.scenes * options.scale / (options.batch * stage.batch_factor)))


def make_optimizer(demo: Demo, stage: Stage, device: str) -> torch.optim.AdamW:
    """Return AdamW over the parts that the stage trains; freeze the others."""
    groups: dict[tuple[str, bool], list[torch.Tensor]] = {}
    for name, parameter in demo.named_parameters():
        part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
        parameter.requires_grad_(part in stage.rates)
        if part in stage.rates:
            groups.setdefault((part, parameter.dim() > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "peak": stage.rates[part],
            "weight_decay": WEIGHT_DECAY if is_matrix else 0.0,
        }
        for (part, is_matrix), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=0.0, betas=BETAS, fused=device == "cuda")


def set_rates(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Warm up linearly, then fall along a cosine to FINAL_RATE of the peak."""
    cosine = (1 + math.cos(math.pi * progress)) / 2
    factor = min(1.0, (progress + 1e-4) / WARM_UP) * (FINAL_RATE + (1 - FINAL_RATE) * cosine)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def to_device(batch: Batch, device: str) -> Batch:
    """Copy the tensors of a batch."""
    return tuple(
        type(part)(*(tensor.to(device, non_blocking=True) for tensor in part)) for part in batch
    )


@torch.no_grad()
def measure(
    demo: Demo, tools: Tools, stage: Stage, batches: list[Batch], device: str
) -> dict[str, float]:
    """Return the means of the stage's metrics over batches."""
    values: dict[str, list[float]] = {}
    for batch in batches:
        with torch.autocast(device, torch.bfloat16):
            found = stage.measure(demo, tools, to_device(batch, device))
        for name, entries in found.items():
            values.setdefault(name, []).extend(entries)
    return {name: sum(entries) / len(entries) for name, entries in values.items() if entries}


def _step(
    demo: Demo, tools: Tools, stage: Stage, optimizer: torch.optim.Optimizer, batch: Batch
) -> torch.Tensor:
    """Take one step; return the loss, on the device."""
    device = batch[0][0].device.type
    with torch.autocast(device, torch.bfloat16):
        loss = stage.loss(demo, tools, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
    optimizer.step()
    return loss.detach()


class _Clock:
    """Progress of a stage in scenes and seconds; prints, and appends metrics to log.jsonl."""

    def __init__(self, stage: Stage, options: Options, done: int, total: int, later: float) -> None:
        """`later` is the work of the stages after this one, in scenes of this one."""
        self.stage, self.options, self.total, self.later = stage, options, total, later
        self.first = self.last = done
        self.began = self.reported = self.saved = self.idle_since = time.time()
        self.waited = 0.0
        self.losses: list[torch.Tensor] = []

    def made(self) -> None:
        """A batch has arrived."""
        self.waited += time.time() - self.idle_since

    def stepped(self, done: int, loss: torch.Tensor) -> None:
        """A step is taken; report when it is time to."""
        self.losses.append(loss)
        now = time.time()
        if now - self.reported >= self.options.report_seconds or done == self.total:
            rate = (done - self.first) / (now - self.began)
            mean = torch.stack(self.losses).mean().item()
            print(
                f"{self.stage.name} {done}/{self.total} scenes, loss {mean:.3f}, {rate:.1f}/s, "
                f"{(self.total - done) / rate / 60:.1f} min left, "
                f"{(self.total - done + self.later) / rate / 60:.0f} with the stages to come, "
                f"{self.waited / (now - self.began):.0%} waiting for data",
                flush=True,
            )
            self.losses, self.reported = [], now
        self.idle_since = time.time()

    def is_measure_due(self, done: int) -> bool:
        """Whether a tenth of the stage has passed since the last time, or the stage is over."""
        due = done // (self.total * MEASURE_EVERY) > self.last // (self.total * MEASURE_EVERY)
        self.last = done
        return due or done >= self.total

    def is_save_due(self) -> bool:
        now = time.time()
        if now - self.saved < self.options.save_seconds:
            return False
        self.saved = now
        return True

    def record(self, done: int, metrics: dict[str, float]) -> None:
        """Print metrics and append them to the log."""
        print("  dev:", "  ".join(f"{k} {v:.3f}" for k, v in metrics.items()), flush=True)
        rounded = {name: round(value, 4) for name, value in metrics.items()}
        entry = {"stage": self.stage.name, "done": done, "total": self.total, **rounded}
        with open(self.options.folder / "log.jsonl", "a") as log:
            log.write(json.dumps(entry | {"time": round(time.time())}) + "\n")
        self.idle_since = time.time()
