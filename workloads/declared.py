"""The output length that a request declares to the scheduler, which must reserve memory before it knows the answer."""

from dataclasses import dataclass

import numpy as np

from policies.errors import InputError
from workloads.checks import choice, whole_number
from workloads.requests import MAX_TOKENS, IntArray

RULES = ("max", "pow2", "oracle")


@dataclass(frozen=True)
class Declaration:
    """How `max_new_tokens` follows from the true output length.

    Attributes:
        rule: `max`, every request declares the cap; `pow2`, the output rounded up to a power of two, at most the
            cap (a good predictor); `oracle`, the output itself (a perfect one).
        cap: the longest output that may be declared, in tokens; None is the longest the workload can have.

    Raises:
        InputError: if the rule is unknown or the cap is no token count.
    """

    rule: str
    cap: int | None = None

    def __post_init__(self) -> None:
        """Check the two options."""
        choice("workload.max_new_tokens", self.rule, RULES)
        if self.cap is not None:
            whole_number("workload.max_new_cap", self.cap, 1, MAX_TOKENS)

    def declare(self, output_tokens: IntArray, longest: int) -> IntArray:
        """Return what each request declares, int64 [n], never less than its output.

        Args:
            output_tokens: int64 [n], the true output lengths.
            longest: the longest output that the workload can have, in tokens.

        Raises:
            InputError: if an output is longer than the cap.
        """
        cap = longest if self.cap is None else self.cap
        if (found := int(output_tokens.max())) > cap:
            raise InputError(
                f"workload.max_new_cap is {cap}, but request {int(np.argmax(output_tokens))} has an output of {found} "
                f"tokens: raise workload.max_new_cap (to {longest}, or null for the longest possible)"
            )
        if self.rule == "max":
            return np.full_like(output_tokens, cap)
        if self.rule == "pow2":
            # frexp gives the number of bits of output - 1, exactly, where log2 would round.
            rounded = np.left_shift(np.int64(1), np.frexp(output_tokens - 1)[1].astype(np.int64))
            return rounded if self.cap is None else np.minimum(rounded, cap)
        return output_tokens.copy()

    def label(self, longest: int) -> str:
        """Return the rule in words, such as `max (cap 2048)`."""
        if self.rule == "max":
            return f"max (cap {longest if self.cap is None else self.cap})"
        if self.rule == "pow2" and self.cap is not None:
            return f"pow2 (cap {self.cap})"
        return self.rule
