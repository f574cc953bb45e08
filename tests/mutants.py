"""Damaged and hostile images, codes files and models, by the thousand.

`python mutants.py KIND SECONDS SEED N [FIRST]` prints a line of JSON with its counts.
Each mutant is read in a fork that reads many; where one ends its fork by a signal, or
takes more than five seconds, that is counted and the next fork goes on behind it.
"""

import functools
import io
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import make_golden
import make_golden_model
import numpy as np
from PIL import Image

from featpipe import codes, images
from featpipe.codes import CodesError, block
from featpipe.images import ImageError
from featpipe.predictor import storing

BATCH = 500
LIMIT = 5  # seconds a mutant
MEMORY = 2**30  # bytes more than the process has at the start
CODES = make_golden.GOLDEN.read_bytes()
GOLDEN_MODEL = make_golden_model.GOLDEN[max(make_golden_model.GOLDEN)]
MODEL = GOLDEN_MODEL.read_bytes()
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")


def damaged(rng: np.random.Generator, whole: bytes, first: int = 0) -> bytes:
    """Flip, overwrite, zero, cut, splice or lengthen; nothing before ``first``."""
    raw, kind = bytearray(whole), rng.integers(8)
    n = len(raw)
    at = int(rng.integers(first, n))
    stop = min(n, at + int(rng.integers(1, 64)))
    if kind <= 2:
        for _ in range((1, 4, 20)[kind]):
            raw[int(rng.integers(first, n))] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        for _ in range(int(rng.integers(1, 5))):
            raw[int(rng.integers(first, n))] = int(rng.choice([0, 1, 127, 128, 255]))
    elif kind == 4:
        raw[at:stop] = bytes(stop - at)
    elif kind == 5:
        raw[at:stop] = rng.bytes(stop - at)
    elif kind == 6:
        other = int(rng.integers(first, n))
        raw[at:stop] = raw[other : other + stop - at].ljust(stop - at, b"\0")
    else:
        width = int(rng.choice([1, 2, 4, 8]))
        value = rng.choice([0, 1, 2**7, 2**15, 2**31 - 1, 2**63 - 1, 2**64 - 1])
        raw[at : at + width] = (int(value) % 256**width).to_bytes(width, "little")
        raw = raw[:n]
    return bytes(raw)


class Kind(NamedTuple):
    """How a mutant is made, and what becomes of reading it."""

    make: Callable[[np.random.Generator], bytes]
    read: Callable[[bytes, Path], str]


def codes_mutant(rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        at = int(rng.integers(len(CODES)))
        return CODES[:at] if rng.random() < 0.1 else damaged(rng, CODES)
    facts = json.loads(CODES[len(block.MAGIC) :].split(b"\n")[0])
    file = io.BytesIO(damaged(rng, CODES, facts["room"])[: len(CODES)])
    block.seal(file, facts["room"], facts["payload"])
    return file.getvalue()


def reading_of(path: Path) -> list[Any]:
    found = codes.verify(path)
    said = [found.paths, found.failures, found.notes, found.class_names]
    said += [found.provenance, found.splits.tolist(), found.labels.tolist()]
    said += [found.sha256.tobytes(), found.images_root, found.groups.tolist()]
    return said + [found.rows(spec, 0, len(found)).tobytes() for spec in found.depths]


@functools.cache
def whole_codes() -> list[Any]:
    return reading_of(make_golden.GOLDEN)


def read_codes(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    try:
        now = reading_of(path)
    except CodesError as error:
        return "refused" if str(path) in str(error) else f"without its path: {error}"
    if now == whole_codes():
        return "read identically"
    # Its author has sealed it, and it is laid out as a codes file.
    sealed = content[: 2**9] != CODES[: 2**9]
    return "another sound file, sealed" if sealed else "silently wrong"


def sealed_model(rng: np.random.Generator) -> bytes:
    """Change the record or the tensors, and make the digest right again."""
    length = int.from_bytes(MODEL[:8], "little")
    header, data = json.loads(MODEL[8 : 8 + length]), MODEL[8 + length :]
    said = header["__metadata__"]
    if rng.random() < 0.7:
        record = damaged(rng, said["record"].encode())
        said["record"] = record.decode("utf-8", "replace")
    else:
        data = damaged(rng, data)[: len(data)].ljust(len(data), b"\0")
    kinds = {"F64": "f8", "F32": "f4", "I64": "i8", "F16": "f2", "U8": "u1"}
    arrays = {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], kinds[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }  # fmt: skip
    said["sha256"] = storing._digest(said["record"], arrays)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def model_mutant(rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        return damaged(rng, MODEL)
    return sealed_model(rng)


def model_of(path: Path) -> list[Any]:
    model = storing.read(path)
    return [model.as_record(), model.coef.tobytes(), model.intercept.tobytes()]


@functools.cache
def whole_model() -> list[Any]:
    return model_of(GOLDEN_MODEL)


def read_model(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    try:
        now = model_of(path)
    except ValueError as error:
        return "refused" if str(path) in str(error) else f"without its path: {error}"
    if now == whole_model():
        return "read identically"
    sealed = b"sha256" in content and content[-200:] != MODEL[-200:]
    sealed = sealed or content[:8] != MODEL[:8] or content[8:400] != MODEL[8:400]
    return "another sound file, sealed" if sealed else "silently wrong"


def _pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    made = []
    for name in FORMATS:
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, name)
            made.append(file.getvalue())
    for mode, name in (
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("I;16", "TIFF"),
        ("CMYK", "JPEG"),
    ):
        file = io.BytesIO()
        Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(
            mode
        ).save(file, name)
        made.append(file.getvalue())
    return made


PICTURES: list[bytes] = []


def image_mutant(rng: np.random.Generator) -> bytes:
    whole = PICTURES[int(rng.integers(len(PICTURES)))]
    if rng.random() < 0.15:
        return whole[: int(rng.integers(len(whole)))]
    return damaged(rng, whole)


def read_image(content: bytes, path: Path) -> str:
    try:
        image = images.decode(content, target=8).image
    except ImageError as error:
        told = error.stage == "decode" and error.reason and "\n" not in error.reason
        return "refused" if told else f"a failure that tells little: {error}"
    assert image.mode == "RGB"
    image.load()
    return "decoded"


KINDS = {
    "codes": Kind(codes_mutant, read_codes),
    "models": Kind(model_mutant, read_model),
    "images": Kind(image_mutant, read_image),
}


def _read_some(kind: Kind, seed: int, start: int, stop: int, pipe: int) -> None:
    """Read mutants in this process, telling each outcome; the alarm ends it."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else ".") / f"m{os.getpid()}"
    for k in range(start, stop):
        signal.alarm(LIMIT)
        try:
            outcome = kind.read(kind.make(np.random.default_rng([seed, k])), path)
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:200]
        os.write(pipe, outcome.replace("\n", " ").encode() + b"\n")
    path.unlink(missing_ok=True)


def count(
    name: str, seconds: float, seed: int, n: int, first: int = 0
) -> dict[str, Any]:
    """Read up to ``n`` mutants in so many seconds; return what was counted."""
    kind, end, k, last = KINDS[name], time.monotonic() + seconds, first, first + n
    outcomes: Counter[str] = Counter()
    if name == "images":
        PICTURES[:] = _pictures()
    else:  # read once, and not in every fork
        whole_codes() if name == "codes" else whole_model()
    while k < last and time.monotonic() < end:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _read_some(kind, seed, k, min(last, k + BATCH), writer)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            lines = pipe.read().splitlines()
        outcomes.update(lines)
        k += len(lines)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            Path(f"/dev/shm/m{child}").unlink(missing_ok=True)
            number = os.WTERMSIG(status)
            hung = number == signal.SIGALRM
            outcomes["over 5 s" if hung else f"signal {number}"] += 1
            print(f"{name} seed {seed} mutant {k}: signal {number}", file=sys.stderr)
            k += 1
    return {"kind": name, "seed": seed, "n": k - first, "outcomes": dict(outcomes)}


def main() -> None:
    name, seconds, *numbers = sys.argv[1:]
    warnings.simplefilter("ignore")  # Pillow's, about EXIF and TIFF tags
    print(json.dumps(count(name, float(seconds), *map(int, numbers))))


if __name__ == "__main__":
    main()
