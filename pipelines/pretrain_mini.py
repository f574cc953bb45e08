"""Train the bundled network `mini` on Tiny ImageNet and write its weights file.

One command makes ``featpipe/backbones/mini.safetensors`` from the zip alone::

    python pipelines/pretrain_mini.py tinyimagenet.zip --run runs/mini

The loss is plain cross-entropy: label smoothing, mixup and dropout raise the network's
own accuracy but spoil its codes for other images (Kornblith et al. 2021). The run
folder receives ``log.txt``, ``curve.png``, ``mini.safetensors`` and, every epoch,
``checkpoint.pt``, from which ``--resume`` goes on as if it had not been interrupted.
"""

import argparse
import copy
import dataclasses
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from tinyimagenet import augment, normalise, read_split
from torch import Tensor, nn

from featpipe.backbones.mini import Mini

# What of the recipe the command line can change.
OPTIONS = ("epochs", "fall_epochs", "extra_epochs", "extra_falls", "seed")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the images.

    Warm-up and a flat stretch on small images, then `fall_epochs` of half a cosine, the
    last half of them on whole ones; then `extra_falls` lower ones of `extra_epochs`.
    Each stretch can be made longer or shorter until the next begins. Crops are milder
    at the end of each fall, and at the end of all they are nearly whole images, as in
    use: crops show things larger, and a network is best at the size it saw last
    (Touvron et al. 2019, "Fixing the train-test resolution discrepancy").
    """

    epochs: int = 27
    fall_epochs: int = 14
    extra_epochs: int = 9
    extra_falls: int = 3
    seed: int = 0
    batch_size: int = 128
    part_size: int = 64
    peak_rate: float = 0.15
    extra_rate: float = 0.08
    warm_up_epochs: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    average_decay: float = 0.999
    sides_px: tuple[int, int, int] = (40, 48, 64)
    min_area: float = 0.4
    mild_epochs: int = 2
    mild_min_area: float = 0.65
    whole_epochs: int = 3
    whole_min_area: float = 0.9
    jitter: float = 0.2

    @property
    def last(self) -> int:
        """How many epochs there are in all."""
        return self.epochs + self.extra_falls * self.extra_epochs

    @property
    def flat_until(self) -> int:
        """The epoch from which the learning rate falls."""
        return max(0, self.epochs - self.fall_epochs)

    def rate(self, epoch: float) -> float:
        """Learning rate at a fractional epoch."""
        if self.epochs <= epoch < self.last:
            fallen = (epoch - self.epochs) % self.extra_epochs / self.extra_epochs
            return self.extra_rate * (1 + math.cos(math.pi * fallen)) / 2
        fallen = max(0.0, epoch - self.flat_until) / (self.epochs - self.flat_until)
        rise = min(1.0, epoch / self.warm_up_epochs)
        return self.peak_rate * rise * (1 + math.cos(math.pi * fallen)) / 2

    def side_px(self, epoch: int) -> int:
        """Side of the training images: small ones first, which buys epochs."""
        if epoch < self.flat_until:
            return self.sides_px[0]
        return self.sides_px[1 if epoch < self.epochs - self.fall_epochs // 2 else 2]

    def area(self, epoch: int) -> float:
        """Smallest crop, as a part of the image; larger at an end, nearer to use."""
        if self.last - epoch <= self.whole_epochs:
            return self.whole_min_area
        left = self.epochs - epoch
        if epoch >= self.epochs:
            left = self.extra_epochs - (epoch - self.epochs) % self.extra_epochs
        return self.mild_min_area if left <= self.mild_epochs else self.min_area


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is done in hardware there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


class Training:
    """One run: network, its moving average, optimiser and the log, epoch by epoch."""

    def __init__(
        self, recipe: Recipe, device: torch.device, folder: Path, n_threads: int = 1
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.folder = recipe, device, folder
        self.network = Mini().to(device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval()
        # Decay pulls on the filters only; on batch norm's scales it is known to hurt.
        filters = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.SGD(
            filters,
            lr=recipe.peak_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        )
        self.optimiser.add_param_group({"params": others, "weight_decay": 0.0})
        self.bf16 = has_bf16(device)
        # A thread for each part of a batch, rather than all threads in each operator:
        # then nothing waits for a core that another program has taken.
        n_parts = math.ceil(recipe.batch_size / recipe.part_size)
        share = max(1, n_threads // n_parts)
        self.workers = ThreadPoolExecutor(
            min(n_threads, n_parts),
            initializer=torch.set_num_threads,
            initargs=(share,),
        )
        self.history: list[dict[str, float]] = []

    def batches(
        self, images: Tensor, labels: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented batches of the next epoch, the same ones after a resume."""
        epoch = len(self.history)
        draw = torch.Generator().manual_seed(self.recipe.seed * 10_000 + epoch)
        order = torch.randperm(len(images), generator=draw)
        side_px, area = self.recipe.side_px(epoch), self.recipe.area(epoch)
        size = self.recipe.batch_size
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size].to(images.device)
            batch = augment(images[rows], side_px, area, self.recipe.jitter, draw)
            yield batch, labels[rows]

    def train_epoch(self, images: Tensor, labels: Tensor) -> float:
        """Go once over the training images; returns the mean loss."""
        self.network.train()
        n_steps = len(images) // self.recipe.batch_size
        size = self.recipe.part_size
        total = 0.0
        for step, (batch, wanted) in enumerate(self.batches(images, labels)):
            rate = self.recipe.rate(len(self.history) + step / n_steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self.optimiser.zero_grad()
            parts = zip(batch.split(size), wanted.split(size), strict=True)
            losses = self.workers.map(lambda part: self.descend(*part), parts)
            total += sum(losses) / len(batch)
            self.optimiser.step()
            self.update_average(len(self.history) * n_steps + step)
        return total / n_steps

    def descend(self, images: Tensor, wanted: Tensor) -> float:
        """Add the gradients of a part of a batch; returns its summed loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            scores = self.network(images)
        loss = F.cross_entropy(scores.float(), wanted, reduction="sum")
        (loss / self.recipe.batch_size).backward()
        return loss.item()

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the averaged weights towards the network's; quickly at first."""
        decay = min(self.recipe.average_decay, (1 + step) / (10 + step))
        theirs = self.network.state_dict()
        for name, tensor in self.average.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name], 1 - decay)
            else:
                tensor.copy_(theirs[name])

    def save(self) -> None:
        """Write the checkpoint; a kill leaves the old or the new one, never half."""
        path = self.folder / "checkpoint.pt"
        parts = {
            "recipe": dataclasses.asdict(self.recipe),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
        }
        torch.save(parts, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def resume(self) -> None:
        """Go back to the checkpoint, which must come from the same recipe.

        Only the numbers of epochs may differ, where nothing done depends on them.
        """
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            self.take_up_weights()
            return
        parts = torch.load(path, map_location=self.device, weights_only=True)
        was = Recipe(**parts["recipe"])
        now, n_done = self.recipe, len(parts["history"])
        free = ["extra_falls"] if n_done <= was.last else []
        free += ["extra_epochs"] if n_done <= was.epochs else []
        if n_done <= min(was.flat_until, now.flat_until):
            free += ["epochs", "fall_epochs"]
        was = dataclasses.replace(was, **{name: getattr(now, name) for name in free})
        if was != now:
            raise ValueError(
                f"{str(path)!r} was written after {n_done} epochs of {was}; give the "
                "same numbers of epochs and falls, and --seed, or another --run folder"
            )
        self.network.load_state_dict(parts["network"])
        self.average.load_state_dict(parts["average"])
        self.optimiser.load_state_dict(parts["optimiser"])
        self.history = parts["history"]

    def take_up_weights(self) -> None:
        """Go on from the log and the weights of a run whose checkpoint is gone.

        The momentum is lost and the weights are the rounded average, so this is for the
        start of a fall, where the rate jumps up anyway.
        """
        try:
            log = (self.folder / "log.txt").read_text(encoding="utf-8")
            weights = safetensors.torch.load_file(self.folder / "mini.safetensors")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no checkpoint.pt in {str(self.folder)!r}, and no log.txt with "
                "mini.safetensors either; start without --resume"
            ) from error
        for network in (self.network, self.average):
            network.load_state_dict(weights)
        epoch = r"epoch +\d+ +\d+ px +loss ([\d.]+) +val top-1 ([\d.]+) % +(\d+) s"
        self.history = [
            {"loss": float(loss), "top1": float(top1) / 100, "seconds": float(seconds)}
            for loss, top1, seconds in re.findall(epoch, log)
        ]
        self.say(f"going on from the weights after {len(self.history)} epochs")

    def say(self, line: str) -> None:
        """Print a line and append it to the log."""
        print(line, flush=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            print(line, file=log)


@torch.inference_mode()
def accuracy(
    network: nn.Module, images: Tensor, labels: Tensor, *, bf16: bool = False
) -> float:
    """Top-1 accuracy of a network in eval mode, one plain view an image."""
    right = 0
    for batch, wanted in zip(images.split(250), labels.split(250), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            scores = network(normalise(batch.float() / 255))
        right += int((scores.argmax(1) == wanted).sum())
    return right / len(images)


def export(network: nn.Module, path: Path, about: dict[str, Any]) -> str:
    """Write the weights as float16 safetensors; returns the file's SHA-256."""
    tensors = {
        name: (t.half() if t.is_floating_point() else t).cpu().contiguous()
        for name, t in network.state_dict().items()
    }
    # One key only: safetensors writes several in no fixed order, and the bytes count.
    safetensors.torch.save_file(tensors, path, {"about": json.dumps(about)})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def draw_curve(history: list[dict[str, float]], path: Path) -> None:
    """Loss and validation accuracy over the epochs, as a PNG."""
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(epochs, [100 * h["top1"] for h in history], color="tab:blue")
    axes.set(xlabel="epoch", title="mini on Tiny ImageNet", ylim=(0, 65))
    axes.set_ylabel("validation top-1, averaged weights (%)", color="tab:blue")
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(epochs, [h["loss"] for h in history], color="tab:orange")
    right.set_ylabel("training loss (cross-entropy)", color="tab:orange")
    figure.savefig(path, dpi=120)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zip", type=Path, help="tinyimagenet.zip")
    parser.add_argument("--run", type=Path, default=Path("runs/mini"), help="folder")
    for name in OPTIONS:
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=getattr(Recipe, name))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--resume", action="store_true", help="from the checkpoint")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, log, draw, export."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe(**{name: getattr(options, name) for name in OPTIONS})
    options.run.mkdir(parents=True, exist_ok=True)
    training = Training(recipe, device, options.run, options.threads)
    if options.resume:
        training.resume()
    else:
        (options.run / "log.txt").unlink(missing_ok=True)
    images, labels, wnids = read_split(options.zip, "train")
    val_images, val_labels, val_wnids = read_split(options.zip, "val")
    assert wnids == val_wnids, "the zip's train and val folders name other classes"
    images, labels = images.to(device), labels.to(device)
    val_images, val_labels = val_images.to(device), val_labels.to(device)
    training.say(
        f"{recipe}, torch {torch.__version__} on {device}, {len(images)} images"
    )
    while (epoch := len(training.history)) < recipe.last:
        start = time.perf_counter()
        loss = training.train_epoch(images, labels)
        seconds = time.perf_counter() - start
        bf16 = training.bf16
        top1 = accuracy(training.average, val_images, val_labels, bf16=bf16)
        training.history.append({"loss": loss, "top1": top1, "seconds": seconds})
        training.save()
        training.say(
            f"epoch {epoch + 1:3d}  {recipe.side_px(epoch)} px  loss {loss:.3f}  "
            f"val top-1 {100 * top1:.2f} %  {seconds:.0f} s"
        )
    draw_curve(training.history, options.run / "curve.png")
    about = {"recipe": dataclasses.asdict(recipe), "wnids": wnids}
    digest = export(training.average, options.run / "mini.safetensors", about)
    stored = safetensors.torch.load_file(options.run / "mini.safetensors")
    training.average.load_state_dict(stored)
    rounded = accuracy(training.average, val_images, val_labels)
    hours = sum(h["seconds"] for h in training.history) / 3600
    training.say(
        f"after {hours:.2f} hours, in float16: val top-1 {100 * rounded:.2f} %"
    )
    training.say(f"SHA-256 {digest}")


if __name__ == "__main__":
    main()
