"""List the file formats that cellseg reads, and name converters for other formats."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cellseg.storage.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_MICROSCOPE = "in Fiji, File > Save As > Tiff; or for many files, Bio-Formats' bfconvert in{suffix} out.ome.tif"
_SLIDE = "in QuPath, File > Export images, as tiles in PNG"
_VOLUME = "in Fiji, File > Save As > Image Sequence writes its slices as PNG"
_ARRAY = "in Python, PIL.Image.fromarray(array).save('out.png') for each image"
_PHOTO = "in GIMP or any picture viewer, export it as PNG"
FOREIGN = {  # ending: the format, and what converts it
    ".czi": ("Zeiss image", _MICROSCOPE),
    ".lif": ("Leica image", _MICROSCOPE),
    ".xlef": ("Leica image", _MICROSCOPE),
    ".lof": ("Leica image", _MICROSCOPE),
    ".scn": ("Leica whole-slide image", _SLIDE),
    ".nd2": ("Nikon image", _MICROSCOPE),
    ".oib": ("Olympus image", _MICROSCOPE),
    ".oif": ("Olympus image", _MICROSCOPE),
    ".oir": ("Olympus image", _MICROSCOPE),
    ".vsi": ("Olympus image", _MICROSCOPE),
    ".ims": ("Imaris volume", _MICROSCOPE),
    ".zvi": ("Zeiss image", _MICROSCOPE),
    ".dv": ("DeltaVision image", _MICROSCOPE),
    ".svs": ("Aperio whole-slide image", _SLIDE),
    ".ndpi": ("Hamamatsu whole-slide image", _SLIDE),
    ".mrxs": ("3DHISTECH whole-slide image", _SLIDE),
    ".bif": ("Ventana whole-slide image", _SLIDE),
    ".dcm": ("DICOM image", _VOLUME),
    ".nii": ("NIfTI volume", _VOLUME),
    ".nii.gz": ("NIfTI volume", _VOLUME),
    ".mha": ("MetaImage volume", _VOLUME),
    ".mhd": ("MetaImage volume", _VOLUME),
    ".nrrd": ("NRRD volume", _VOLUME),
    ".mrc": ("MRC volume", _VOLUME),
    ".h5": ("HDF5 file", "in Fiji, File > Import > HDF5, then File > Save As > Tiff"),
    ".hdf5": ("HDF5 file", "in Fiji, File > Import > HDF5, then File > Save As > Tiff"),
    ".zarr": ("Zarr folder", "in Fiji, File > Import > HDF5/N5/Zarr/OME-NGFF, then File > Save As > Tiff"),
    ".npy": ("NumPy array", _ARRAY),
    ".npz": ("file of NumPy arrays", _ARRAY),
    ".mat": ("MATLAB file", "in MATLAB, imwrite(array, 'out.png') for each image"),
    ".heic": ("HEIC photo", _PHOTO),
    ".heif": ("HEIF photo", _PHOTO),
    ".avif": ("AVIF photo", _PHOTO),
    ".jp2": ("JPEG 2000 image", _PHOTO),
    ".jxl": ("JPEG XL image", _PHOTO),
    ".psd": ("Photoshop file", _PHOTO),
    ".xcf": ("GIMP file", _PHOTO),
    ".svg": ("vector drawing", _PHOTO),
    ".pdf": ("PDF document", _PHOTO),
}
BYSTANDERS = (".npy", ".npz", ".mat", ".pdf", ".svg")  # no warning if such a file lies beside complete pairs
DRAWN = {  # how to make masks of polygons
    ".json": "labelme: labelme_export_json (older: labelme_json_to_dataset); COCO: annToMask of pycocotools",
    ".xml": "Aperio or CVAT: import them into QuPath, and export labeled images",
    ".geojson": "QuPath: export labeled images by a script with LabeledImageServer",
    ".roi": "Fiji: ROI Manager, More > OR (Combine), then Edit > Selection > Create Mask",
}
ANNOTATIONS = tuple(DRAWN)
CELLPOSE = "Cellpose's _seg.npy files contain masks; in Cellpose, export them with File > Save masks as PNG/tif"


def foreign_suffix(name: str) -> str | None:
    """Return the ending of a known format that cellseg does not read, such as .nii.gz; None for any other name."""
    return max((suffix for suffix in FOREIGN if name.lower().endswith(suffix)), key=len, default=None)


def refuse_foreign(path: Path) -> None:
    """Refuse a file that must be converted first; it need not exist.

    Raises:
        InputError: If the ending is in ``FOREIGN``; the message names a converter.
    """
    if suffix := foreign_suffix(path.name):
        what, converter = FOREIGN[suffix]
        raise InputError(f"{path}: is a {what}, which cellseg does not read; convert it ({_filled(converter, suffix)})")


def describe_foreign(paths: Iterable[Path]) -> list[str]:
    """Describe files in other formats: how many of each format, and how to convert them."""
    paths = list(paths)
    seen: dict[str, list[Path]] = {}
    for path in paths:
        if suffix := foreign_suffix(path.name):
            seen.setdefault(suffix, []).append(path)
    lines = []
    for suffix, files in seen.items():
        what, converter = FOREIGN[suffix]
        if suffix == ".npy" and all(file.stem.lower().endswith("_seg") for file in files):
            lines.append(CELLPOSE)
            continue
        number = f"{files[0].name} is a {what}" if len(files) == 1 else f"{len(files)} files are {what}s ({suffix})"
        lines.append(f"{number}, which cellseg does not read: convert ({_filled(converter, suffix)})")
    polygons = Counter(path.suffix.lower() for path in paths if path.suffix.lower() in ANNOTATIONS)
    if polygons:
        found = ", ".join(f"{number} {suffix}" for suffix, number in polygons.items())
        how = "; ".join(DRAWN[suffix] for suffix in polygons)
        lines.append(f"annotations ({found}) are not masks: convert polygons to masks first ({how})")
    return lines


def _filled(converter: str, suffix: str) -> str:
    return converter.format(suffix=suffix)
