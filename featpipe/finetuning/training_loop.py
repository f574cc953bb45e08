"""Run a training: choose the rate, choose the epoch, train on all training rows.

Rate and epoch are chosen on the same part of the training rows. Held-out rows and their
labels are not used here, nor are files beside the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from featpipe.finetuning import learning_rate
from featpipe.finetuning.checkpoint import Checkpoint
from featpipe.finetuning.settings import Settings
from featpipe.finetuning.stopping import decided, out_of_time, unbeatable
from featpipe.finetuning.training import Diverged, Measure, Trainer
from featpipe.protocol import TuningRows
from featpipe.scores import METRICS

__all__ = ["TrainingLoop"]

_FIRST_TRIED = {"adamw": 1e-3, "sgd": 1e-2}
_TRIAL_STEPS = 8, 100
_TRIAL_JUDGES = 2000
_TRIAL, _SELECT, _REFIT = range(3)  # parts of the seeds
_LEAST_GAIN = 0.01  # of the loss, by which an epoch shows that it learned

Tell = Callable[[int, int, str], None]


class TrainingLoop:
    """One training from its first step to its last.

    Parameters
    ----------
    trainer : Trainer
    settings : Settings
    rows : TuningRows
    labels : (n_rows,) int64
        Class numbers of the rows that train; −1 elsewhere.
    start : callable
        Takes the rows that will be learned from; sets the initial weights.
    checkpoint : Checkpoint
        From which the training goes on.
    path : Path or None
        Of the checkpoint.
    tell : callable
        Called with the images done and all images of this stage, and its description.
    """

    def __init__(
        self,
        trainer: Trainer,
        settings: Settings,
        rows: TuningRows,
        labels: np.ndarray,
        start: Callable[[np.ndarray], None],
        *,
        checkpoint: Checkpoint,
        path: Path | None,
        tell: Tell,
    ) -> None:
        self.trainer = trainer
        self.settings = settings
        self.rows = rows
        self.labels = labels
        self.checkpoint = checkpoint
        self._start = start
        self._path = path
        self._tell = tell
        self._done = self._total = 0
        self._stage_name = ""
        trainer.tell = self._count

    def run(self) -> None:
        """Train; the network then has its final weights.

        Raises
        ------
        ValueError
            If training diverges before anything was learned.
        """
        self._since = time.perf_counter() - self.checkpoint.seconds
        # The predictions of the probe, against which each epoch is tested.
        if self.settings.budget is not None and not self.checkpoint.start_correct:
            self._start(self.rows.fit)
            correct = self.trainer.measure(self.rows.select).correct
            self.checkpoint.start_correct = list(correct)
        if not self.checkpoint.tried:
            self._choose_rate()
        if self.checkpoint.stage == "select":
            self._select()
        self._finish()
        self.checkpoint.warnings += [
            text
            for text in self.trainer.messages
            if text not in self.checkpoint.warnings
        ]
        self._write()

    def _choose_rate(self) -> None:
        fixed_rate = self.settings.lr
        if self.settings.budget is not None and unbeatable(
            self.checkpoint.start_correct
        ):
            # Nothing is trained any more, so any rate will do.
            fixed_rate = fixed_rate or _FIRST_TRIED[self.settings.optimiser]
        if fixed_rate is not None:
            self.checkpoint.tried = {fixed_rate: math.nan}
            return
        self._start(self.rows.fit)
        before = self.trainer.network.learned()
        rng = np.random.default_rng(self.settings.seed)
        fewest, most = _TRIAL_STEPS
        n_steps = int(
            np.clip(self.trainer.n_steps(len(self.rows.fit)) // 2, fewest, most)
        )
        n_epochs = -(-n_steps // self.trainer.n_steps(len(self.rows.fit)))
        n_rows = n_steps * self.trainer.batch_size // n_epochs
        # The same rows for every rate, so that trials differ in the rate alone.
        fit = rng.permutation(self.rows.fit)[:n_rows]
        select = rng.permutation(self.rows.select)[:_TRIAL_JUDGES]
        self._stage(learning_rate.MOST_TRIALS * n_epochs * len(fit))

        def trial(rate: float) -> float:
            self._stage_name = f"trying the learning rate {rate:g}"
            self.trainer.network.put_back(before)
            self.trainer.begin()
            try:
                for epoch in range(n_epochs):
                    self._epoch(fit, (_TRIAL, epoch), rate, n_epochs, level=True)
                return self.trainer.measure(select).loss
            # A rate that diverges has an infinite loss; a smaller one follows.
            except Diverged:
                return math.inf

        choice = learning_rate.choose(trial, _FIRST_TRIED[self.settings.optimiser])
        self.checkpoint.tried = choice
        self._write()

    def _select(self) -> None:
        """Train on the rows that fit; record the best epoch on those that choose."""
        n_epochs = self.settings.epochs
        self._stage(n_epochs * len(self.rows.fit))
        self._resume(self.rows.fit)
        if not self.checkpoint.history:
            before = self.trainer.measure(self.rows.select)
            start = {"epoch": 0, "loss": None, "seconds": None}
            self._note(start, before, may_be_best=self.settings.init == "probe")
        stop = self._stop(self.checkpoint.epoch, measure=None, seconds=0.0)
        for epoch in range(self.checkpoint.epoch, n_epochs):
            if stop:
                self.checkpoint.warnings.append(stop)
                break
            self._stage_name = f"epoch {epoch + 1} of {n_epochs}, {self._best_score()}"
            since = time.perf_counter()
            try:
                loss = self._epoch(
                    self.rows.fit, (_SELECT, epoch), self.checkpoint.rate, n_epochs
                )
                seconds = time.perf_counter() - since
                measure = self.trainer.measure(self.rows.select)
                if not math.isfinite(measure.loss):
                    raise Diverged
            except Diverged:
                self._warn_diverged(epoch + 1)
                break
            entry = {"epoch": epoch + 1, "loss": loss, "seconds": seconds}
            self._note(entry, measure)
            self._keep(epoch + 1)
            stop = self._stop(epoch + 1, measure, time.perf_counter() - since)
        self._notice()
        self.trainer.network.put_back(self.checkpoint.best)
        self.checkpoint.stage, self.checkpoint.epoch, self.checkpoint.now = (
            "refit",
            0,
            {},
        )
        self._write()

    def _stop(self, epoch: int, measure: Measure | None, seconds: float) -> str | None:
        """Return the reason why a training with a budget ends here, or None."""
        if self.settings.budget is None:
            return None
        probe = self.checkpoint.start_correct
        if measure is None and (reason := unbeatable(probe)):
            return reason
        if measure is not None and (reason := decided(probe, measure.correct, epoch)):
            return reason
        # The final training has more rows than the one that is measured here.
        share = len(self.rows.train) / len(self.rows.fit) * self.settings.refit
        spent = time.perf_counter() - self._since
        final = (epoch + 1) * seconds * share
        return out_of_time(self.settings.budget, spent, seconds, final, epoch)

    def _finish(self) -> None:
        """Train anew on all training rows, up to the best epoch."""
        best = self.checkpoint.best_epoch
        assert best is not None
        if not self.settings.refit:
            self.trainer.network.put_back(self.checkpoint.best)
            return
        self._stage(best * len(self.rows.train))
        self._resume(self.rows.train)
        for epoch in range(self.checkpoint.epoch, best):
            self._stage_name = f"all training images, epoch {epoch + 1} of {best}"
            try:
                # The schedule of the full length, ended at the best epoch, so that the
                # rates are those that led to it.
                n_epochs, rate = self.settings.epochs, self.checkpoint.rate
                self._epoch(self.rows.train, (_REFIT, epoch), rate, n_epochs)
            except Diverged:
                self.checkpoint.warnings.append(
                    f"training on all training images diverged in epoch {epoch + 1} at "
                    f"learning rate {rate:g}; the weights are those trained without "
                    f"the {len(self.rows.select)} images that chose the epoch"
                )
                self.trainer.network.put_back(self.checkpoint.best)
                return
            self._keep(epoch + 1)

    def _epoch(
        self,
        rows: np.ndarray,
        draw: tuple[int, ...],
        rate: float,
        n_epochs: int,
        *,
        level: bool = False,
    ) -> float:
        n_steps = self.trainer.n_steps(len(rows))
        done, total = draw[-1] * n_steps, n_epochs * n_steps

        def rate_at(step: int) -> float:
            at = (done + step) / total
            schedule = "constant" if level else self.settings.schedule
            warmup = self.settings.warmup
            return rate * learning_rate.factor(schedule, at, 1 / total, warmup=warmup)

        return self.trainer.epoch(rows, (self.settings.seed, *draw), rate_at)

    def _resume(self, rows: np.ndarray) -> None:
        """Restore network and optimiser from the checkpoint of this stage."""
        self._start(rows)
        self.trainer.begin()
        if self.checkpoint.now:
            self.trainer.network.put_back(self.checkpoint.now)
            self.trainer.put_back(self.checkpoint.trainer)
            self._done = self.checkpoint.epoch * len(rows)

    def _note(
        self, entry: dict[str, Any], measure: Measure, may_be_best: bool = True
    ) -> None:
        """Add to the history; keep the weights if they are the best so far."""
        entry |= {
            "held_out_loss": measure.loss,
            "held_out_loss_error": measure.error,
            "held_out_score": measure.score,
        }
        self.checkpoint.history.append(entry)
        first = self.checkpoint.best_epoch is None
        if may_be_best and (first or self._is_best(measure)):
            self.checkpoint.best_epoch = entry["epoch"]
            self.checkpoint.best = self.trainer.network.learned()

    def _is_best(self, measure: Measure) -> bool:
        """Return whether this epoch is as good as the best, within the noise.

        Scores of few images vary much. So the last epoch within one standard error of
        the highest score and of the lowest loss is taken (the rule of Breiman et al.
        1984 for trees): its learning rate is the lowest.
        """
        history = self.checkpoint.history
        highest = max(entry["held_out_score"] for entry in history)
        error = math.sqrt(highest * (1 - highest) / len(self.rows.select))
        lowest = min(history, key=lambda entry: entry["held_out_loss"])
        largest = lowest["held_out_loss"] + lowest["held_out_loss_error"]
        return bool(measure.score >= highest - error and measure.loss <= largest)

    def _best(self) -> dict[str, Any] | None:
        for entry in self.checkpoint.history:
            if entry["epoch"] == self.checkpoint.best_epoch:
                return entry
        return None

    def _best_score(self) -> str:
        best = self._best()
        return "" if best is None else f"held-out {100 * best['held_out_score']:.1f} %"

    def _keep(self, epoch: int) -> None:
        self.checkpoint.epoch = epoch
        self.checkpoint.now = self.trainer.network.learned()
        self.checkpoint.trainer = self.trainer.state()
        self._write()

    def _write(self) -> None:
        self.checkpoint.n_passes += self.trainer.n_passes
        # The checkpoint has counted them; a resumed training adds to it.
        self.trainer.n_passes = 0
        self.checkpoint.seconds = time.perf_counter() - self._since
        self.checkpoint.write(self._path)

    def _warn_diverged(self, epoch: int) -> None:
        rate, best = self.checkpoint.rate, self.checkpoint.best_epoch
        if best is None:
            raise ValueError(
                f"training diverged in its first epoch at learning rate {rate:g} (the "
                "loss is not a finite number), so there is nothing to keep; give a "
                "smaller rate, or none, so that one is chosen"
            )
        self.checkpoint.warnings.append(
            f"training diverged in epoch {epoch} at learning rate {rate:g} (the loss "
            f"is not a finite number); what was learned by epoch {best} is kept"
        )

    def _notice(self) -> None:
        """Warn if nothing was learned."""
        best, start = self._best(), self.checkpoint.history[0]
        assert best is not None
        fit, select = self.labels[self.rows.fit], self.labels[self.rows.select]
        # One image more of each class, so that none is impossible.
        counts = np.bincount(fit, minlength=self.labels.max() + 1) + 1
        loss = float(-np.log(counts / counts.sum())[select].mean())
        # What guessing would reach, from the class frequencies of the training rows.
        always = np.full_like(select, counts.argmax())
        score = float(METRICS[self.settings.metric](select, always))
        guesses = best["held_out_loss"] >= loss and best["held_out_score"] <= score
        as_before = best["held_out_loss"] > (1 - _LEAST_GAIN) * start["held_out_loss"]
        if guesses or (as_before and self.settings.init == "random"):
            self.checkpoint.warnings.append(
                f"the network did not learn: on the {len(select)} images that choose "
                f"the epoch its {self.settings.metric} went from "
                f"{100 * start['held_out_score']:.1f} to "
                f"{100 * best['held_out_score']:.1f} %, and always naming the most "
                f"frequent class gives {100 * score:.1f} %; try more epochs, another "
                "learning rate, or to start from the probe"
            )

    def _stage(self, total: int) -> None:
        self._done, self._total = 0, total

    def _count(self, n: int) -> None:
        self._done += n
        self._tell(min(self._done, self._total), self._total, self._stage_name)
