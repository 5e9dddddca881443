"""What a policy answers: the change that the next iteration makes."""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from policies.job import Job

_new = tuple.__new__


class Steady(IntEnum):
    """How long a policy promises that its next answers are "carry on".

    Whatever the promise, a row that finishes, KV memory that runs out, a change on the other lane, or the time named
    in `Plan.ask_at` ends it.
    """

    NOT = 0
    UNTIL_ARRIVAL = 1
    THROUGH_ARRIVALS = 2


NOT, UNTIL_ARRIVAL, THROUGH_ARRIVALS = Steady


class IllegalPlan(Exception):
    """A policy asked for what the state does not allow; nothing was changed."""


class Plan(NamedTuple):
    """The next iteration of one lane. It says only what changes; rows that are not named carry on.

    Attributes:
        prefill: Waiting jobs whose prompts this iteration computes, whole or in part.
        insert: Ids of ready or parked requests that become rows of the batch before it decodes.
        park: Ids of rows that leave the batch and keep their keys and values.
        drop: Ids of rows that leave the batch and lose them; they wait again and are recomputed. Where prompts are
            prefilled in chunks, also of requests that are partly prefilled.
        decode: Whether the batch decodes one token per row.
        apart: Whether the prefilled jobs become *ready* (their KV lies beside the batch) rather than rows at once.
        ask_at: A time, in seconds, at which to ask again at the latest.
        steady: How long the answers after this one are "carry on" (after an idle plan: idle again).
        tokens: How many tokens this iteration computes of each prefilled job, which may then be partly prefilled
            already; KV found in the prefix cache is not computed. Empty: whole prompts.
    """

    prefill: Sequence[Job] = ()
    insert: Sequence[int] = ()
    park: Sequence[int] = ()
    drop: Sequence[int] = ()
    decode: bool = False
    apart: bool = False
    ask_at: float = math.inf
    steady: Steady = NOT
    tokens: Sequence[int] = ()

    @property
    def acts(self) -> bool:
        """Whether it does anything; if not, the lane idles."""
        return bool(self.decode or self.prefill or self.insert or self.park or self.drop)


def prefilling(jobs: Sequence[Job], decode: bool, apart: bool, steady: Steady = NOT) -> Plan:
    """Return `Plan(jobs, decode=decode, apart=apart, steady=steady)`, at a third of the cost."""
    return _new(Plan, (jobs, (), (), (), decode, apart, math.inf, steady, ()))


def inserting(requests: Sequence[int], steady: Steady = NOT) -> Plan:
    """Return `Plan(insert=requests, decode=True, steady=steady)`, at a third of the cost."""
    return _new(Plan, ((), requests, (), (), True, False, math.inf, steady, ()))


IDLE = Plan(steady=Steady.UNTIL_ARRIVAL)
IDLE_THROUGH_ARRIVALS = Plan(steady=Steady.THROUGH_ARRIVALS)
CARRY_ON = Plan(decode=True)
CARRY_ON_THROUGH_ARRIVALS = Plan(decode=True, steady=Steady.THROUGH_ARRIVALS)
CARRY_ON_UNTIL_ARRIVAL = Plan(decode=True, steady=Steady.UNTIL_ARRIVAL)
