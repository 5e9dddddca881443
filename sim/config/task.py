"""What is to be done: a task with its options, as conf/task/NAME.yaml describes it."""

from dataclasses import dataclass
from typing import ClassVar

from policies.checks import Checked
from sim.cost.engine_constants import EngineConstants
from sim.metrics.slo import SLO
from workloads.requests import Workload


@dataclass(frozen=True, kw_only=True)
class Task(Checked, option=""):
    """A task; the fields of its heirs are its options, which stand at the top of a configuration.

    Attributes:
        name: As it is chosen on the command line.
        study: Path of the class that does it: called with settings and a folder, it returns what is called with a
            console.
    """

    name: str
    study: str

    slo: ClassVar[type[SLO]] = SLO
    """What `slo` describes."""

    @property
    def chosen_study(self) -> str:
        """Path of the class that does it with these options."""
        return self.study

    def check(self, workload: Workload) -> None:
        """Raise InputError if it cannot be done with this workload."""

    def engine(self, engine: EngineConstants) -> EngineConstants:
        """Return the engine as the requests of this task meet it."""
        return engine
