"""A mutation campaign: damaged files for every reader of outside files, each to end in a right result or in one line.

    python tests/campaigns/mutate.py [FILES [SEED [READER...]]]

Files are mutated as bytes and as what they hold. Worker processes read them, many each; what ends, hangs or stops a
worker is the fault of the file that it was reading.
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

SECONDS, MEMORY = 30, 1 << 30
OTHER_FILES = [b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n", gzip.compress(b"x" * 99)]
OTHER_FILES += [b"\x63" + bytes(7) + b'{"a": 1}', b"PK\x03\x04 archive/data.pkl", b"", b"\x89HDF\r\n\x1a\n"]
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
# By the ends of files' names: from bytes to dicts, lists and arrays, and back.
FORMATS = {
    ".json": (json.loads, lambda tree: json.dumps(tree).encode()),
    ".toml": (lambda data: tomllib.loads(data.decode()), lambda tree: tomli_w.dumps(tree).encode()),
    ".pkl": (pickle.loads, pickle.dumps),
    ".npz": (lambda data: dict(np.load(io.BytesIO(data))), lambda tree: packed(np.savez, **tree)),
    ".npy": (lambda data: np.load(io.BytesIO(data)), lambda tree: packed(np.save, tree)),
    ".jsonl": (
        lambda data: json.loads(b"[" + b",".join(data.splitlines()) + b"]"),
        lambda rows: b"".join(json.dumps(row).encode() + b"\n" for row in rows),
    ),
    ".csv": (
        lambda data: [line.split(",") for line in data.decode().splitlines()],
        lambda rows: "\n".join(",".join(map(str, row)) for row in rows).encode(),
    ),
}


def packed(save: Any, *values: Any, **named: Any) -> bytes:
    save(file := io.BytesIO(), *values, **named)
    return file.getvalue()


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    content, at = bytearray(data), rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0 | 1 if content:
            for place in (rng.randrange(len(content)) for _ in range(rng.choice((1, 1, 4, 64)))):
                content[place] ^= 1 << rng.randrange(8)
        case 2 | 3:
            del content[at : at + rng.choice((1, 7, 512, len(content)))]
        case 4:
            content[at:at] = rng.choice((data, *INSERTED))
        case _:
            return rng.choice(OTHER_FILES)
    return bytes(content)


def mutate_array(array: Any, rng: random.Random) -> Any:
    array = np.array(array)
    if array.dtype.kind == "f" and array.size and rng.random() < 0.3:
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e39, -1e30, 0))
        return array
    flat = array.reshape(-1)
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
        for key, child in list(node.items() if isinstance(node, dict) else enumerate(node)):
            places.append((node, key))
            waiting += [child] if isinstance(child, dict | list) else []
    if isinstance(tree, np.ndarray) or not places:
        places = [(holder, "")]
    node, key = rng.choice(places)
    action = rng.randrange(5) if node is not holder else 4
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[rng.choice((f"{key}_", f"../{key}", "x"))] = node.pop(key)
    elif isinstance(node[key], np.ndarray):
        node[key] = mutate_array(node[key], rng)
    elif action == 2 and isinstance(node[key], int | float):
        node[key] = rng.choice((node[key] + 1, -node[key], node[key] * 10, float(node[key]), str(node[key])))
    else:
        node[key] = rng.choice(ODD)
    return holder[""]


def mutate_hdf5(data: bytes, rng: random.Random) -> bytes:
    """An array or group removed, renamed, replaced or changed; links to elsewhere included."""
    names: list[str] = []
    with h5py.File(image := io.BytesIO(data), "r+") as file:
        file.visit(names.append)
        name = rng.choice(names)
        item, action = file[name], rng.randrange(5)
        links = [h5py.ExternalLink("../outside.hdf5", "observations"), h5py.SoftLink("/x")]
        array = mutate_array(item[()], rng) if isinstance(item, h5py.Dataset) else np.zeros(3)
        del file[name]
        if action:
            file[f"{name}_" if action == 1 else name] = rng.choice(links) if action == 2 else array
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
    suffix = Path(name).suffix
    with contextlib.suppress(TypeError, ValueError, KeyError, OSError, OverflowError, AttributeError):
        if rng.random() < 0.6 and suffix in (".hdf5", ".h5", ".keras", *FORMATS):
            if suffix in FORMATS:
                read, write = FORMATS[suffix]
                return write(mutate_tree(read(data), rng))
            return (mutate_archive if suffix == ".keras" else mutate_hdf5)(data, rng)
    return mutate_bytes(data, rng)


def files(folder: Path, patterns: str) -> list[Path]:
    return sorted(path for one in patterns.split() for path in folder.glob(one) if path.is_file())


def worker(reader: str, folder: Path, seed: int, first: int, last: int) -> None:
    """Mutate and read the files of some numbers, and print how each ended."""
    from readers import READERS

    from trajworld.errors import TrajWorldError

    (_, patterns, reads, _), case, outside = READERS[reader], folder / f"{reader}-case", list[str]()
    allowed = (str(case), str(folder / "tmp"), "/dev/")

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

    def read(number: int | None, path: Path) -> tuple[str, str]:
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(folder / reader, case)
        os.chdir(case)
        if number is not None:
            path.write_bytes(mutate(path.name, path.read_bytes(), random.Random(f"{seed} {reader} {number}")))
        outside.clear()
        warned: list[Any] = []
        try:
            signal.alarm(SECONDS)
            with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("always", RuntimeWarning)
                reads(case, path)
            ended, said = "read", ""
        except TrajWorldError as error:
            ended, said = "LINES" if "\n" in str(error) else "refused", str(error)
        except Exception as error:
            ended = "WRONG" if isinstance(error, AssertionError) else "TRACEBACK"
            said = f"{error!r} {traceback.extract_tb(error.__traceback__)[-4:]}"
        signal.alarm(0)
        if number is not None and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before > MEMORY:
            ended = "MEMORY"
        if outside or any(".tmp" in left.name for left in case.rglob(".*")):
            ended, said = "OUTSIDE", f"{said} {outside}"
        noise = [str(one.message) for one in warned if issubclass(one.category, RuntimeWarning)]
        return ("WARNED", f"{said} {noise}") if noise else (ended, said)

    os.environ |= {
        "HOME": str(case),
        "MINARI_DATASETS_PATH": f"{case}/minari",
        "TRAJWORLD_HOME": f"{case}/home",
    }
    shutil.copytree(folder / reader, case)
    paths = files(case, patterns)
    # Undamaged, each is read; what is compiled and imported is there.
    assert all(ended := [read(None, path) == ("read", "") for path in paths]), ended
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.addaudithook(watch)
    for number in range(first, last):
        path = random.Random(number).choice(paths)
        ended, said = read(number, path)
        print(json.dumps({"file": f"{number} {path.name}", "ended": ended, "said": said[:1500]}), flush=True)


def read_all(reader: str, folder: Path, seed: int, count: int) -> list[dict[str, Any]]:
    """How each of a reader's files ended, by as many workers as it takes."""
    found: list[dict[str, Any]] = []
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder / "tmp"),
        "KERAS_BACKEND": "jax",
    }
    environment |= {"MPLCONFIGDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    while len(found) < count:
        numbers = [str(seed), str(len(found)), str(count)]
        command = [sys.executable, __file__, "--worker", reader, str(folder), *numbers]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        found += (fresh := [json.loads(line) for line in done.stdout.splitlines()])
        if len(found) < count:
            ended = {-signal.SIGALRM: "HANG"}.get(done.returncode, f"ENDED {done.returncode}")
            found.append({"file": str(len(found)), "ended": ended, "said": done.stderr[-1500:]})
        if not fresh and done.returncode > 0:
            break
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
        for name, one in chosen.items():
            (folder / name).mkdir()
            one[0](folder / name)
        tasks = {
            name: pool.submit(read_all, name, folder, seed, max(1, round(count * one[-1] / total)))
            for name, one in chosen.items()
        }
        found = {name: task.result() for name, task in tasks.items()}
    faults = [
        f"{name} {one}" for name in found for one in found[name] if one["ended"] not in ("read", "refused")
    ]
    return {name: Counter(one["ended"] for one in ends) for name, ends in found.items()}, faults


if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parents[1]))
    os.environ.setdefault("KERAS_BACKEND", "jax")
    words = sys.argv[1:]
    if words[:1] == ["--worker"]:
        worker(words[1], Path(words[2]), *map(int, words[3:]))
    else:
        counts, faults = campaign(*map(int, [*words[:2], *["2000", "0"][len(words) :]]), words[2:])  # type: ignore[arg-type]
        for name, ended in counts.items():
            print(f"{name:12}", ", ".join(f"{number} {how}" for how, number in sorted(ended.items())))
        sys.exit("\n".join(faults))
