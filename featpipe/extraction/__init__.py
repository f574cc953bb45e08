"""Run images through a backbone into a codes file: resumable and incremental.

`extract` runs a `job`: it decides which codes are missing, plans their computation,
runs the plan through `inference` into part files, in this process or in several, and
has `codes` make the final file. Knows nothing of classifiers.

| module | what lives there |
|---|---|
| `job` | one extraction from beginning to end |
| `existing` | the codes file from before |
| `update_plan` | which of its rows are kept, and which images are computed |
| `plan` | the work in slices and batches, the same however often it stops |
| `shards` | ``--shard``: a part of the work for a machine of its own |
| `cost` | ``--plan``: time, disk and memory |
| `runner` | a plan run in this process |
| `tasks`, `distributed` | a slice for another process; a plan shared among many |
| `parts`, `contents` | part files: their names, and the rows in each |
| `tables` | everything in the final file beside the codes |
"""

import os
import warnings
from collections.abc import Callable, Sequence

from featpipe import images
from featpipe.codes import Codes
from featpipe.extraction.cost import Cost
from featpipe.extraction.job import Extraction
from featpipe.extraction.parts import Parts
from featpipe.extraction.update_plan import UpdatePlan
from featpipe.files import LockedError, belongs_to
from featpipe.inference import (
    Machine,
    Progress,
    Recipe,
    Source,
    image_set_of,
    require_different_paths,
)
from featpipe.parallel import Jobs, as_jobs

__all__ = ["Cost", "Extraction", "LockedError", "Parts", "UpdatePlan", "extract"]


def extract(
    source: Source,
    path: str | os.PathLike[str],
    *,
    backbone: str = "resnet50",
    weights: str | None = None,
    depth: str | Sequence[str] = "penultimate",
    device: str = "auto",
    precision: str = "auto",
    decoding: str = "auto",
    value_range: str | tuple[float, float] = "file",
    max_pixels: int | None = images.MAX_PIXELS,
    dtype: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    input_size: int | None = None,
    resize: int | None = None,
    crop: int | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    hflip: bool = False,
    allow_random: bool = False,
    unlabelled: bool = False,
    limit: int | None = None,
    on_error: str = "skip",
    shard: tuple[int, int] | None = None,
    jobs: int | Jobs | None = None,
    overwrite: bool = False,
    break_lock: bool = False,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Codes:
    """Run images through a frozen network and keep the codes in a file.

    A second call goes on where the first was stopped, and computes only images that
    were added or changed, and new depths. Codes belong to the content of an image, not
    to its name; labels, splits and groups are always those of ``source``.

    Parameters
    ----------
    source : path, str or ImageSet, or images
        Folder, CSV or TSV, ``.zip`` or ``.tar``, ``torchvision:NAME?root=…``; or a
        list or Series of paths, a pandas frame with ``path[,label][,split][,group]``,
        a torchvision ``ImageFolder``, PIL images, arrays, pairs (name, bytes). Rows
        then have the order of the images, without those that failed.
    path : path
        The codes file.
    backbone : str
        A torchvision network, ``mini``, ``timm:NAME`` or ``package.module:callable``.
    weights : str, optional
        An entry of the network, ``"DEFAULT"``, ``"none"`` (random, seeded) or a file.
        Default: ``IMAGENET1K_V1`` where there is one.
    depth : str or sequence of str
        ``NODE[:POOL]``; default the penultimate depth.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision : str
        ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``; auto is the file's where
        there is one, else bf16 where the processor multiplies it.
    decoding : str
        ``"exact"``; ``"scaled"``, which decodes large JPEGs at 1/2, 1/4 or 1/8, never
        below three times the size needed, and moves codes about as much as bf16 does;
        or ``"auto"``: the file's where there is one, else exact with fp32 and scaled
        otherwise.
    value_range : str or (low, high)
        The values of images of more than 8 bits that become black and white:
        ``"file"``, 0 and the largest that the bits can hold; ``"auto"``, the lowest and
        the highest of each image; ``"LO:HI"`` or ``(LO, HI)``, as ``(0, 4095)`` for 12
        bits in 16. Images that leave much of their range empty are noted.
    max_pixels : int, optional
        Width times height of the largest image that is decoded; larger ones fail.
        None: no limit. Default: 89,478,485. A run with a higher limit computes the
        images that failed by it.
    dtype : str, optional
        ``"float32"`` or ``"float16"``, as stored; default that of the file, else
        float32.
    batch_size : int, optional
        Images that go through the network together. Default: the fastest size in a
        trial, with which runs of over half a minute begin; else on the CPU as many as
        its cache holds, 4 of 224 px and 32 at most, and on a GPU 128. At most a slice
        of the list: 128, or 512 beyond 10,000 images.
    workers : int, optional
        Number of images that are read and decoded at once; default one a processor. Up
        to four are threads; more are processes, from 500 images on.
    input_size, resize, crop : int, optional
        Pixels; override the preprocessing that belongs to the weights.
    interpolation : str, optional
        ``"bilinear"``, ``"bicubic"``, …
    mean, std : sequence of 3 float, optional
        Of the channels, in units of the range 0 to 1.
    hflip : bool
        Average the codes of each image and its mirror image.
    allow_random : bool
        Accept a network whose codes depend on more than their image (dropout in its
        forward, batch norm without statistics). The file records why.
    unlabelled : bool
        Take no labels and splits from the names of folders.
    limit : int, optional
        At most so many images, spread over the classes.
    on_error : str
        ``"skip"`` lists an image that fails in the file; ``"fail"`` raises.
    shard : (i, n), optional
        Only the i-th of n parts of the work; `featpipe.merge` puts them together.
    jobs : int or Jobs, optional
        Processes that share the work: a number of them on this machine, or those of a
        cluster (`featpipe.parallel.Jobs`). Each loads the network once. Default: this
        process.
    overwrite : bool
        Whether to compute all codes anew and replace the file.
    break_lock : bool
        Take over the lock of another process.
    seed : int
        Of random weights.
    progress : callable, optional
        Called with a `Progress` every few images, and at the end.

    Returns
    -------
    Codes
        If there was nothing to do, ``is_checked`` is False: the codes have not been
        read, which takes a second a gigabyte. All functions that learn from them
        (`compare`, `fit`, `finetune`, …) check them first.

    Raises
    ------
    CodesError
        If the file was made with another backbone, weights, preprocessing, decoding
        or precision, or is damaged.
    LockedError
        If another process is making the file.
    ValueError
        If an option does not fit, not one image gave a code, or, with
        ``on_error="fail"``, for the first image that fails.
    FileNotFoundError
        If there is no such source or weights file.
    OSError
        If the file cannot be written, or no scheduler or worker answers.
    RuntimeError
        If workers have other versions than this process, do not see the folder of the
        codes file, or die again and again.

    Examples
    --------
    >>> import featpipe
    >>> codes = featpipe.extract("flowers/test", "test.h5", backbone="mini")
    >>> X, y = codes.arrays("penultimate")
    >>> X.shape, y.shape, codes.class_names
    ((12, 384), (12,), ['daisy', 'rose', 'tulip'])
    """
    # Checked before the images are listed, which may take minutes.
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        depths=(depth,) if isinstance(depth, str) else depth,
        precision=precision,
        decoding=decoding,
        value_range=value_range,
        max_pixels=max_pixels,
        dtype=dtype,
        hflip=hflip,
        seed=seed,
        input_size=input_size,
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        mean=mean,
        std=std,
        allow_random=allow_random,
    )
    job = Extraction(
        recipe,
        # Rows are found again by their path, so that two rows cannot share one. The
        # codes file may lie inside the folder of images.
        require_different_paths(
            image_set_of(
                source, unlabelled=unlabelled, limit=limit, ignore=belongs_to(path)
            )
        ),
        path,
        Machine(device, batch_size, workers),
        on_error=on_error,
        shard=shard,
        jobs=as_jobs(jobs),
        progress=progress,
    )
    codes = job.run(overwrite=overwrite, break_lock=break_lock)
    # One warning for all images, not one for each.
    notes = (note for *_, note in codes.notes)
    if text := images.describe_values(notes, recipe.value_range):
        warnings.warn(f"{codes.path}: {text}", UserWarning, stacklevel=2)
    return codes
