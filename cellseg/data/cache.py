"""Keep cleaned and resized pairs in the user's cache folder, so that each data set is decoded once per machine.

The name of an entry is a hash of the files' content and of the settings. A changed file leads to a new entry; a moved
or renamed data set uses its old entry. An entry appears complete or not at all. The cache folder can be deleted: the
next run decodes the files again.
"""

import hashlib
import json
import logging
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cellseg.data.facts import PairFacts, Reading, inspect_pair
from cellseg.data.fit import THUMBNAIL, find_exchanged
from cellseg.data.images import resize_image
from cellseg.data.kinship import LIKENESS_BYTES, Chosen, Kin, Likeness, find_kin
from cellseg.data.masks import resize_ids, resize_mask
from cellseg.data.pairs import Pair
from cellseg.data.progress import with_progress
from cellseg.storage.errors import InputError
from cellseg.storage.files import new_folder, require_bounded

VERSION = 13  # increase it when decoding or the stored facts change: entries of other versions are not read
PARTS = ("images", "masks", "ids", "ignored", "looks", "small_masks")  # files of an entry, besides facts.json
AT_ONCE = 256  # pairs in memory at once: enough to keep all cores busy
REMEDY = "cellseg keeps decoded images there; free disk space, or set data.cache=PATH to a writable folder"

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class StoredRows(Sequence[NDArray[Any]]):
    """Read arrays, stored one after another, from a file on demand; the operating system caches them.

    The file is not memory-mapped: mapped pages count as memory of the process, and a truncated file would kill it.

    Args:
        path: The file.
        shapes: The shape of each array.
        kind: The type of their elements.
    """

    def __init__(self, path: Path, shapes: Sequence[tuple[int, ...]], kind: type[np.generic] = np.uint8) -> None:
        self._path, self._kind = path, np.dtype(kind)
        self._shapes = np.array(shapes)  # takes a fraction of a list of tuples
        self._starts = np.cumsum([0, *self._shapes.prod(axis=1)]) * self._kind.itemsize
        self._file = path.open("rb", buffering=0)  # stays open: another process may delete the entry
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, row: int) -> NDArray[Any]:  # type: ignore[override]  # slices are not needed
        pixels, start = np.empty(self._shapes[row], self._kind), int(self._starts[row])
        if hasattr(os, "preadv"):  # needs no file position, which forked processes share
            read = os.preadv(self._file.fileno(), [pixels.data], start) if pixels.size else 0
        else:
            self._file.seek(start)
            read = self._file.readinto(pixels.data) if pixels.size else 0
        if read != pixels.nbytes:
            raise InputError(
                f"{self._path} was truncated while in use; delete the folder {self._path.parent} and start again"
            )
        return pixels


@dataclass(frozen=True)
class DecodedPairs:
    """Every pair of a data set, cleaned, and resized if the settings say so.

    Attributes:
        pairs: Names, groups and files.
        facts: Measurements of each pair, in the order of ``pairs``.
        kin: Related images, by position in ``pairs``.
        exchanged: Images that fit the mask of another pair, and that pair, by position in ``pairs``.
        images: Rows of shape (C, S, S), or (C, H, W) if not resized, uint8.
        masks: Rows of shape (1, S, S) or (1, H, W), uint8, 0 or 1.
        ids: Numbers of the objects, rows of shape (S, S) or (H, W), int32; empty rows where labels do not number them.
        ignored: Rows of shape (1, S, S) or (1, H, W), uint8, 1 for pixels that nobody judged, which are 0 in ``masks``;
            empty rows where there are none.
        looks: The likeness of each image.
        row: The row of each pair in the others.
    """

    pairs: Sequence[Pair]
    facts: Sequence[PairFacts]
    kin: Sequence[Kin]
    exchanged: Sequence[tuple[int, int]]
    images: StoredRows
    masks: StoredRows
    ids: StoredRows
    ignored: StoredRows
    looks: "StoredLikenesses"
    row: Sequence[int]

    @property
    def fingerprint(self) -> str:
        """A hash of all content; it does not depend on folders, names or order."""
        lines = sorted(f"{facts.sha256} {facts.mask_sha256}" for facts in self.facts)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def likenesses(self) -> Sequence[Likeness]:
        """Thumbnail and sides of each image, to compare it with images of other data sets."""
        return Chosen(self.looks, self.row)

    def positions(self, names: Sequence[str]) -> list[int]:
        """Return the positions in ``pairs`` of the given names."""
        position = {pair.name: index for index, pair in enumerate(self.pairs)}
        return [position[name] for name in names]


class StoredLikenesses(Sequence[Likeness]):
    """Likenesses in a file, each read when it is needed: together those of 10,000 images take 110 MB.

    Args:
        path: The file, of ``Likeness.packed`` after each other.
        sizes: Width and height of each image.
    """

    def __init__(self, path: Path, sizes: Sequence[tuple[int, int]]) -> None:
        self._rows, self._sizes = StoredRows(path, [(LIKENESS_BYTES,)] * len(sizes)), sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Likeness:  # type: ignore[override]  # slices are not needed
        return Likeness.unpacked(self._rows[index], self._sizes[index])


def load_pairs(pairs: Sequence[Pair], how: Reading, folder: Path | None = None) -> DecodedPairs:
    """Return the decoded pairs from the cache; decode and store them first if it has no entry for these files.

    Args:
        pairs: Pairs to load.
        how: Threshold, channels, and the side in pixels to resize to, if any.
        folder: The cache folder; by default the user's.

    Raises:
        InputError: If a file cannot be used, or the cache cannot be written.
    """
    folder = folder or platformdirs.user_cache_path("cellseg")
    digests = list(in_parallel(_digest, pairs, "reading files"))
    order = sorted(range(len(pairs)), key=lambda index: digests[index])
    channels = len(how.channels or (0, 1, 2))
    settings = {
        "version": VERSION,
        "facts": [field.name for field in fields(PairFacts)],
        **{name: version(name) for name in ("pillow", "tifffile", "imagecodecs")},
        **asdict(how),
    }
    key = hashlib.sha256(json.dumps([settings, [digests[index] for index in order]]).encode()).hexdigest()
    entry = folder / key[:32]
    stored = _stored(entry)
    if stored is None:
        content = [pairs[index] for index in order], [digests[index] for index in order]
        stored = _build(entry, *content, how)
    count, position = len(pairs), dict(enumerate(order))
    row = [0] * count
    for number, index in enumerate(order):
        row[index] = number
    kin = [
        Kin(min(position[a], position[b]), max(position[a], position[b]), relation) for a, b, relation in stored["kin"]
    ]
    size = how.image_size
    # a list for each field, not a dict for each pair: a third of the memory
    columns = [stored["facts"][field.name] for field in fields(PairFacts)]
    known = [PairFacts(*values) for values in zip(*columns, strict=True)]
    sides = [(size, size) if size else (facts.height, facts.width) for facts in known]
    return DecodedPairs(
        pairs=pairs,
        facts=[known[number] for number in row],
        kin=sorted(kin, key=astuple),
        exchanged=sorted((position[a], position[b]) for a, b in stored["exchanged"]),
        images=StoredRows(entry / "images", [(channels, *side) for side in sides]),
        masks=StoredRows(entry / "masks", [(1, *side) for side in sides]),
        ids=StoredRows(
            entry / "ids",
            [side if facts.numbered else (0, 0) for side, facts in zip(sides, known, strict=True)],
            np.int32,
        ),
        ignored=StoredRows(
            entry / "ignored",
            [(1, *side) if facts.ignored else (0, 0, 0) for side, facts in zip(sides, known, strict=True)],
        ),
        looks=StoredLikenesses(entry / "looks", [(facts.width, facts.height) for facts in known]),
        row=row,
    )


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item], doing: str) -> Iterator[Result]:
    """Call the function on every item in threads, with a progress bar; yield the results in the order of the items."""
    # several items in a task: a task costs more than reading a small file
    some = max(1, min(16, len(items) // (4 * (os.cpu_count() or 1))))
    blocks = [items[start : start + some] for start in range(0, len(items), some)]
    at_once = max(1, AT_ONCE // some)

    def results() -> Iterator[Result]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(blocks), at_once):
                for block in pool.map(lambda block: [*map(function, block)], blocks[start : start + at_once]):
                    yield from block

    yield from with_progress(results(), doing, len(items))


def _digest(pair: Pair) -> str:
    """Return a hash of the bytes of a pair's files."""
    whole = hashlib.sha256()
    for path in pair.files:
        try:
            require_bounded(path, "a picture")
            if path in pair.ignored:
                whole.update(b"not judged")
            with path.open("rb", buffering=0) as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read as an image ({error.strerror or error}); fix the file or remove it"
            ) from error
    return whole.hexdigest()


def _stored(entry: Path) -> dict[str, Any] | None:
    """Return the facts of an entry; None if the entry is missing or incomplete."""
    try:
        stored: dict[str, Any] = json.loads((entry / "facts.json").read_text("utf-8"))
        sizes = {name: (entry / name).stat().st_size for name in PARTS}
        whole = sizes == stored["bytes"] and {"facts", "kin", "exchanged"} <= stored.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return stored if whole else None


def _build(entry: Path, pairs: Sequence[Pair], digests: Sequence[str], how: Reading) -> dict[str, Any]:
    """Write an entry; if another run is writing it, wait for that run instead."""
    lock = FileLock(entry.with_suffix(".lock"))
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another run is decoding the same images; waiting for it")
        lock.acquire()
    except OSError as error:
        raise InputError(f"{entry.parent} cannot be written ({error.strerror or error}); {REMEDY}") from error
    try:
        if stored := _stored(entry):
            return stored
        for left in (entry, *entry.parent.glob(f".{entry.name}-*")):  # damaged, or left by a killed run
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        return _write(entry, pairs, digests, how)
    finally:
        lock.release()


def _write(entry: Path, pairs: Sequence[Pair], digests: Sequence[str], how: Reading) -> dict[str, Any]:
    size = how.image_size

    def read(item: tuple[Pair, str]) -> tuple[list[bytes], PairFacts]:
        pair, digest = item
        clean = inspect_pair(pair, how)
        if _digest(pair) != digest:  # the entry would never match its key
            raise InputError(
                f"{pair.image} or its mask changed while it was read; start again when the files are complete"
            )
        image = resize_image(clean.pixels, size) if size else clean.pixels.transpose(2, 0, 1)
        mask = resize_mask(clean.mask, size) if size else clean.mask
        ids = clean.ids if clean.ids is not None else np.empty((0, 0), np.int32)
        ids = resize_ids(ids, size) if size and ids.size else ids
        ignored = clean.ignored if clean.ignored is not None else np.empty((0, 0), bool)
        ignored = resize_mask(ignored, size) if size and ignored.size else ignored
        arrays = image, mask, ids, ignored
        parts = [*(array.tobytes() for array in arrays), clean.likeness.packed(), clean.small_mask.tobytes()]
        return parts, clean.facts

    facts = []
    with new_folder(entry, remedy=REMEDY) as unfinished:
        # written, not memory-mapped: on a full disk a write raises an error, a mapped page kills the process
        with ExitStack() as stack:
            files = [stack.enter_context((unfinished / part).open("wb")) for part in PARTS]
            for parts, known in in_parallel(read, list(zip(pairs, digests, strict=True)), "reading images"):
                for file, content in zip(files, parts, strict=True):
                    file.write(content)
                facts.append(known)
            # so that a file of the right size has the right content after a power cut
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        sizes = [(known.width, known.height) for known in facts]
        looks = StoredLikenesses(unfinished / "looks", sizes)
        small_masks = StoredRows(unfinished / "small_masks", [(THUMBNAIL, THUMBNAIL)] * len(facts))
        kin = find_kin([known.sha256 for known in facts], looks)
        exchanged = find_exchanged(looks, small_masks, sizes)
        del looks, small_masks  # Windows cannot rename a folder with an open file
        stored = {
            "facts": {field.name: [getattr(known, field.name) for known in facts] for field in fields(PairFacts)},
            "kin": [astuple(relation) for relation in kin],
            "exchanged": exchanged,
            "bytes": {name: (unfinished / name).stat().st_size for name in PARTS},
        }
        (unfinished / "facts.json").write_text(json.dumps(stored), encoding="utf-8")
    log.info("stored %d decoded pairs in the cache %s", len(pairs), entry)
    return stored
