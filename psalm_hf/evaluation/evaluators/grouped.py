"""IoUs by group, for evaluators of expressions and regions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...metrics.base import Metric


@dataclass
class GroupedIoU(Metric):
    """IoUs over everything and by group, where every mask is compared once.

    Attributes:
        new: class of the IoUs: `ReferringIoU` or `RegionIoU`.
        parts: groups -> IoU of whatever has exactly these groups.
    """

    settings: ClassVar[tuple[str, ...]] = ("new",)

    new: type[Any]
    parts: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def part(self, groups: Sequence[str]) -> Any:
        """The IoU that counts whatever belongs to these groups."""
        return self.parts.setdefault(tuple(groups), self.new())

    def whole(self) -> Any:
        """IoU over everything."""
        return self._sum(self.parts)

    def by_group(self) -> dict[str, Any]:
        """Group -> IoU, sorted by name."""
        names = sorted({name for groups in self.parts for name in groups})
        return {name: self._sum(groups for groups in self.parts if name in groups) for name in names}

    def _sum(self, some: Iterable[tuple[str, ...]]) -> Any:
        total = self.new()
        for groups in some:
            total += self.parts[groups]
        return total
