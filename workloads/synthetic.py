"""Requests with lengths drawn from chosen distributions."""

from dataclasses import dataclass

from policies.checks import InputError, shown
from workloads.demand import Demand
from workloads.lengths import LengthDistribution
from workloads.options import Options
from workloads.requests import Requests
from workloads.streams import stream


@dataclass(frozen=True, kw_only=True)
class Synthetic(Options):
    """Prompt and output lengths drawn independently, each from its own distribution and random stream.

    Attributes:
        prompt: distribution of prompt lengths.
        output: distribution of output lengths.
    """

    prompt: LengthDistribution
    output: LengthDistribution

    def __post_init__(self) -> None:
        """Check the options and both distributions."""
        super().__post_init__()
        for option, lengths in (("workload.prompt", self.prompt), ("workload.output", self.output)):
            if not isinstance(lengths, LengthDistribution):
                raise InputError(f"{option} is {shown(lengths)}: give a distribution, such as {option}.low and .high")
            lengths.check(option)

    def build(self, seed: int) -> Requests:
        """Draw the requests.

        Raises:
            InputError: if the seed is bad or an output exceeds `workload.max_new_cap`.
        """
        assert self.num_requests is not None
        demand = Demand(
            prompt_tokens=self.prompt.sample(stream(seed, "prompts"), self.num_requests),
            output_tokens=self.output.sample(stream(seed, "outputs"), self.num_requests),
        )
        return self.requests(seed, "synthetic", demand, self.output.longest)
