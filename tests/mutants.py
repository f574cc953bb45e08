"""Damaged and hostile images, codes files and models, by the thousand.

`python mutants.py KIND SECONDS SEED N [FIRST]` prints a line of JSON with its counts.
Each mutant is read in a fork that reads many. Where one ends its fork by a signal, that
is counted, and the next fork goes on behind it. One that takes more than five seconds
by the clock is tried again, alone in its fork, for a busy machine may have stood still:
it counts as one over 5 s if it then takes as long of a processor's time, or has not
ended in a minute.
"""

import functools
import gc
import io
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
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
PATIENCE = 60  # seconds by the clock for one that is tried again
MEMORY = 2**30  # bytes more than the process has at the start
GOOD = ("refused", "read identically", "another sound file", "decoded")
CODES = make_golden.GOLDEN.read_bytes()
GOLDEN_MODEL = make_golden_model.GOLDEN[max(make_golden_model.GOLDEN)]
MODEL = GOLDEN_MODEL.read_bytes()
# Values of another type or size than a record has.
ODD = (b"null", b"true", b"-1", b"0", b"1e308", b"1e999", b"[]", b"{}", b'""', b"[[1]]",
       b'"../x"', b"9" * 40, b'{"a":1}', b"NaN", b'"\\u0000"')  # fmt: skip
# A value in JSON: a text, a number or a word, behind a colon, a comma or a bracket.
VALUE = re.compile(rb'(?<=[:,\[ ])("[^"\\]*"|-?[0-9.][0-9.eE+-]*|true|false|null)')


def damaged(
    rng: np.random.Generator, whole: bytes, places: np.ndarray | None = None
) -> bytes:
    """Flip, overwrite, zero, cut, splice or lengthen, at some of the places."""
    raw, kind, n = bytearray(whole), rng.integers(8), len(whole)

    def place() -> int:
        if places is None:
            return int(rng.integers(n))
        return int(places[rng.integers(len(places))])

    at = place()
    stop = min(n, at + int(rng.integers(1, 64)))
    if kind <= 2:
        for _ in range((1, 4, 20)[kind]):
            raw[place()] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        for _ in range(int(rng.integers(1, 5))):
            raw[place()] = int(rng.choice([0, 1, 127, 128, 255]))
    elif kind == 4:
        raw[at:stop] = bytes(stop - at)
    elif kind == 5:
        raw[at:stop] = rng.bytes(stop - at)
    elif kind == 6:
        other = place()
        raw[at:stop] = raw[other : other + stop - at].ljust(stop - at, b"\0")
    else:
        width = int(rng.choice([1, 2, 4, 8]))
        value = rng.choice([0, 1, 2**7, 2**15, 2**31 - 1, 2**63 - 1, 2**64 - 1])
        raw[at : at + width] = (int(value) % 256**width).to_bytes(width, "little")
        raw = raw[:n]
    return bytes(raw)


def with_odd_value(rng: np.random.Generator, record: bytes, same_length: bool) -> bytes:
    """Put something of another type in the place of one value of a JSON text."""
    items = list(VALUE.finditer(record))
    old = items[int(rng.integers(len(items)))]
    new = ODD[int(rng.integers(len(ODD)))]
    if same_length:
        room = old.end() - old.start()
        new = new.ljust(room) if len(new) <= room else b"0".ljust(room)
    return record[: old.start()] + new + record[old.end() :]


class Mutant(NamedTuple):
    """The bytes of a file, and of what sort it is: sealed or plain, or its format."""

    sort: str
    content: bytes


class Kind(NamedTuple):
    """How a mutant is made, and what becomes of reading it."""

    make: Callable[[np.random.Generator], Mutant]
    read: Callable[[Mutant, Path], str]


@functools.cache
def places_of_codes() -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return what the first block tells, all places behind it, and those not zero."""
    facts = json.loads(CODES[len(block.MAGIC) :].split(b"\n")[0])
    behind = np.arange(facts["room"], len(CODES))
    return facts, behind, behind[np.frombuffer(CODES, "u1")[behind] > 0]


def codes_mutant(rng: np.random.Generator) -> Mutant:
    if rng.random() < 0.5:
        at = int(rng.integers(len(CODES)))
        return Mutant(
            "plain", CODES[:at] if rng.random() < 0.1 else damaged(rng, CODES)
        )
    facts, behind, used = places_of_codes()
    if rng.random() < 0.2:
        start = CODES.index(b'{"', facts["room"])
        stop = CODES.index(b"}", CODES.rindex(b'"weights_sha256"')) + 1
        record = with_odd_value(rng, CODES[start:stop], same_length=True)
        raw = CODES[:start] + record + CODES[stop:]
    else:
        raw = damaged(rng, CODES, used if rng.random() < 0.7 else behind)[: len(CODES)]
    file = io.BytesIO(raw)
    block.seal(file, facts["room"], facts["payload"])
    return Mutant("sealed", file.getvalue())


def reading_of(path: Path) -> list[Any]:
    file = codes.verify(path)
    lines = [file.paths, file.failures, file.notes, file.class_names]
    lines += [file.provenance, file.splits.tolist(), file.labels.tolist()]
    lines += [file.sha256.tobytes(), file.images_root, file.groups.tolist()]
    return lines + [file.rows(spec, 0, len(file)).tobytes() for spec in file.depths]


@functools.cache
def whole_codes() -> list[Any]:
    return reading_of(make_golden.GOLDEN)


def judged(
    mutant: Mutant, path: Path, read: Callable[[Path], object], whole: object
) -> str:
    """Read a mutant from a file; tell what came of it."""
    path.write_bytes(mutant.content)
    try:
        now = read(path)
    except ValueError as error:
        return "refused" if str(path) in str(error) else f"without its path: {error}"
    if now == whole:
        return "read identically"
    # Its author has sealed it, and it is laid out as such a file is.
    return "another sound file" if mutant.sort == "sealed" else "silently wrong"


def read_codes(mutant: Mutant, path: Path) -> str:
    def read(path: Path) -> list[Any]:
        try:
            return reading_of(path)
        except CodesError:
            raise
        except ValueError as error:
            raise TypeError(f"a ValueError that is no CodesError: {error}") from error

    return judged(mutant, path, read, whole_codes())


def sealed_model(rng: np.random.Generator) -> bytes:
    """Change the record or the tensors, and make the digest right again."""
    length = int.from_bytes(MODEL[:8], "little")
    header, data = json.loads(MODEL[8 : 8 + length]), MODEL[8 + length :]
    document = header["__metadata__"]
    draw = rng.random()
    if draw < 0.4:
        record = with_odd_value(rng, document["record"].encode(), same_length=False)
        document["record"] = record.decode("utf-8", "replace")
    elif draw < 0.7:
        record = damaged(rng, document["record"].encode())
        document["record"] = record.decode("utf-8", "replace")
    else:
        data = damaged(rng, data)[: len(data)].ljust(len(data), b"\0")
    kinds = {"F64": "f8", "F32": "f4", "I64": "i8", "F16": "f2", "U8": "u1"}
    arrays = {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], kinds[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }  # fmt: skip
    document["sha256"] = storing._digest(document["record"], arrays)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def model_mutant(rng: np.random.Generator) -> Mutant:
    if rng.random() < 0.5:
        return Mutant("plain", damaged(rng, MODEL))
    return Mutant("sealed", sealed_model(rng))


def model_of(path: Path) -> list[Any]:
    model = storing.read_model(path)
    return [model.as_record(), model.coef.tobytes(), model.intercept.tobytes()]


@functools.cache
def whole_model() -> list[Any]:
    return model_of(GOLDEN_MODEL)


def read_model(mutant: Mutant, path: Path) -> str:
    return judged(mutant, path, model_of, whole_model())


def encoded(mode: str, name: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    image = Image.fromarray(pixels)
    image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    if options.get("save_all"):
        options["append_images"] = [image.rotate(180)]
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


@functools.cache
def pictures() -> list[tuple[str, bytes]]:
    """Draw one small image in every format that is decoded, and in their variants."""
    upright = Image.Exif()
    upright[0x0112] = 6
    variants: list[tuple[str, str, dict[str, Any]]] = [
        (mode, name, {})
        for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM",
                     "JPEG2000")
        for mode in ("RGB", "L")
    ]  # fmt: skip
    variants += [
        ("RGB", "MPO", {"save_all": True}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "exif": upright}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("I;16", "PNG", {}),
        ("1", "BMP", {}),
        ("P", "BMP", {}),
        ("RGB", "GIF", {"save_all": True}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGB", "WEBP", {"save_all": True}),
        ("I;16", "TIFF", {}),
        ("F", "TIFF", {}),
        ("RGB", "TIFF", {"save_all": True}),
        *(("RGB", "TIFF", {"compression": packed})
          for packed in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
        ("1", "TIFF", {"compression": "group4"}),
        ("1", "PPM", {}),
        ("RGBA", "JPEG2000", {}),
        ("RGBA", "AVIF", {}),
    ]  # fmt: skip
    return [(name, encoded(mode, name, **options)) for mode, name, options in variants]


def image_mutant(rng: np.random.Generator) -> Mutant:
    name, whole = pictures()[int(rng.integers(len(pictures())))]
    if rng.random() < 0.15:
        return Mutant(name, whole[: int(rng.integers(len(whole)))])
    return Mutant(name, damaged(rng, whole))


def read_image(mutant: Mutant, path: Path) -> str:
    # Half of them for a small network, so that JPEG's own scaling is in it too.
    target = 8 if len(mutant.content) % 2 else None
    try:
        image = images.decode(mutant.content, target=target).image
    except ImageError as error:
        outcome = error.stage == "decode" and error.reason and "\n" not in error.reason
        return "refused" if outcome else f"a failure that tells little: {error}"
    assert image.mode == "RGB"
    image.load()
    return "decoded"


KINDS = {
    "codes": Kind(codes_mutant, read_codes),
    "models": Kind(model_mutant, read_model),
    "images": Kind(image_mutant, read_image),
}


def _read_some(
    kind: Kind, seed: int, start: int, stop: int, pipe: int, clock: float
) -> None:
    """Read mutants in this process, telling each outcome; an alarm ends it.

    One is at so many seconds by the clock, the other at `LIMIT` of a processor's time.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    path = _file_of(os.getpid())
    for k in range(start, stop):
        mutant = kind.make(np.random.default_rng([seed, k]))
        signal.setitimer(signal.ITIMER_REAL, clock)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            outcome = kind.read(mutant, path)
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:200]
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        outcome = " ".join(outcome.split())
        os.write(pipe, f"{mutant.sort}\t{outcome}\n".encode())


def _file_of(process: int) -> Path:
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() else Path(tempfile.gettempdir())
    return folder / f"mutant-{process}"


def _in_a_fork(
    kind: Kind, seed: int, start: int, stop: int, clock: float
) -> tuple[list[str], int]:
    """Read mutants in a fork; return what it told, and the signal that ended it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _read_some(kind, seed, start, stop, writer, clock)
            os._exit(0)
        finally:  # never on with what the parent does
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    status = os.waitpid(child, 0)[1]
    _file_of(child).unlink(missing_ok=True)
    if os.WIFSIGNALED(status):
        return lines, os.WTERMSIG(status)
    assert status == 0, f"the harness itself failed, at or behind mutant {start}"
    return lines, 0


def _again(kind: Kind, seed: int, k: int) -> str:
    """Read one mutant alone that took too long; return what comes of it."""
    outcomes, number = _in_a_fork(kind, seed, k, k + 1, PATIENCE)
    if outcomes:
        return outcomes[0]
    slow = number in (signal.SIGALRM, signal.SIGPROF)
    name = f"over {LIMIT:g} s" if slow else f"signal {number}"
    return f"{kind.make(np.random.default_rng([seed, k])).sort}\t{name}"


def count(
    name: str, seconds: float, seed: int, n: int, first: int = 0
) -> dict[str, Any]:
    """Read up to ``n`` mutants in so many seconds; return what was counted."""
    kind, end, k, last = KINDS[name], time.monotonic() + seconds, first, first + n
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    slow = 0
    # Made once, and not in every fork.
    {"images": pictures, "codes": whole_codes, "models": whole_model}[name]()
    while k < last and time.monotonic() < end:
        lines, number = _in_a_fork(kind, seed, k, min(last, k + BATCH), LIMIT)
        if number in (signal.SIGALRM, signal.SIGPROF):
            slow += 1
            lines.append(_again(kind, seed, k + len(lines)))
        elif number:
            sort = kind.make(np.random.default_rng([seed, k + len(lines)])).sort
            lines.append(f"{sort}\tsignal {number}")
        for line in lines:
            sort, _, outcome = line.partition("\t")
            outcomes[sort][outcome] += 1
            if outcome not in GOOD:
                print(f"{name} seed {seed} mutant {k}: {outcome}", file=sys.stderr)
            k += 1
    counted = {sort: dict(each) for sort, each in outcomes.items()}
    facts = {"kind": name, "seed": seed, "n": k - first, "next": k, "tried_again": slow}
    return {**facts, "outcomes": counted}


def main() -> None:
    name, seconds, *numbers = sys.argv[1:]
    warnings.simplefilter("ignore")  # Pillow's, about EXIF and TIFF tags
    gc.freeze()  # or every fork copies what the collector touches
    print(json.dumps(count(name, float(seconds), *map(int, numbers))))


if __name__ == "__main__":
    main()
