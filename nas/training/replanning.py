"""Going on with another number of steps than a run was begun with: what is left of each schedule is stretched over what is left to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """A share of something as a function of steps: linear up to `done`, and from there on linear to 1 at `total`.

    Attributes:
        total: Steps in all.
        done: Steps at which the plan was changed; 0: never.
        share: What was completed then.
    """

    total: int
    done: int = 0
    share: float = 0.0

    def __call__(self, step: int) -> float:
        """The completed share after so many steps, in [0, 1]."""
        left = max(1, self.total - self.done)
        return min(1.0, self.share + (1.0 - self.share) * ((step - self.done) / left))

    def changed(self, total: int, step: int) -> Plan:
        """The plan for another total, changed after `step` steps; the same where the total is.

        Continuous: what was completed stays completed.
        """
        return self if total == self.total else Plan(total, step, self(step))

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"total": self.total, "done": self.done, "share": self.share}
