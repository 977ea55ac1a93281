"""Sums over the epoch, and values that users log.

Sums are float64 over values rounded to a grid, hence exact: neither the number of processes nor where a run was cut
shows in them.
"""

# Dimensions: B images of a slice, K expressions.

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from torch import Tensor

from fer_ignite.distributed.collectives import gather_json
from fer_ignite.training.events import RunEvents

__all__ = ["RunningMetrics", "attach_running_metrics"]

Reduce = Literal["mean", "sum", "last"]
On = Literal["step", "epoch"]


class RunningMetrics:
    """Running sums of the current epoch, and values logged by handlers.

    Attributes:
        epoch: name -> value of the epoch so far, over all processes, as of the last :meth:`reduce_across_ranks`.
        epoch_names: names that were logged with ``on="epoch"``, in their order.
        on_flush: functions (values: {name: float}, iteration) that get logged step values, reduced.
    """

    def __init__(self, *, group: Any, device: torch.device) -> None:
        self.group = group
        # Sums are float64, which MPS does not have.
        self.place = torch.device("cpu") if device.type == "mps" else device
        self.on_flush: list[Callable[[Mapping[str, float], int], None]] = []
        self.bar: dict[str, float] = {}
        self.epoch_names: list[str] = []
        self._logged: list[tuple[str, int, Reduce, On, bool, Any]] = []
        self.clear()

    def clear(self) -> None:
        """A new epoch begins; what was logged before the first one belongs to it."""
        self._folded: dict[str, list[Any]] = {}
        self._local: dict[str, Tensor] = {}

    def update(self, engine: Engine) -> None:
        """ITERATION_COMPLETED: the micro-batch's losses and hits join the epoch's sums, on the device."""
        output = engine.state.output
        for name, values_B in output["losses"].items():
            self._add(name, _on_grid(values_B.to(self.place, torch.float64)).sum())
        hits_B = output["y_pred"].argmax(dim=1) == output["y"]
        self._add("accuracy", hits_B.to(self.place, torch.float64).sum())
        # Added up on the CPU, where the number is known: on the device it would cost a copy per
        # iteration.
        self._add("#count", torch.tensor(float(output["count"]), dtype=torch.float64))

    def _add(self, name: str, value: Tensor) -> None:
        self._local[name] = self._local[name] + value if name in self._local else value

    def log(
        self,
        name: str,
        value: float | Tensor,
        *,
        iteration: int,
        bar: bool = False,
        reduce: Reduce = "mean",
        on: On = "step",
    ) -> None:
        """Notes a value; it is reduced over processes and handed on at the next flush or at the epoch's end."""
        if isinstance(value, Tensor):
            # A copy: the tensor may be changed in place before the flush, as state.skipped_steps is.
            value = value.detach().clone()
        self._logged.append((name, iteration, reduce, on, bar, value))

    def flush(self, engine: Engine | None = None) -> None:
        """Reduces what was logged since the last flush, over processes, and hands step values to ``on_flush``."""
        # float() waits for the device: here once per flush instead of at each log().
        mine = [[*entry[:5], float(entry[5])] for entry in self._logged]
        self._logged = []
        merged: dict[tuple[str, int], list[Any]] = {}
        for entries in gather_json(mine, self.group):
            for name, iteration, reduce, on, bar, value in entries:
                merged.setdefault((name, iteration), [reduce, on, bar, []])[3].append(value)
        for (name, iteration), (reduce, on, bar, values) in sorted(
            merged.items(), key=lambda item: item[0][1]
        ):
            value = _reduced(reduce, values)
            self._remember(name, reduce, value=value)
            if bar:
                self.bar[name] = value
            if on == "epoch" and name not in self.epoch_names:
                self.epoch_names.append(name)
            if on == "step":
                for listener in self.on_flush:
                    listener({name: value}, iteration)

    def _remember(self, name: str, reduce: Reduce, *, value: float) -> None:
        entry = self._folded.setdefault(f"log/{name}", [reduce, 0.0, 0, 0.0])
        entry[1], entry[2], entry[3] = entry[1] + value, entry[2] + 1, value

    def reduce_across_ranks(self, engine: Engine | None = None) -> None:
        """Brings all processes' sums together; the same on every process afterwards. A collective."""
        self.flush()
        if self._local:
            # In one order on all ranks, as the values travel without their names.
            names = sorted(self._local)
            sums = torch.stack([self._local[name].to(self.place) for name in names]).cpu()
            if self.group is not None:
                dist.all_reduce(sums, group=self.group)
            for name, value in zip(names, sums.tolist(), strict=True):
                entry = self._folded.setdefault(name, ["train", 0.0, 0, 0.0])
                entry[1] += value
            # What is folded is the same on every rank, so another number of processes can continue
            # with it.
            self._local = {}

    def epoch(self) -> dict[str, float]:
        """Means, sums or last values of the epoch by name; training's own are called ``train_...``."""
        count = self._folded.get("#count", ["", 0.0])[1]
        values: dict[str, float] = {}
        # their order depends on when they met
        for name, (reduce, total, times, last) in sorted(self._folded.items()):
            if name == "#count":
                continue
            if reduce == "train":
                values[f"train_{name}"] = total / count if count else float("nan")
            else:
                plain = name.removeprefix("log/")
                values[plain] = {"mean": total / max(times, 1), "sum": total, "last": last}[reduce]
        return values

    def state_dict(self) -> dict[str, Any]:
        """The folded sums; :meth:`reduce_across_ranks` comes first."""
        return {name: list(entry) for name, entry in self._folded.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.clear()
        self._folded = {name: list(entry) for name, entry in state.items()}


def _on_grid(values_B: Tensor) -> Tensor:
    """Multiples of 2^-30: in float64 their sums are exact up to 2^23, whatever the order."""
    return torch.round(values_B * 2**30) / 2**30


def _reduced(reduce: Reduce, values: list[float]) -> float:
    if reduce == "last":
        return values[-1]
    return sum(values) / (len(values) if reduce == "mean" else 1)


def attach_running_metrics(
    trainer: Engine, running_metrics: RunningMetrics, *, log_every: int
) -> dict[str, RemovableEventHandle]:
    """Sums per iteration, step values every ``log_every`` iterations, everything folded before a resume point; a handle of each."""
    return {
        "update_metrics": trainer.add_event_handler(
            Events.ITERATION_COMPLETED, running_metrics.update
        ),
        # In fixed iterations, whether anything was logged or not: flush is a collective, and
        # logging may differ by rank.
        "flush_metrics": trainer.add_event_handler(
            Events.ITERATION_COMPLETED(every=log_every), running_metrics.flush
        ),
        "reduce_metrics": trainer.add_event_handler(
            RunEvents.RESUME_POINT, running_metrics.reduce_across_ranks
        ),
    }
