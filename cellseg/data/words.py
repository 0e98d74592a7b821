"""Tell images from masks by words in file and folder names."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

_MASK = r"masks?|labels?|lbls?|segs?|segm|segmentations?|gts?|ground[-_ ]?truths?|truth|annotations?|annots?|instances?"
_IMAGE = r"images?|imgs?|im|raw|orig|original|source|src|photo"
MASK_WORD = re.compile(r"(?<!un)mask|(?<!un)label(?![-_ ]?free)|(?<![a-z])gt(?![a-z])", re.IGNORECASE)
WEAK_WORD = re.compile(  # means mask only if no file beside it has a word of MASK_WORD
    r"(?<![a-z])(segs?|segm|segmentations?|ground[-_ ]?truths?|annotations?|annots?)(?![a-z])", re.IGNORECASE
)
MASK_SUFFIX = re.compile(rf"[-_. ](?:{_MASK})$", re.IGNORECASE)
QUALIFIED_SUFFIX = re.compile(rf"[-_. ](?:cp|binary|manual|instances?|gt|seg|label)[-_](?:{_MASK})$", re.IGNORECASE)
MASK_PREFIX = re.compile(rf"^(?:{_MASK})(?:[-_. ]+(?=.)|(?=\d))", re.IGNORECASE)
IMAGE_SUFFIX = re.compile(rf"[-_. ](?:{_IMAGE})$", re.IGNORECASE)
IMAGE_PREFIX = re.compile(rf"^(?:{_IMAGE})(?:[-_. ]+(?=.)|(?=\d))", re.IGNORECASE)
CHANNEL = re.compile(r"_\d{4}$")
PREVIEW = re.compile(  # drawings of a mask, and files that Cellpose writes beside it
    r"(?:^|[-_. ])(?:viz|vis|visuali[sz]ations?|overlay(?:ed|s)?|previews?|(?:cp_)?(?:outlines?|flows?)|contours?)$",
    re.IGNORECASE,
)
IGNORE = "ignore"  # name of a file or folder that marks pixels which nobody judged
IGNORES = frozenset({IGNORE, "ignored"})
IGNORE_SUFFIX = re.compile(r"[-_. ]ignored?$", re.IGNORECASE)
COLOURED = re.compile(r"(?:^|[-_. ])colou?r(?:ed|s|map)?$", re.IGNORECASE)

PARTS = {  # words that name a part of an exported data set
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
PLAIN = frozenset(  # preferred if there are two folders of images, or two of masks
    {"images", "imgs", "imagestr", "masks", "labels", "labelstr", "annotations"}
)


@dataclass(frozen=True)
class Role:
    """The role of a folder by its name: images or masks, and the part of an export (train, val, test) or empty."""

    mask: bool
    part: str


def folder_role(name: str) -> Role | None:
    """Return the role of a folder name such as ``Labels_tr``; None if it names neither images nor masks."""
    if found := _FOLDER.fullmatch(re.sub(r"[^a-z0-9]", "", name.lower())):
        return Role(found["mask"] is not None, _PART.get(found["before"] or found["after"] or "", ""))
    return None


def part_of(name: str) -> str:
    """Return train, val or test if a folder's name means one of these, otherwise an empty string."""
    word = re.sub(r"(set|data)$", "", re.sub(r"[-_. ]", "", name.lower()))
    return _PART.get(word, "") if len(word) > 2 else ""


def stem_of(path: Path) -> str:
    """Return a file's name without its ending; ``.ome.tif`` is one ending."""
    # macOS stores an umlaut as two characters, other systems as one
    return unicodedata.normalize("NFC", re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE))


def mask_keys(path: Path) -> list[str]:
    """Return the names of an image that may belong to a mask: the mask's own name, also without words for mask."""
    stem = stem_of(path)
    words = (MASK_SUFFIX, QUALIFIED_SUFFIX, MASK_PREFIX)
    return list(dict.fromkeys([stem, unicodedata.normalize("NFC", path.stem), *(word.sub("", stem) for word in words)]))


def image_keys(path: Path) -> list[str]:
    """Return the keys under which to look for the mask of an image, the best first."""
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
    """Tell whether a file's name ends with a word for a drawing of a mask, such as overlay."""
    return any(word.search(path.stem) for word in (PREVIEW, COLOURED))


def is_ignore(path: Path) -> bool:
    """Tell whether a file marks pixels that nobody judged, by its name."""
    return path.stem.lower() in IGNORES or IGNORE_SUFFIX.search(path.stem) is not None


def preview_base(path: Path) -> str:
    """Return the name of a preview without the words for preview."""
    return COLOURED.sub("", PREVIEW.sub("", path.stem))
