"""How fast and how good it is, measured: `benchmark.py WHAT --output FILE`, one benchmark a run, figures as JSON.

Every benchmark makes what it is not given (a rendered world, an untrained network), so `--output` alone is enough;
alternatives are measured by turns in the same run: one machine differs from another, and from itself an hour later.
"""

if __name__ == "__main__":  # before anything that jobs/ could shadow is imported
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from typing import Final

from jobs.benchmarks import embed, evaluate, paper, quality, search, serve, shard, speech, train
from jobs.entrypoint import Choice, run_choice

BENCHMARKS: Final = {
    "embed": Choice(embed.EmbedBenchmark, embed.run),
    "train": Choice(train.TrainBenchmark, train.run),
    "search": Choice(search.SearchBenchmark, search.run),
    "serve": Choice(serve.ServeBenchmark, serve.run),
    "shard": Choice(shard.ShardBenchmark, shard.run),
    "speech": Choice(speech.SpeechBenchmark, speech.run),
    "quality": Choice(quality.QualityBenchmark, quality.run),
    "evaluate": Choice(evaluate.EvaluateBenchmark, evaluate.run),
    "paper": Choice(paper.PaperBenchmark, paper.run),
}

if __name__ == "__main__":
    sys.exit(run_choice("benchmark", BENCHMARKS, sys.argv[1:]))
