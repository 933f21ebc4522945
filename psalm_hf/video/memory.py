"""Memory of a video session, and the policies by which it is used and renewed.

Shapes: R objects asked for in a frame, Q mask queries, D language width, (h, w) the resolution of the prediction, (H, W) that of the video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ObjectId = int | str

TOP_QUERIES = 10  # the released assignment looks for a free query among these
OVERLAP_LIMIT = 0.4  # the released memory is not renewed if two picked masks have a larger IoU


@dataclass
class ObjectMemory:
    """One object. Its size does not depend on how long the video is.

    Attributes:
        first: (D,) feature of the region that the user gave.
        recent: features (D,) of the last frames that were remembered, oldest first; at most as many as the policy keeps.
        renewed: number of the tracked frame that `recent` was last renewed in, -1 = never.
        mask: (h, w) bool where the object was in the frame before, None if it was not seen there.
    """

    first: Tensor
    recent: list[Tensor] = field(default_factory=list)
    renewed: int = -1
    mask: Tensor | None = None


@dataclass(frozen=True)
class Picked:
    """The query of each object in one frame.

    Attributes:
        mask_logits: (R, H, W), before the sigmoid.
        scores: (R,) in [0, 1]: probability that the query is the object, times the mean probability of its mask; 0 without a query.
    """

    mask_logits: Tensor
    scores: Tensor

    @property
    def masks(self) -> Tensor:
        """(R, H, W) bool."""
        return self.mask_logits > 0


@dataclass(frozen=True)
class LastFrame:
    """The paper: an object's feature is that of its mask in the last frame. Each object takes its best query, whatever the others take.

    Attributes:
        score_threshold: an object that scores lower is absent: its mask is empty and its memory kept. The paper has no such rule: 0.
    """

    score_threshold: float = 0.0

    def prompts(self, memories: Mapping[ObjectId, ObjectMemory], asked: Sequence[ObjectId]) -> list[Tensor]:
        """Features (M, D) of each object, M >= 1 chosen by the policy; the best of the M predictions counts."""
        return [_last(memories[name])[None] for name in asked]

    def assign(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        """Query of each object.

        Args:
            scores: (Q, R) in [0, 1].
            overlaps: (Q, R) IoU of every query's mask with where the object was in the frame before; 0 where it was not seen there.

        Returns:
            (R,) int64, -1 = none is left.
        """
        return scores.argmax(0)

    def report(self, picked: Picked) -> Tensor:
        """(R, H, W) bool: the masks of the result, empty for absent objects."""
        return picked.masks & self.is_present(picked)[:, None, None]

    def remember(self, picked: Picked, reported: Tensor) -> list[Tensor | None]:
        """Mask (H, W) bool of each object whose feature is remembered, or None = its memory stays as it is."""
        present = self.is_present(picked).tolist()
        return [mask if seen and mask.any() else None for mask, seen in zip(picked.masks, present, strict=True)]

    def is_present(self, picked: Picked) -> Tensor:
        """(R,) bool."""
        return picked.scores >= self.score_threshold

    @property
    def num_recent(self) -> int:
        """Number of features of earlier frames that are kept for each object."""
        return 1


@dataclass(frozen=True)
class Released(LastFrame):
    """The released evaluation on DAVIS, rule by rule.

    Objects choose in their order: each takes the best of its 10 best queries that no earlier one took, or its very best if all are taken.
    Later objects cover earlier ones. The memory of all objects is renewed together, unless two picked masks overlap (IoU > 0.4) or one is
    empty, which the released code does not foresee. If the number of objects asked for is not that in the memory, the regions that the user
    gave are used. Objects and memory are matched by position, not by name: that makes a difference only where `visible` leaves objects out.
    """

    def prompts(self, memories: Mapping[ObjectId, ObjectMemory], asked: Sequence[ObjectId]) -> list[Tensor]:
        newest = max(memory.renewed for memory in memories.values())
        remembered = [memory for memory in memories.values() if memory.renewed == newest]
        if newest < 0 or len(remembered) != len(asked):
            return [memories[name].first[None] for name in asked]
        return [_last(memory)[None] for memory in remembered]

    def assign(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        taken: list[int] = []
        for column in scores.T:
            best = column.topk(min(TOP_QUERIES, len(column))).indices.tolist()
            taken.append(next((query for query in best if query not in taken), best[0]))
        return torch.tensor(taken, device=scores.device)

    def report(self, picked: Picked) -> Tensor:
        masks = super().report(picked)
        later = masks.flip(0).int().cumsum(0).flip(0) - masks.int()  # how many later objects cover a pixel
        return masks & (later == 0)

    def remember(self, picked: Picked, reported: Tensor) -> list[Tensor | None]:
        flat = picked.masks.flatten(1).float()
        overlaps = iou(flat, flat).fill_diagonal_(0)
        if bool((overlaps > OVERLAP_LIMIT).any()) or not bool(picked.masks.flatten(1).any(1).all()):
            return [None] * len(picked.masks)
        return super().remember(picked, reported)


@dataclass(frozen=True)
class FirstLastConfident(LastFrame):
    """Ours: the user's region and the last few frames in which the object was found with confidence.

    Objects share out the queries so that the sum of their scores is largest (Hungarian assignment), two never take the same one, and every
    pixel goes to the object that is surest of it. A weak match neither shows nor changes the memory, so an object that was hidden is looked
    for by what it was like before.

    Attributes:
        score_threshold: an object that scores lower is absent.
        confident_score, confident_stability: what a frame needs to be remembered; stability is the IoU of the mask at the logits +1 and -1.
        keep: number of earlier frames that are remembered beside the user's region; 0 = only that.
        continuity: how much a query's score for an object gains by covering the place where the object was in the frame before: at full
            overlap it is multiplied by 1 + continuity. For the assignment only, not in the scores that are returned.
        least_share: an object that keeps a smaller part of its own mask, because surer ones cover it, is absent: its query shows them.

    Raises:
        ValueError: a number out of its range.
    """

    score_threshold: float = 0.5
    confident_score: float = 0.7
    confident_stability: float = 0.8
    keep: int = 3
    continuity: float = 1.0
    least_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("score_threshold", "confident_score", "confident_stability", "least_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number between 0 and 1, got {getattr(self, name)}")
        if not (self.keep >= 0 and self.continuity >= 0):
            raise ValueError(f"keep and continuity: expected at least 0, got {self.keep} and {self.continuity}")

    def prompts(self, memories: Mapping[ObjectId, ObjectMemory], asked: Sequence[ObjectId]) -> list[Tensor]:
        return [torch.stack([memories[name].first, *memories[name].recent]) for name in asked]

    def assign(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        # A score below the threshold is worth nothing: an absent object would take another's query for the sake of the sum.
        gains = (scores * (1 + self.continuity * overlaps)).masked_fill(scores < self.score_threshold, 0)
        # Where all gains are 0, the better score decides.
        queries, objects = linear_sum_assignment((gains + 1e-3 * scores).cpu().double().numpy(), maximize=True)
        taken = torch.full((scores.shape[1],), -1)
        taken[torch.from_numpy(objects)] = torch.from_numpy(queries)
        return taken.to(scores.device)

    def report(self, picked: Picked) -> Tensor:
        masks = super().report(picked)
        sureness = picked.mask_logits.sigmoid() * picked.scores[:, None, None] * masks
        won = masks & (sureness == sureness.amax(0)) & (sureness > 0)
        won &= won.cumsum(0) == 1  # of equals the first
        share = won.flatten(1).sum(1) / masks.flatten(1).sum(1).clamp(min=1)
        return won & (share >= self.least_share)[:, None, None]

    def remember(self, picked: Picked, reported: Tensor) -> list[Tensor | None]:
        areas = [(picked.mask_logits > limit).flatten(1).sum(1) for limit in (1, -1)]
        stability = areas[0] / areas[1].clamp(min=1)
        sure = (picked.scores >= self.confident_score) & (stability >= self.confident_stability) & reported.flatten(1).any(1)
        return [mask if is_sure else None for mask, is_sure in zip(reported, sure.tolist(), strict=True)]

    @property
    def num_recent(self) -> int:
        return self.keep


POLICIES: dict[str, type[LastFrame]] = {"last_frame": LastFrame, "released": Released, "first_last_confident": FirstLastConfident}


def read_policy(policy: str | LastFrame) -> LastFrame:
    """A policy by its name with default options, or the given one.

    Raises:
        ValueError: unknown name.
    """
    if isinstance(policy, LastFrame):
        return policy
    if policy not in POLICIES:
        raise ValueError(f"policy: expected one of {', '.join(POLICIES)} or an object of their classes, got {policy!r}")
    return POLICIES[policy]()


def describe_policy(policy: LastFrame) -> dict[str, str | float]:
    """Name and options, for files."""
    name = next(name for name, kind in POLICIES.items() if kind is type(policy))
    return {"policy": name, **{option.name: getattr(policy, option.name) for option in fields(policy)}}


def iou(masks: Tensor, others: Tensor) -> Tensor:
    """(N, P) and (M, P) float of zeros and ones -> (N, M) intersection over union; 0 where both are empty."""
    intersection = masks @ others.T
    union = masks.sum(1)[:, None] + others.sum(1)[None] - intersection
    return intersection / union.clamp(min=1)


def _last(memory: ObjectMemory) -> Tensor:
    return memory.recent[-1] if memory.recent else memory.first
