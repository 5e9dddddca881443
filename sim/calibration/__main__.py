"""The command line, `python -m sim.calibration`."""

import argparse
import sys
from pathlib import Path

from policies.errors import InputError
from sim.calibration.catalogue import CONF, read_named
from sim.calibration.gpus import GPUS, calibrate
from sim.calibration.hardware_file import write_hardware
from sim.hardware import Hardware
from sim.model import Model
from sim.results import make_folder


def main() -> None:
    """Calibrate the GPUs that are named, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.calibration", description="Makes hardware files of kernel tables."
    )
    parser.add_argument("data", type=Path, help="the data folder, which holds profiles/")
    parser.add_argument("gpus", nargs="*", help=f"which: {', '.join(GPUS)}; default all")
    parser.add_argument("--out", type=Path, default=CONF / "hardware", help="where files go; default conf/hardware")
    given = parser.parse_args()
    try:
        make_folder(given.out)
        for name in given.gpus or GPUS:
            if name not in GPUS:
                raise InputError(f"{name}: there are no tables of this GPU; choose from {', '.join(GPUS)}")
            _calibrate(name, given.data / "profiles", given.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: files that were named above are written", file=sys.stderr)
        sys.exit(130)


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
