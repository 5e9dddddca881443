"""`hydra/launcher=ray`: every point of a sweep is a Ray task.

A task whose worker or node dies is run again elsewhere; one that dies every time is recorded as failed, and the others
go on. Ray itself is imported only when points are launched, since Hydra imports every plugin at every start.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from policies.checks import InputError
from sim.cli.sweep import Point
from sim.output.progress import Progress


@dataclass
class RayLauncherConf:
    """Options of `hydra/launcher=ray`.

    Attributes:
        address: Of a running cluster: `auto` finds the one that this machine belongs to, `HOST:PORT` names its head;
            None starts Ray on this machine for as long as the sweep lasts.
        cpus: Cores that a point takes.
        retries: How often a point is run again after its worker or node died.
    """

    _target_: str = "hydra_plugins.baton_ray_launcher.ray_launcher.RayLauncher"
    address: str | None = None
    cpus: float = 1.0
    retries: int = 3


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayLauncherConf, provider="baton-sim")


@dataclass
class RayLauncher(Launcher):
    """Runs points on a Ray cluster; options as `RayLauncherConf`."""

    address: str | None = None
    cpus: float = 1.0
    retries: int = 3
    _shared: tuple[HydraContext, TaskFunction, DictConfig] | None = field(default=None, init=False)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what every point shares."""
        self._shared = (hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the points; return in their order what became of each.

        Raises:
            InputError: if Ray is not installed or the cluster is not there.
        """
        assert self._shared is not None
        setup_globals()
        ray = self._connected()
        common = ray.put((*self._shared, Singleton.get_state(), list(sys.path)))
        remote = ray.remote(num_cpus=self.cpus, max_retries=self.retries)(_run_point)
        tasks = {
            remote.remote([common], list(overrides), initial_job_idx + place): place
            for place, overrides in enumerate(job_overrides)
        }
        returns = [JobReturn() for _ in job_overrides]
        waiting = list(tasks)
        with Progress("sweep", len(tasks), unit="points") as progress:
            while waiting:
                (done, *_), waiting = ray.wait(waiting, num_returns=1)
                place = tasks[done]
                try:
                    returns[place] = ray.get(done)
                except ray.exceptions.RayError as error:
                    returns[place] = self._lost(list(job_overrides[place]), initial_job_idx + place, error)
                progress.update(len(tasks) - len(waiting))
        ray.shutdown()
        return returns

    def _connected(self) -> Any:
        """Return the module `ray`, connected to the cluster."""
        try:
            import ray
        except ImportError:
            raise InputError("hydra/launcher=ray needs Ray: pip install '.[ray]'") from None
        try:
            ray.init(address=self.address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"hydra.launcher.address={self.address}: no Ray cluster was found ({reason}); start one with ray start "
                "--head, or leave the address out"
            ) from None
        return ray

    def _lost(self, overrides: list[str], number: int, error: Exception) -> JobReturn:
        """Record a point whose worker died every time."""
        assert self._shared is not None
        context, _, config = self._shared
        job = _job_config(context, config, overrides, number)
        folder = Path(job.hydra.sweep.dir) / str(job.hydra.sweep.subdir)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        own = tuple(job.hydra.overrides.task)
        Point(folder=folder, number=number, overrides=own).record(
            f"its worker died {self.retries + 1} times ({type(error).__name__}: {reason})"
        )
        return JobReturn(overrides=own, status=JobStatus.COMPLETED)


def _job_config(context: HydraContext, config: DictConfig, overrides: list[str], number: int) -> DictConfig:
    """Compose the configuration of one point."""
    job: DictConfig = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job):
        job.hydra.job.id = f"{job.hydra.job.name}_{number}"
        job.hydra.job.num = number
    return job


def _run_point(common: list[Any], overrides: list[str], number: int) -> JobReturn:
    """Run one point; this happens on a worker."""
    import ray

    context, task_function, config, state, _ = ray.get(common[0])
    setup_globals()
    Singleton.set_state(state)
    job = _job_config(context, config, overrides, number)
    HydraConfig.instance().set_config(job)
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=job,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
