"""What feeding takes: bytes are those of the chips, every figure is measured."""

from pathlib import Path

from jobs.benchmarks.feeding import measure_feeding


def test_feeding_is_measured_for_both_depths(tmp_path: Path) -> None:
    uint8, uint16 = measure_feeding(str(tmp_path), 5)
    assert (uint8.dtype, uint8.raw_bytes, uint16.raw_bytes) == ("uint8", 4 * 256 * 256, 2 * 4 * 256 * 256)
    assert uint8.rows_per_piece == 5
    for found in (uint8, uint16):
        assert 0.3 < found.disk_bytes / found.raw_bytes < 1.1
        assert min(found.read_cpu_ms, found.decode_cpu_ms, found.thumbnail_cpu_ms) > 0
        assert 100 < found.thumbnail_bytes <= 4096
