"""A mutation campaign: damaged files for every reader of outside files, each to end in a right result or in one line.

    python tests/campaigns/mutate.py [FILES [SEED [READER...]]]

Worker processes read the files, many each; what ends or hangs one is the fault of the file that it was reading.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import traceback
import warnings
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tomli_w

SECONDS, MEMORY = 10, 1 << 30
OTHERS = [b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n", gzip.compress(b"x" * 99), b""]
OTHERS += [b"\x63" + bytes(7) + b'{"a": 1}', b"PK\x03\x04 archive/data.pkl", b"\x89HDF\r\n\x1a\n"]
INSERTED = [b"\0" * 64, b"[" * 50_000, b"9" * 6000, b"NaN", b'"', b"\n", b"\xff\xfe", b"\r\n,,,\n"]
ODD = [
    None,
    True,
    -1,
    0,
    3,
    1.5,
    float("nan"),
    float("inf"),
    1e39,
    10**30,
    "",
    "x" * 9999,
    "../../x",
    "~nobody/x",
]
ODD += ["\0", "\x1b[2J", [], {}, [[]], ["a", 1], {"a": {}}]
TYPES = ["?", "u1", "i8", "u8", "f2", ">f4", ">f8", "g", "S3", "c8"]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    content, at, action = bytearray(data), rng.randrange(len(data) + 1), rng.randrange(6)
    if action < 2 and content:
        for place in (rng.randrange(len(content)) for _ in range(rng.choice((1, 1, 4, 64)))):
            content[place] ^= 1 << rng.randrange(8)
    elif action < 4:
        del content[at : at + rng.choice((1, 7, 512, len(content)))]
    elif action == 4:
        content[at:at] = rng.choice((data, *INSERTED))
    else:
        return rng.choice(OTHERS)
    return bytes(content)


def mutate_array(given: Any, rng: random.Random) -> Any:
    array, flat = np.array(given), np.array(given).reshape(-1)
    if array.dtype.kind == "f" and array.size and rng.random() < 0.3:
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e39, -1e30, 0))
        return array
    shapes = [
        flat,
        flat[:, None],
        array[None],
        array.T,
        flat[:0],
        np.array(1.0),
        np.repeat(flat, 3),
        flat[1:],
    ]
    return rng.choice(
        [array.astype(rng.choice(TYPES)), *shapes, *([array[:-1], array[::-1]] if array.ndim else [])]
    )


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Rename, remove or replace a part of nested dicts, lists and arrays."""
    holder, places, waiting = {"": tree}, [], [tree]
    while waiting:
        node = waiting.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node if isinstance(node, list) else ())
        for key, child in pairs:
            places.append((node, key))
            waiting.append(child)
    node, key = rng.choice(places or [(holder, "")])
    action, value = rng.randrange(5) if places else 4, node[key]
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[rng.choice((f"{key}_", f"../{key}", "x"))] = node.pop(key)
    elif isinstance(value, np.ndarray):
        node[key] = mutate_array(value, rng)
    elif action == 2 and isinstance(value, int | float):
        node[key] = rng.choice((value + 1, -value, value * 10, float(value), str(value)))
    else:
        node[key] = rng.choice(ODD)
    return holder[""]


def mutate_hdf5(data: bytes, rng: random.Random) -> bytes:
    """An array or group removed, renamed, replaced or changed; links to elsewhere included."""
    names: list[str] = []
    with h5py.File(image := io.BytesIO(data), "r+") as file:
        file.visit(names.append)
        name, action = rng.choice(names), rng.randrange(5)
        links = [h5py.ExternalLink("../outside.hdf5", "observations"), h5py.SoftLink("/x")]
        new = mutate_array(file[name][()], rng) if isinstance(file[name], h5py.Dataset) else np.zeros(3)
        del file[name]
        if action:
            file[f"{name}_" if action == 1 else name] = rng.choice(links) if action == 2 else new
    return image.getvalue()


def mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """A member of a zip archive, by its own kind."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(image := io.BytesIO(), "w") as changed:
        chosen = rng.choice(archive.namelist())
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, mutate(name, content, rng) if name == chosen else content)
    return image.getvalue()


def mutate(name: str, data: bytes, rng: random.Random) -> bytes:
    """The content of a file, changed; what cannot be written as a file of its kind is mutated as bytes."""
    suffix, image = Path(name).suffix if rng.random() < 0.6 else "", io.BytesIO()
    errors = (TypeError, ValueError, KeyError, OSError, OverflowError, AttributeError, pickle.UnpicklingError)
    with contextlib.suppress(*errors):
        if suffix in (".hdf5", ".h5"):
            return mutate_hdf5(data, rng)
        if suffix in (".keras", ".zip", ".pt", ".pth"):
            return mutate_archive(data, rng)
        if suffix == ".json":
            return json.dumps(mutate_tree(json.loads(data), rng)).encode()
        if suffix == ".jsonl":
            rows = mutate_tree(json.loads(b"[" + b",".join(data.splitlines()) + b"]"), rng)
            return "".join(json.dumps(row) + "\n" for row in rows).encode()
        if suffix == ".csv":
            rows = mutate_tree([line.split(",") for line in data.decode().splitlines()], rng)
            return "\n".join(",".join(map(str, row)) for row in rows).encode()
        if suffix == ".toml":
            return tomli_w.dumps(mutate_tree(tomllib.loads(data.decode()), rng)).encode()
        if suffix == ".pkl":
            return pickle.dumps(mutate_tree(pickle.loads(data), rng))
        if suffix == ".npz":
            np.savez(image, **mutate_tree(dict(np.load(io.BytesIO(data))), rng))
            return image.getvalue()
        if suffix == ".npy":
            np.save(image, mutate_array(np.load(io.BytesIO(data)), rng))
            return image.getvalue()
    return mutate_bytes(data, rng)


def worker(folder: Path, case: Path, seed: int, jobs: list[tuple[str, int, int]]) -> None:
    """Mutate and read the files of some numbers of each reader, and print how each ended."""
    os.environ |= {
        "HOME": str(case),
        "MINARI_DATASETS_PATH": f"{case}/minari",
        "TRAJWORLD_HOME": f"{case}/home",
    }
    allowed, outside = (str(case), str(folder / "tmp"), "/dev/"), list[str]()

    def watch(event: str, arguments: Any) -> None:
        """Note what is written, run or called outside of the folder."""
        writes = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link")
        if event == "open" and isinstance(arguments[2], int):
            writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        place = (
            os.path.abspath(os.fsdecode(arguments[0]))
            if writes and not isinstance(arguments[0], int)
            else "/dev/"
        )
        if not place.startswith(allowed) or event in ("subprocess.Popen", "os.system", "socket.connect"):
            outside.append(f"{event} {arguments}")

    import readers  # noqa: F401

    sys.addaudithook(watch)
    for reader, first, last in jobs:
        read_some(reader, folder, case, seed, (first, last), outside)


def read_some(
    reader: str, folder: Path, case: Path, seed: int, numbers: tuple[int, int], outside: list[str]
) -> None:
    from readers import READERS

    from trajworld.errors import TrajWorldError

    (_, patterns, reads, _), peak = READERS[reader], 0
    paths = sorted(path for one in patterns.split() for path in (folder / reader).glob(one) if path.is_file())
    # Undamaged, each is read; what is compiled and imported is there.
    for number in (*range(-len(paths), 0), *range(*numbers)):
        chosen = paths[number] if number < 0 else random.Random(number).choice(paths)
        path = case / chosen.relative_to(folder / reader)
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(folder / reader, case)
        os.chdir(case)
        if number >= 0:
            path.write_bytes(mutate(path.name, path.read_bytes(), random.Random(f"{seed} {reader} {number}")))
        outside.clear()
        ended, said = "read", ""
        # Of the processor's time: others may keep it busy. Whoever only waits is stopped, too.
        signal.setitimer(signal.ITIMER_PROF, SECONDS if number >= 0 else 0)
        signal.alarm(6 * SECONDS if number >= 0 else 0)
        with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", RuntimeWarning)
            try:
                reads(case, path)
            except TrajWorldError as error:
                ended, said = "LINES" if "\n" in str(error) else "refused", str(error)
            except Exception as error:
                ended = "WRONG" if isinstance(error, AssertionError) else "TRACEBACK"
                said = f"{error!r} {traceback.extract_tb(error.__traceback__)[-4:]}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if number < 0:
            peak = now
            assert ended == "read", said
            continue
        left = any(".tmp" in one.name for one in case.rglob(".*"))
        faults = {"WARNED": warned, "MEMORY": now - peak > MEMORY, "OUTSIDE": outside, "LEFTOVERS": left}
        ended = next((fault for fault, there in faults.items() if there), ended)
        said = f"{said} {outside} {[str(one.message) for one in warned]}"[:1500] if ended.isupper() else ""
        told = {"reader": reader, "file": f"{number} {path.name}", "ended": ended, "said": said}
        print(json.dumps(told), flush=True)


def read_all(folder: Path, seed: int, counts: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """How each of some readers' files ended, one after another, by as many workers as it takes."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in counts}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "KERAS_BACKEND": "jax",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    kept = "MPLCONFIGDIR", "TMPDIR", "JAX_COMPILATION_CACHE_DIR"
    environment |= dict.fromkeys(kept, str(folder / "tmp"))
    words = [sys.executable, __file__, "--worker", folder, folder / "-".join(("case", *counts)), str(seed)]

    def left() -> list[tuple[str, int, int]]:
        return [(name, len(found[name]), count) for name, count in counts.items() if len(found[name]) < count]

    while jobs := left():
        done = subprocess.run([*words, json.dumps(jobs)], capture_output=True, text=True, env=environment)
        for line in done.stdout.splitlines():
            one = json.loads(line)
            found[one.pop("reader")].append(one)
        if now := left():
            ended = (
                "HANG" if -done.returncode in (signal.SIGALRM, signal.SIGPROF) else f"ENDED {done.returncode}"
            )
            name, number, _ = now[0]
            found[name].append({"file": str(number), "ended": ended, "said": done.stderr[-1500:]})
    return found


def campaign(
    count: int, seed: int = 0, names: list[str] | None = None
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Mutate ``count`` files; how many of each reader ended in which way, and the faults."""
    from readers import CANARY, READERS

    chosen = {name: one for name, one in READERS.items() if name in (names or READERS)}
    total = sum(share for *_, share in chosen.values())
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        folder = Path(temporary)
        (folder / "tmp").mkdir()
        with h5py.File(folder / "outside.hdf5", "w") as file:
            file["observations"] = np.full((30, 3), CANARY, "f4")
        made: dict[Any, Path] = {}
        for name, (make, *_) in chosen.items():
            if make in made:
                shutil.copytree(made[make], folder / name)
                continue
            (folder / name).mkdir()
            make(folder / name)
            made[make] = folder / name
        counts = {name: max(1, round(count * share / total)) for name, (*_, share) in chosen.items()}
        # A process takes longer to import than to read a hundred files: two take all.
        halves = [dict(list(counts.items())[start::2]) for start in range(min(2, len(counts)))]
        ends = {
            name: one
            for half in pool.map(lambda half: read_all(folder, seed, half), halves)
            for name, one in half.items()
        }
        found = {name: ends[name] for name in chosen}
    faults = [
        f"{name} {one}" for name in found for one in found[name] if one["ended"] not in ("read", "refused")
    ]
    return {name: Counter(one["ended"] for one in ends) for name, ends in found.items()}, faults


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    os.environ.setdefault("KERAS_BACKEND", "jax")
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
        sys.exit()
    counts, faults = campaign(*map(int, [*sys.argv[1:3], *["2000", "0"][len(sys.argv) - 1 :]]), sys.argv[3:])
    for name, ended in counts.items():
        print(f"{name:12}", ", ".join(f"{number} {how}" for how, number in sorted(ended.items())))
    sys.exit("\n".join(faults))
