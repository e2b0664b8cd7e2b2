"""How much of a round at the paper's size its GPUs would compute: an estimate, nothing is run.

    python benchmarks/gpu_busy.py

5,000 pool listings and 3,775 of eval and anchor on 8 GPUs of one machine. The phases of a round
follow one another, so the share is the seconds in which GPUs compute over all seconds. Unit costs
are constants below: measured ones name their command, the others are assumptions. ``before`` is
the state when every engine of a machine merged weights for itself, one process voted, and every
training worker built all trees. The last line is JSON.
"""

import json

POOL, GPUS, CPUS = 5_000, 8, 64
# Assumed for an H100 and its machine.
LISTINGS_PER_S = 16.7  # of a GPU: five attributes, seven chains of a hundred tokens
GREEDY_S, TAIL_S = 3.0, 7.0  # eval and anchor; the last calls, which leave engines idle
IMPORTS_S, LOAD_S = 25.0, 60.0  # of an engine; load, compile and graphs
MERGED_GB, DISK_GB_PER_S = 7.5, 2.0
TRAIN_START_S = 52.0  # Ray Train, imports, the model
REFERENCE_S, STEPS_S = 20.0, 90.0
EVALUATION_S, TASK_START_S = 5.0, 3.0
# Measured on a CPU core.
TREE_S = 0.0068  # a listing's trees; before trees were built by tasks
VOTE_BEFORE, VOTE = 680.0, 1_361.0  # listings/s of a core; now: benchmarks/vote.py, of two

Phase = tuple[str, bool, float, float]


def phases() -> list[Phase]:
    """Name, whether GPUs compute, and seconds before and now."""
    merge = MERGED_GB / DISK_GB_PER_S
    sampling = POOL / (GPUS * LISTINGS_PER_S) + GREEDY_S
    start = IMPORTS_S + LOAD_S
    return [
        ("engine start, merged weights", False, start + GPUS * merge, start + merge),
        ("chains", True, sampling, sampling),
        ("last calls", False, TAIL_S, TAIL_S),
        ("vote", False, POOL / VOTE_BEFORE, TASK_START_S + POOL / (VOTE * CPUS)),
        ("evaluation, gate, report", False, EVALUATION_S, EVALUATION_S),
        ("training's trees", False, POOL * TREE_S, TASK_START_S + POOL * TREE_S / CPUS),
        ("training's start", False, TRAIN_START_S, TRAIN_START_S),
        ("reference", True, REFERENCE_S, REFERENCE_S),
        ("steps", True, STEPS_S, STEPS_S),
    ]


def main() -> None:
    """Print the phases and the shares."""
    found = phases()
    for name, computes, before, now in found:
        print(f"{name:30} {'busy' if computes else 'idle'} {before:7.1f} {now:7.1f}")
    totals = [sum(phase[column] for phase in found) for column in (2, 3)]
    busy = sum(phase[2] for phase in found if phase[1])
    print(f"{'in all':30}      {totals[0]:7.1f} {totals[1]:7.1f}")
    shares = {
        name: round(busy / total, 2) for name, total in zip(("before", "now"), totals, strict=True)
    }
    print(json.dumps({"benchmark": "gpu_busy", "estimated_share": shares}))


if __name__ == "__main__":
    main()
