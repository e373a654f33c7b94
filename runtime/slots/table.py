"""The slots of one graph: arrays with the weights of the tasks in use, and who uses which slot."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.cancel import Cancellation
from runtime.errors import AdapterDropError
from runtime.slots.hot_entry import TaskWeights
from runtime.slots.layout import SlotLayout

__all__ = ["SlotTable"]

Array = npt.NDArray[Any]


@dataclass(eq=False)
class _Slot:
    """One slot.

    Attributes:
        number: number among all slots of the graph.
        group: number of its group.
        place: position in the arrays of the group.
        weights: whose weights it holds; None for an empty slot.
        pins: calls in flight that use it.
        used: time of the last use, as a count of uses.
        ready: set when the weights are in the arrays, or when reading them failed.
        error: why reading them failed.
        forgotten: whether to empty it after the last of these calls.
    """

    number: int
    group: int
    place: int
    weights: TaskWeights | None = None
    pins: int = 0
    used: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    forgotten: bool = False


class SlotTable:
    """Holds the weights of tasks in slots, and evicts those of the task that was used least recently. Thread-safe.

    A slot that a call uses is neither evicted nor written: calls in flight finish on the weights with which they began. If all
    slots are in use, a call that needs another one waits. The next call of any kind then waits behind it, so that it gets a
    slot in the end.
    """

    def __init__(self, layout: SlotLayout) -> None:
        """Allocate the arrays; the system provides their memory when a slot is written for the first time."""
        self.layout = layout
        self.arrays = {each.name: np.zeros((layout.slots, *each.shape), each.dtype) for each in layout.weights}
        self._names = [[each.name for each in layout.weights if each.group == n] for n in range(len(layout.groups))]
        self._slots = [
            [_Slot(group * layout.slots + place, group, place) for place in range(layout.slots)]
            for group in range(len(layout.groups))
        ]
        self._where: dict[TaskWeights, _Slot] = {}
        self._uses = 0
        self._writes = [0] * len(layout.groups)
        self._queue: deque[object] = deque()  # calls that want slots, in their order
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, wanted: Sequence[TaskWeights], cancel: Cancellation | None = None) -> Iterator[Mapping[TaskWeights, int]]:
        """Keep weights in slots during the context.

        Args:
            wanted: weights, at most `layout.slots` of each group.
            cancel: handle that can end the wait for slots from another thread.

        Yields:
            Weights -> number of their slot.

        Raises:
            AdapterDropError: the file of a task has changed or is gone.
            CancelledError: the call was cancelled while it waited.
        """
        with nullcontext() if cancel is None else cancel.wakes(self._changed):
            held, missing = self._reserve(dict.fromkeys(wanted), cancel)
        try:
            for weights, slot in missing.items():
                self._fill(slot, weights)
            for slot in held.values():
                if not slot.ready.is_set():
                    slot.ready.wait()
            for slot in held.values():
                if slot.error is not None:
                    raise slot.error
            yield {weights: slot.number for weights, slot in held.items()}
        finally:
            self._release(held.values(), missing.values())

    def preload(self, weights: TaskWeights, rows: Mapping[str, Array]) -> None:
        """Write weights into an empty slot, if there is one: the first call then does not read the file."""
        with self._changed:
            if weights in self._where:
                return
            slot = next((each for each in self._slots[weights.group] if each.weights is None and not each.pins), None)
            if slot is None:
                return
            self._assign(slot, weights)
            slot.pins = 1
        try:
            self._write(slot, rows)
        finally:
            slot.ready.set()
            self._release([slot], [])

    def forget(self, weights: TaskWeights) -> None:
        """Empty the slot of a task that was removed, after the calls that use it.

        These calls, and those that have looked up the task and not come here yet, may need the weights again; its file may be
        gone by then. The weights are therefore kept in memory as long as such a call has them.
        """
        with self._changed:
            slot = self._where.get(weights)
            if slot is not None:
                slot.pins += 1
        if slot is not None:
            slot.ready.wait()
        held = [] if slot is None else [slot]
        try:
            if slot is not None and slot.error is None:
                weights.kept = {name: self.arrays[name][slot.place].copy() for name in self._names[weights.group]}
            else:
                weights.kept = weights.read()
        except AdapterDropError:  # the file is gone already: calls that read it will say so
            pass
        finally:
            with self._changed:
                if (now := self._where.get(weights)) is not None:
                    now.forgotten = True
                    if now is not slot:  # a call has come meanwhile, and may have begun to read the file
                        now.pins += 1
                        held.append(now)
            if now is not None:
                now.ready.wait()
            self._release(held, [])

    @property
    def resident(self) -> int:
        """Number of slots with weights."""
        return sum(slot.weights is not None for group in self._slots for slot in group)

    def writes(self) -> tuple[int, ...]:
        """Return how often each group was written, to find copies that are out of date."""
        return tuple(self._writes)

    def names(self, group: int) -> Sequence[str]:
        """Return the inputs of a group."""
        return self._names[group]

    def _reserve(
        self, wanted: Mapping[TaskWeights, None], cancel: Cancellation | None
    ) -> tuple[dict[TaskWeights, _Slot], dict[TaskWeights, _Slot]]:
        """Pin a slot for each of the weights, all at once; wait until enough are free, and no earlier call waits."""
        with self._changed:
            found = self._wait(wanted, cancel)
            for weights, slot in found.items():
                self._assign(slot, weights)
            held = {weights: self._where[weights] for weights in wanted}
            self._uses += 1
            for slot in held.values():
                slot.pins += 1
                slot.used = self._uses
            return held, found

    def _wait(self, wanted: Mapping[TaskWeights, None], cancel: Cancellation | None) -> dict[TaskWeights, _Slot]:
        own = object()
        self._queue.append(own)
        try:
            while self._queue[0] is not own or (found := self._choose(wanted)) is None:
                if cancel is not None:
                    cancel.check()
                self._changed.wait()
            return found
        finally:
            self._queue.remove(own)
            self._changed.notify_all()  # for the call behind it

    def _choose(self, wanted: Mapping[TaskWeights, None]) -> dict[TaskWeights, _Slot] | None:
        """Return a slot for each of the weights that have none, the least recently used first; None if too few are free."""
        missing = [weights for weights in wanted if weights not in self._where]
        if not missing:
            return {}
        chosen: dict[TaskWeights, _Slot] = {}
        kept = {self._where[weights] for weights in wanted if weights in self._where}
        for group in {weights.group for weights in missing}:
            own = [weights for weights in missing if weights.group == group]
            free = [slot for slot in self._slots[group] if not slot.pins and slot not in kept]
            if len(free) < len(own):
                return None
            free.sort(key=lambda slot: (slot.weights is not None, slot.used))
            chosen.update(zip(own, free, strict=False))
        return chosen

    def _assign(self, slot: _Slot, weights: TaskWeights) -> None:
        self._unmap(slot)
        slot.weights, slot.error, slot.ready = weights, None, threading.Event()
        slot.forgotten = weights.kept is not None  # a version that has been replaced leaves with its last call
        self._where[weights] = slot

    def _fill(self, slot: _Slot, weights: TaskWeights) -> None:
        try:
            self._write(slot, weights.read())
        except Exception as error:  # raised by every call that waits for this slot
            self._fail(slot, error)
        slot.ready.set()

    def _fail(self, slot: _Slot, error: Exception) -> None:
        with self._changed:
            self._unmap(slot)
            slot.error, slot.forgotten = error, True

    def _unmap(self, slot: _Slot) -> None:
        if slot.weights is not None and self._where.get(slot.weights) is slot:
            del self._where[slot.weights]

    def _write(self, slot: _Slot, rows: Mapping[str, Array]) -> None:
        for name, row in rows.items():
            self.arrays[name][slot.place] = row
        with self._changed:
            self._writes[slot.group] += 1

    def _release(self, held: Iterable[_Slot], missing: Iterable[_Slot]) -> None:
        for slot in missing:
            if not slot.ready.is_set():  # the thread was interrupted
                self._fail(slot, AdapterDropError("the call that read the weights of this task was interrupted: call again"))
                slot.ready.set()
        with self._changed:
            for slot in held:
                slot.pins -= 1
                if slot.forgotten and not slot.pins:
                    self._unmap(slot)
                    _empty(slot)
            self._changed.notify_all()


def _empty(slot: _Slot) -> None:
    slot.weights, slot.used, slot.forgotten = None, 0, False
