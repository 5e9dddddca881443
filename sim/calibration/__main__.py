"""The command line, `python -m sim.calibration`."""

import sys
from pathlib import Path

from policies.checks import InputError
from sim.calibration.command import CONF, complaints, parser, read_named
from sim.calibration.gpus import GPUS, calibrate
from sim.calibration.hardware_file import write_hardware
from sim.cost.datasheet import Hardware
from sim.cost.model import Model
from sim.output.writing import make_folder


def main() -> None:
    """Calibrate the GPUs that are named, or all."""
    arguments = parser("sim.calibration", "Makes hardware files of kernel tables.", "profiles/")
    arguments.add_argument("gpus", nargs="*", default=list(GPUS), help=f"which: {', '.join(GPUS)}; default all")
    arguments.add_argument("--out", type=Path, default=CONF / "hardware", help="where files go; default conf/hardware")
    given = arguments.parse_args()
    with complaints():
        if not (given.data / "profiles").is_dir():
            raise InputError(
                f"{given.data / 'profiles'}: there is no such folder; give the folder that holds profiles/"
            )
        make_folder(given.out)
        for name in given.gpus:
            if name not in GPUS:
                raise InputError(f"{name}: there are no tables of this GPU; choose from {', '.join(GPUS)}")
            _calibrate(name, given.data / "profiles", given.out)


def _calibrate(name: str, profiles: Path, out: Path) -> None:
    datasheets: dict[str, Hardware] = {gpu: read_named("hardware", f"{gpu}_datasheet") for gpu in GPUS}
    models: dict[str, Model] = {
        model: read_named("model", model) for model in ("llama2_7b", "llama3_8b", "codellama_34b")
    }
    gpu = calibrate(name, profiles, datasheets, models, lambda part: print(f"{name}: {part}", file=sys.stderr))
    path = out / f"{name}.yaml"
    write_hardware(path, gpu, "Written by python -m sim.calibration from measured kernels; see docs/accuracy.md.")
    print(f"{name}: wrote {path}")


if __name__ == "__main__":
    main()
