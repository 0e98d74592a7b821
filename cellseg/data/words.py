"""The words by which file and folder names tell images from masks."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

_MASK = r"masks?|labels?|lbls?|segs?|segm|segmentations?|gts?|ground[-_ ]?truths?|truth|annotations?|annots?|instances?"
_IMAGE = r"images?|imgs?|im|raw|orig|original|source|src|photo"
MASK_WORD = re.compile(r"(?<!un)mask|(?<!un)label(?![-_ ]?free)|(?<![a-z])gt(?![a-z])", re.IGNORECASE)
WEAK_WORD = re.compile(  # a mask where nothing beside it has a plain word for mask in its name
    r"(?<![a-z])(segs?|segm|segmentations?|ground[-_ ]?truths?|annotations?|annots?)(?![a-z])", re.IGNORECASE
)
MASK_SUFFIX = re.compile(rf"[-_. ](?:{_MASK})$", re.IGNORECASE)
QUALIFIED_SUFFIX = re.compile(rf"[-_. ](?:cp|binary|manual|instances?|gt|seg|label)[-_](?:{_MASK})$", re.IGNORECASE)
MASK_PREFIX = re.compile(rf"^(?:{_MASK})(?:[-_. ]+(?=.)|(?=\d))", re.IGNORECASE)
IMAGE_SUFFIX = re.compile(rf"[-_. ](?:{_IMAGE})$", re.IGNORECASE)
IMAGE_PREFIX = re.compile(rf"^(?:{_IMAGE})(?:[-_. ]+(?=.)|(?=\d))", re.IGNORECASE)
CHANNEL = re.compile(r"_\d{4}$")
PREVIEW = re.compile(  # pictures of a mask, and what Cellpose writes beside it
    r"(?:^|[-_. ])(?:viz|vis|visuali[sz]ations?|overlay(?:ed|s)?|previews?|(?:cp_)?(?:outlines?|flows?)|contours?)$",
    re.IGNORECASE,
)
COLOURED = re.compile(r"(?:^|[-_. ])colou?r(?:ed|s|map)?$", re.IGNORECASE)

PARTS = {  # a part of an export, by the words that name it
    "train": ("train", "training", "tr"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "ts", "te", "eval", "holdout"),
}
_PART = {word: part for part, words in PARTS.items() for word in words}
_PART_WORDS = "|".join(sorted((word for word in _PART if len(word) > 2), key=len, reverse=True))
_FOLDER = re.compile(
    rf"(?P<before>{_PART_WORDS})?(?:raw|original|tissue|cell|nuclei|binary|instance|manual|gt)?"
    r"(?:(?P<image>images?|imgs?|pictures?|photos?|raws?|originals?|inputs?|sources?)|"
    r"(?P<mask>masks?|targets?|labels?|annotations?|annots?|segs?|segmentations?|gts?|ground ?truths?|truths?))"
    rf"(?P<after>{_PART_WORDS}|tr|ts|te)?(?:png|tiff?|jpe?g|bmp)?"
)
PLAIN = frozenset(  # preferred where a folder has a second name of the same kind beside it
    {"images", "imgs", "imagestr", "masks", "labels", "labelstr", "annotations"}
)


@dataclass(frozen=True)
class Role:
    """What a folder's name says of it: of images or of masks, and of which part of an export, if any."""

    mask: bool
    part: str


def folder_role(name: str) -> Role | None:
    """Read a folder's name such as ``Labels_tr``; None if it names neither images nor masks."""
    if found := _FOLDER.fullmatch(re.sub(r"[^a-z0-9]", "", name.lower())):
        return Role(found["mask"] is not None, _PART.get(found["before"] or found["after"] or "", ""))
    return None


def part_of(name: str) -> str:
    """Return train, val or test if a folder's name means one of these, otherwise nothing."""
    word = re.sub(r"(set|data)$", "", re.sub(r"[-_. ]", "", name.lower()))
    return _PART.get(word, "") if len(word) > 2 else ""


def stem_of(path: Path) -> str:
    """Return a file's name without its ending, ``.ome.tif`` being one."""
    # macOS writes an umlaut as two characters, others as one
    return unicodedata.normalize("NFC", re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE))


def mask_keys(path: Path) -> list[str]:
    """Return what an image may be called for a picture to be its mask: its own name, and less the words for mask."""
    stem = stem_of(path)
    words = (MASK_SUFFIX, QUALIFIED_SUFFIX, MASK_PREFIX)
    return list(dict.fromkeys([stem, unicodedata.normalize("NFC", path.stem), *(word.sub("", stem) for word in words)]))


def image_keys(path: Path) -> list[str]:
    """Return the names under which the mask of an image is looked for, the best first."""
    stem = stem_of(path)
    words = (IMAGE_SUFFIX, IMAGE_PREFIX)
    return list(
        dict.fromkeys(
            [
                unicodedata.normalize("NFC", path.stem),
                stem,
                stem.removesuffix("_0000"),
                *(word.sub("", stem) for word in words),
            ]
        )
    )


def named_as_mask(path: Path) -> bool:
    """Tell whether a file's name begins or ends with a word for mask."""
    return any(word.search(stem_of(path)) for word in (MASK_SUFFIX, MASK_PREFIX))


def is_preview(path: Path) -> bool:
    """Tell whether a file's name ends as those of pictures of a mask do, such as overlay."""
    return any(word.search(path.stem) for word in (PREVIEW, COLOURED))


def preview_base(path: Path) -> str:
    """Return the name of what a preview shows."""
    return COLOURED.sub("", PREVIEW.sub("", path.stem))
