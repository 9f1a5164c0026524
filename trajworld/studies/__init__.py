"""The studies, by name; each is one file that declares its cells, tables and charts."""

STUDIES = {
    "quickstart": "trajworld.studies.quickstart:Quickstart",
    "transfer": "trajworld.studies.transfer:Transfer",
    "zero-shot": "trajworld.studies.zero_shot:ZeroShot",
    "grid": "trajworld.studies.grid:Grid",
    "ope": "trajworld.studies.ope:Ope",
    "planning": "trajworld.studies.planning:Planning",
    "backends": "trajworld.benchmarks.study:Backends",
}
"""Where each study's class is; imported when it is used."""
