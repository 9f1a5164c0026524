"""What became of the transitions of a source: nothing is lost silently."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

UNRECORDED = "the result of an episode's last action is not in the file"
BROKEN = "an episode ended where the next row is not the recorded successor and no flag marks an end"


@dataclass
class Account:
    """Transitions and rewards of a source, counted while it is read, and the episodes made of them.

    ``left_out`` has transitions and reward of what was left out, by reason; ``notes`` counts other events, such as an
    end that no flag marks; ``without_reward`` counts the transitions that have no reward in the source.
    """

    transitions: int = 0
    reward: float = 0.0
    kept: int = 0
    kept_reward: float = 0.0
    episodes: int = 0
    left_out: dict[str, tuple[int, float]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    without_reward: int = 0

    def keep(self, rewards: ArrayLike) -> None:
        """Count a kept episode."""
        count, total = self._count(rewards)
        self.kept, self.kept_reward = self.kept + count, self.kept_reward + total
        self.episodes += 1

    def leave_out(self, reason: str, rewards: ArrayLike) -> None:
        """Count transitions that are left out."""
        count, total = self._count(rewards)
        before = self.left_out.get(reason, (0, 0.0))
        self.left_out[reason] = (before[0] + count, before[1] + total)

    def give_away(self, reason: str, rewards: ArrayLike) -> None:
        """Count an episode as left out that was counted as kept."""
        rewards = np.asarray(rewards, np.float64)
        total, before = float(np.nansum(rewards)), self.left_out.get(reason, (0, 0.0))
        self.kept, self.kept_reward = self.kept - len(rewards), self.kept_reward - total
        self.episodes -= 1
        self.left_out[reason] = (before[0] + len(rewards), before[1] + total)

    def _count(self, rewards: ArrayLike) -> tuple[int, float]:
        rewards = np.asarray(rewards, np.float64)
        count, total = len(rewards), float(np.nansum(rewards))
        self.without_reward += int(np.isnan(rewards).sum())
        self.transitions, self.reward = self.transitions + count, self.reward + total
        return count, total

    def note(self, text: str, count: int = 1) -> None:
        """Count something that happened ``count`` times."""
        if count:
            self.notes[text] = self.notes.get(text, 0) + count

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Account":
        """The inverse of ``vars``; a ``ValueError`` where the numbers do not add up."""
        left_out = {reason: (count, reward) for reason, (count, reward) in values["left_out"].items()}
        found = cls(**{**values, "left_out": left_out})
        if found.transitions != found.kept + sum(count for count, _ in left_out.values()):
            raise ValueError
        return found

    def lines(self) -> list[str]:
        """What to print: a line of totals, then one for each reason and note."""
        none = 0 < self.transitions == self.without_reward
        rewards = f"reward {self.kept_reward:,.6g} of {self.reward:,.6g}"
        found = [
            f"{self.kept:,} of {self.transitions:,} transitions kept, in {self.episodes:,} episodes; "
            + ("no reward is recorded" if none else rewards)
        ]
        for reason, (count, reward) in self.left_out.items():
            lost = "" if none else f", reward {reward:,.6g}"
            found.append(f"left out: {count:,} transitions{lost}: {reason}")
        return found + [f"note: {count:,} x {text}" for text, count in self.notes.items()]
