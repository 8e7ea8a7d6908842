"""The measurements of jobs/benchmark.py, one per module; each compares alternatives within one run."""
