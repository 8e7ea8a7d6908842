"""How fast and how good it is, measured: `benchmark.py WHAT --output FILE`, one benchmark a run, figures as JSON.

Every benchmark makes what it is not given (a rendered world, an untrained network), so `--output` alone is enough;
alternatives are measured by turns in the same run: one machine differs from another, and from itself an hour later.
"""

if __name__ == "__main__":  # before anything that jobs/ could shadow is imported
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from typing import Final

from jobs.entrypoint import Choice, run_choice

BENCHMARKS: Final = {
    "embed": Choice("jobs.benchmarks.embed", "EmbedBenchmark"),
    "device": Choice("jobs.benchmarks.device", "DeviceBenchmark"),
    "train": Choice("jobs.benchmarks.train", "TrainBenchmark"),
    "search": Choice("jobs.benchmarks.search", "SearchBenchmark"),
    "serve": Choice("jobs.benchmarks.serve", "ServeBenchmark"),
    "shard": Choice("jobs.benchmarks.shard", "ShardBenchmark"),
    "speech": Choice("jobs.benchmarks.speech", "SpeechBenchmark"),
    "quality": Choice("jobs.benchmarks.quality", "QualityBenchmark"),
    "evaluate": Choice("jobs.benchmarks.evaluate", "EvaluateBenchmark"),
    "scaling": Choice("jobs.benchmarks.scaling", "ScalingBenchmark"),
    "paper": Choice("jobs.benchmarks.paper", "PaperBenchmark"),
}

if __name__ == "__main__":
    sys.exit(run_choice("benchmark", BENCHMARKS, sys.argv[1:]))
