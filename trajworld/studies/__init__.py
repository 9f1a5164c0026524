"""The studies, by name; each is one file that declares its cells, tables and charts."""

STUDIES = {
    "quickstart": (
        "trajworld.studies.quickstart:Quickstart",
        "What pre-training buys on an unseen robot, in minutes.",
    ),
    "transfer": (
        "trajworld.studies.transfer:Transfer",
        "How much data and how many steps fine-tuning saves.",
    ),
    "zero-shot": (
        "trajworld.studies.zero_shot:ZeroShot",
        "Errors in unseen environments, by rows of context.",
    ),
    "grid": ("trajworld.studies.grid:Grid", "Errors of several models on 75 train-test pairs."),
    "ope": ("trajworld.studies.ope:Ope", "Off-policy evaluation: which policy is best, without running one."),
    "planning": (
        "trajworld.studies.planning:Planning",
        "Returns of planning in a model, beside its proposal policy.",
    ),
    "backends": ("trajworld.benchmarks.study:Backends", "Speed of JAX, TensorFlow and PyTorch."),
}
"""Where each study's class is, imported when it is used, and what it measures."""
