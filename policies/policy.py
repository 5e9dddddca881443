"""What a policy is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from policies.checks import Checked, Choice, InputError, Whole
from policies.plan import Plan
from policies.queue import ORDERS
from policies.view import View

Layout = Literal[
    "selective_fused", "selective_per_request", "rectangle", "ragged_rectangle", "shared_rectangle", "static"
]
Memory = Literal["slots", "paged", "prefix_cache", "rectangle", "static"]
Lanes = Literal["one", "shared", "separate"]


class Traits(NamedTuple):
    """What stays fixed while a policy runs.

    Attributes:
        layout: How the tensors of an iteration are laid out, hence what padding it computes.
        memory: Which KV book is kept.
        reserve: What a rectangle reserves per request: `max` (prompt + max_new_tokens) or `window` (what is there).
        lanes: `one`; or a second lane for prefill, on the same GPU (`shared`) or on another one (`separate`).
        hold_finished: Whether finished rows are computed until the batch ends.
        release_with_batch: Whether answers leave with the batch rather than token by token.
        concatenates: Whether a rectangle is concatenated anew at every change rather than shaped in place.
        chunks: Whether prompts are prefilled in chunks.
    """

    layout: Layout
    memory: Memory
    reserve: Literal["max", "window"] = "max"
    lanes: Lanes = "one"
    hold_finished: bool = False
    release_with_batch: bool = False
    concatenates: bool = False
    chunks: bool = False

    @property
    def finds_prefixes(self) -> bool:
        """Whether KV that other requests share is computed once and found again."""
        return self.memory == "prefix_cache"

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return 2 if self.lanes == "separate" else 1


@dataclass(frozen=True, kw_only=True)
class Policy(Checked, ABC, option="policy"):
    """An immutable decision rule: sees a view and a time, returns a plan, does nothing else.

    Attributes:
        max_batch: Most rows in the batch.
        order: Queue order, one of `fcfs`, `sjf`, `priority`.
        predictor: What `sjf` predicts by: `declared` (max_new_tokens) or `oracle` (the true output length).
    """

    max_batch: Annotated[int, Whole(1)] = 32
    order: Annotated[str, Choice(ORDERS)] = "fcfs"
    predictor: Annotated[str, Choice(("declared", "oracle"))] = "declared"

    def __post_init__(self) -> None:
        """Refuse options that are out of range or contradict each other."""
        super().__post_init__()
        if self.predictor != "declared" and self.order != "sjf":
            raise InputError(f"policy.predictor={self.predictor} has no effect with policy.order={self.order}; use sjf")

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """What stays fixed while the policy runs."""

    @abstractmethod
    def plan(self, view: View, now: float, lane: int) -> Plan:
        """Decide the next iteration of a lane at time `now`, in seconds."""
