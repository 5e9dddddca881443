"""From kernel tables to hardware files: cleaning, reading, and what damaged or foreign tables are told."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.checks import InputError
from sim.calibration.__main__ import main
from sim.calibration.command import read_named
from sim.calibration.comparisons import blis_attention
from sim.calibration.hardware_file import write_hardware
from sim.calibration.kernels import attention, measurements
from sim.calibration.kernels.cleaning import ascending, ascending_both, comparable, typical
from sim.calibration.kernels.matrices import FOLDS, INPUTS, OUTPUTS, TOKENS, clean_products, fit_products, folds_of
from sim.config.settings import build
from sim.cost.kernels.tables import prompt_surface, roofline_seconds

DATASHEET = read_named("hardware", "h100_sxm_datasheet")


def test_a_folder_without_tables_is_one_line_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["calibration", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/profiles: there is no such folder; give the folder that holds profiles/\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_typical_time_is_the_middle_one_and_of_two_the_lower() -> None:
    versions = pd.DataFrame({"a": [1.0, 1.0, np.nan], "b": [3.0, 2.0, 5.0], "c": [2.0, np.nan, np.nan]})
    assert typical(versions).tolist() == [2.0, 1.0, 5.0]
    assert comparable(versions).index.tolist() == [0]


times = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30)


@given(times)
def test_a_clean_curve_never_falls_and_stays_within_the_measurements(values: list[float]) -> None:
    clean = ascending(np.array(values))
    assert (np.diff(clean) >= -1e-12 * clean[1:]).all()
    assert min(values) * (1 - 1e-9) <= clean[0] <= clean[-1] <= max(values) * (1 + 1e-9)
    np.testing.assert_allclose(ascending(clean), clean, rtol=1e-12)


@given(times)
def test_a_curve_that_never_falls_is_left_alone(values: list[float]) -> None:
    np.testing.assert_allclose(ascending(np.array(sorted(values))), sorted(values), rtol=1e-12)


def test_one_outlier_is_shared_with_its_neighbours_and_goes_no_further() -> None:
    # 1.40 ms at 2048 tokens, 0.89 ms at 4096: both become their geometric mean.
    clean = ascending(np.array([0.3, 1.40, 0.89, 1.8]))
    assert clean == pytest.approx([0.3, (1.40 * 0.89) ** 0.5, (1.40 * 0.89) ** 0.5, 1.8])


@given(st.lists(st.lists(st.floats(1e-6, 1.0), min_size=4, max_size=4), min_size=2, max_size=5))
def test_a_clean_table_falls_along_neither_axis(rows: list[list[float]]) -> None:
    clean = ascending_both(np.array(rows))
    assert (np.diff(clean, axis=0) >= 0).all() and (np.diff(clean, axis=1) >= 0).all()


def test_a_gpu_that_reaches_one_share_everywhere_is_found_again() -> None:
    shapes = [(n, k) for n in (*OUTPUTS, 1536, 5120) for k in (*INPUTS, 3072)]
    tokens = np.array(TOKENS, dtype=np.float64)
    seconds = [
        roofline_seconds(tokens, n, k, DATASHEET.peak_flops, DATASHEET.memory_bandwidth) / 0.6 for n, k in shapes
    ]
    index = pd.MultiIndex.from_tuples(shapes, names=["n", "k"])
    made = fit_products(pd.DataFrame(seconds, index=index, columns=list(TOKENS)).sort_index(), DATASHEET, "made up")
    assert np.array(made.share) == pytest.approx(0.6, abs=2e-3)
    assert made.median_error is not None and made.median_error <= 2e-3
    found = made.seconds(22016, 4096, DATASHEET.peak_flops, DATASHEET.memory_bandwidth)
    expected = roofline_seconds(tokens, 22016, 4096, DATASHEET.peak_flops, DATASHEET.memory_bandwidth) / 0.6
    np.testing.assert_allclose(found, expected, rtol=5e-3)


def test_every_matrix_is_judged_once_and_no_fold_loses_a_row_or_a_column() -> None:
    shapes = [(n, k) for n in (512, 1024, 1536, 2048) for k in (512, 1024, 3072, 4096, 8192, 16384)]
    folds = folds_of(shapes)
    assert sorted(folds) == shapes
    for fold in range(FOLDS):
        kept = [shape for shape in shapes if folds[shape] != fold]
        assert {n for n, _ in kept} == {n for n, _ in shapes}
        assert {k for _, k in kept} == {k for _, k in shapes}


def test_a_matrix_has_no_part_in_its_own_judgement() -> None:
    shapes = [(n, k) for n in OUTPUTS for k in INPUTS]
    tokens = np.array(TOKENS, dtype=np.float64)
    rates = DATASHEET.peak_flops, DATASHEET.memory_bandwidth
    seconds = np.array([roofline_seconds(tokens, n, k, *rates) / 0.6 for n, k in shapes])
    odd = shapes.index((4096, 4096))
    seconds[odd] *= 1.5
    index = pd.MultiIndex.from_tuples(shapes, names=["n", "k"])
    made = fit_products(pd.DataFrame(seconds, index=index, columns=list(TOKENS)), DATASHEET, "made up")
    assert made.seconds(4096, 4096, *rates) == pytest.approx(seconds[odd], rel=0.01), (
        "the table that is shipped knows it"
    )
    assert max(made.residuals) == pytest.approx(np.log(1.5), abs=0.02), "the one that judges it does not"


def test_what_is_faster_than_memory_allows_was_in_the_cache() -> None:
    bound = float(roofline_seconds(np.array([8.0]), 4096, 4096, DATASHEET.peak_flops, DATASHEET.memory_bandwidth)[0])
    index = pd.MultiIndex.from_tuples([(8, 4096, 4096), (8, 4096, 8192)], names=["m", "n", "k"])
    clean = clean_products(pd.DataFrame({"vllm 1": [0.4 * bound, 3.0 * bound]}, index), DATASHEET)
    assert clean[8].tolist() == pytest.approx([bound, 3.0 * bound])


def test_another_projects_kernels_are_laid_beside_ours(tmp_path: Path) -> None:
    gpu = read_named("hardware", "h100_sxm")
    for folder, name, columns, seconds in (
        ("prefill", "32-8-128", "seq_len", prompt_surface(gpu.prompts, 4)(32, 1024)),
        ("decode", "32-8-128-tp2", "batch_size,kv_len", gpu.decode_for(False, 4).line(8, 4)(1024)),
    ):
        (tmp_path / folder / "h100").mkdir(parents=True)
        row = "1024" if folder == "prefill" else "8,1024"
        text = f"{columns},latency_us\n{row},{2e6 * seconds}\n"
        (tmp_path / folder / "h100" / f"{name}.csv").write_text(text)
    for one in blis_attention(tmp_path, gpu):
        assert one.shapes == 1
        assert (one.bias, one.median_error, one.p90_error) == pytest.approx((-0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="holds no tables; give the folder that holds profiles/"):
        list(blis_attention(tmp_path / "nowhere", gpu))


def attention_times(factor: float = 1.0) -> pd.DataFrame:
    """Decode attention that takes 10 us and 1 ns per row, KV head and token; `factor` for 64 query heads."""
    index = [
        (heads, 8, batch, tokens) for heads in (32, 64) for batch in (1, 2, 4, 8, 16) for tokens in (2, 128, 1024, 4096)
    ]
    frame = pd.DataFrame(index, columns=measurements.ATTENTION)
    frame["vllm 1"] = 1e-5 + 1e-9 * frame["batch"] * 8 * frame["tokens"]
    frame.loc[frame["heads"] == 64, "vllm 1"] *= factor
    return frame.set_index(measurements.ATTENTION)


def test_heads_that_were_held_out_judge_the_table() -> None:
    same = attention.fit_decode(attention_times(), (32, 8), "made up")
    assert (same.median_error, same.p90_error) == pytest.approx((0.0, 0.0), abs=5e-3)
    slower = attention.fit_decode(attention_times(1.25), (32, 8), "made up")
    assert slower.seconds == same.seconds, "judges are not used for the fit"
    assert slower.median_error == pytest.approx(0.2, abs=5e-3)
    assert all(residual == pytest.approx(np.log(1.25), abs=2e-2) for residual in slower.residuals)


def gemm(folder: Path, **columns: list[object]) -> Path:
    """Write a table of matrix products as vLLM 1 where `measurements.matrix_products` looks for it."""
    table = {"gemm_dtype": ["bfloat16"], "m": [1], "n": [64], "k": [64], "latency": [0.01]} | columns
    path = folder / "vllm/1/gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame({name: values for name, values in table.items() if values}).to_parquet(path)
    return path


def test_milliseconds_become_seconds(tmp_path: Path) -> None:
    gemm(tmp_path)
    assert measurements.matrix_products(tmp_path).to_dict() == {"vllm 1": {(1, 64, 64): pytest.approx(1e-5)}}


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"latency": []}, "has no column latency: it is another kind of table, or a part of one"),
        ({"latency": [-1.0]}, "latency of row 1 is no positive number; fetch it again"),
        ({"latency": ["fast"]}, "latency of row 1 is no positive number"),
        ({"gemm_dtype": ["fp8"]}, "holds no gemm_perf.parquet with bf16 kernels"),
    ],
)
def test_a_table_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    gemm(tmp_path, **columns)
    with pytest.raises(InputError, match=message) as refusal:
        measurements.matrix_products(tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_a_damaged_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    gemm(tmp_path).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=r"gemm_perf.parquet: cannot be read \(.*\); fetch it again"):
        measurements.matrix_products(tmp_path)
    with pytest.raises(InputError, match=r"dense.csv: there is no such table; give the folder that holds profiles/"):
        measurements.layers(tmp_path)


def test_a_version_that_measured_a_part_only_is_left_out(tmp_path: Path) -> None:
    gemm(
        tmp_path / "whole",
        m=list(range(1, 31)),
        n=[64] * 30,
        k=[64] * 30,
        gemm_dtype=["bfloat16"] * 30,
        latency=[1.0] * 30,
    )
    part = tmp_path / "whole/vllm/2/gemm_perf.parquet"
    part.parent.mkdir()
    pd.DataFrame({"gemm_dtype": ["bfloat16"], "m": [1], "n": [64], "k": [64], "latency": [9.0]}).to_parquet(part)
    assert list(measurements.matrix_products(tmp_path / "whole")) == ["vllm 1"]


@pytest.mark.parametrize("name", ["h100_sxm", "rtx4090"])
def test_a_hardware_file_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    gpu = read_named("hardware", name)
    write_hardware(tmp_path / "gpu.yaml", gpu, "test")
    written = yaml.safe_load((tmp_path / "gpu.yaml").read_text())
    assert written["tables"] == "gpu.json"
    assert build(written | {"tables": str(tmp_path / "gpu.json")}, "hardware") == gpu
