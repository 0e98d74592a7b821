"""TIFF from tifffile, ImageJ and microscopes: read as written, or refused with the reason."""

import io
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cellseg.data.facts import Reading, inspect_pair
from cellseg.data.images import decode, read_image
from cellseg.data.masks import read_mask
from cellseg.data.pairs import Pair
from cellseg.storage.errors import InputError

DTYPES = (
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)
LOSSLESS = (None, "zlib", "lzw", "packbits", "zstd", "lzma")


def drawn(height=40, width=48):
    """A mask with cells, less than half of it, none at the border."""
    y, x = np.mgrid[:height, :width]
    return np.hypot(y - height / 2, x - width / 2) < min(height, width) / 3


def written(tmp_path_factory, array, **options):
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    tifffile.imwrite(path, array, **options)
    return path


@settings(max_examples=200)
@given(
    dtype=st.sampled_from(DTYPES),
    channels=st.integers(1, 5),
    planar=st.booleans(),
    photometric=st.sampled_from(["minisblack", "miniswhite", "rgb", "palette", "cielab", "cfa"]),
    compression=st.sampled_from(LOSSLESS),
    tiled=st.booleans(),
    big_endian=st.booleans(),
    ours=st.booleans(),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_tifffile_wrote_comes_back_or_is_refused_by_name(
    tmp_path_factory, dtype, channels, planar, photometric, compression, tiled, big_endian, ours, size, seed
):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 2 if dtype == "bool" else 100, (*size, channels)).astype(dtype)
    array = np.moveaxis(pixels, 2, 0) if planar else pixels
    array = array.squeeze(0 if planar else 2) if channels == 1 else array
    if (channels == 1 and photometric == "rgb") or (channels > 1 and photometric == "palette"):
        return  # tifffile takes rows or columns for what there is none of
    options = {"photometric": photometric, "compression": compression, "byteorder": ">" if big_endian else "<"}
    if channels > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    if tiled:
        options["tile"] = (16, 16)
    if photometric == "palette":
        options["colormap"] = rng.integers(0, 65535, (3, 256), dtype=np.uint16)
    if not ours:
        options |= {"metadata": None, "software": False}
    try:
        path = written(tmp_path_factory, array, **options)
    except Exception:  # tifffile does not write every combination
        return
    try:
        decoded = decode(path)
    except InputError as error:
        named = any(
            word in str(error) for word in ("PhotometricInterpretation", "pixels of kind", "several images", "axes")
        )
        if not named or str(path) not in str(error):
            raise
        return
    if photometric == "cielab":
        return  # Pillow converts it
    if decoded.white_is_zero in ("shown", "unknown"):
        pixels = ~pixels if dtype == "bool" else np.iinfo(dtype).max - pixels
    assert decoded.values.dtype == pixels.dtype.newbyteorder("=") or decoded.values.dtype == pixels.dtype
    assert np.array_equal(decoded.values, pixels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_masks_of_tifffile_are_cell_where_they_were_true(tmp_path_factory, dtype, photometric):
    path = written(tmp_path_factory, drawn().astype(dtype), photometric=photometric)
    assert np.array_equal(read_mask([path], 20).cell, drawn())


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_masks_with_the_inverting_table_of_imagej_are_cell_where_they_were_255(tmp_path, dtype):
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, drawn().astype(dtype) * 255, imagej=True, photometric="miniswhite")
    assert np.array_equal(read_mask([path], 20).cell, drawn())


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
@pytest.mark.parametrize("zero_is_white", [False, True])
def test_faxes_are_cell_where_a_viewer_shows_white(tmp_path, compression, zero_is_white):
    path = tmp_path / "mask.tif"
    Image.fromarray(drawn()).save(path, compression=compression, tiffinfo={262: 0 if zero_is_white else 1})
    shown = np.asarray(Image.open(path))
    assert np.array_equal(read_mask([path], 20).cell, shown)


def test_a_mask_whose_zero_is_white_by_an_unknown_hand_is_refused_and_an_image_is_shown_as_viewers_do(tmp_path):
    path = tmp_path / "mask.tif"
    grey = drawn().astype(np.uint8) * 255
    tifffile.imwrite(path, grey, photometric="miniswhite", metadata=None, software=False)
    with pytest.raises(InputError, match=r"mask\.tif: its tag PhotometricInterpretation is 0 \(white is zero\)"):
        read_mask([path], 20)
    assert np.array_equal(read_image(path).pixels[..., 0], 255 - grey)


@pytest.mark.parametrize(
    ("axes", "shape", "said"),
    [
        ("ZYX", (5, 20, 30), r"5 along Z \(depth\)"),
        ("TYX", (5, 20, 30), r"5 along T \(time\)"),
        ("ZCYX", (5, 2, 20, 30), r"5 along Z \(depth\), 2 along C \(channel\)"),
    ],
)
@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_stacks_are_refused_by_the_name_of_their_axes(tmp_path, axes, shape, said, kind):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros(shape, np.uint8), metadata={"axes": axes}, **{kind: True})
    for read in (read_image, lambda path: read_mask([path], 20)):
        with pytest.raises(InputError, match=rf"stack\.tif: contains several images \({said}, axes {axes}\)"):
            read(path)


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_channels_are_used_as_colours_or_chosen(tmp_path, kind):
    path = tmp_path / "cells.tif"
    channels = np.random.default_rng(0).integers(0, 256, (2, 20, 30), np.uint8)
    tifffile.imwrite(path, channels, metadata={"axes": "CYX"}, **{kind: True})
    seen = read_image(path)
    assert np.array_equal(seen.pixels, np.dstack([*channels, np.zeros_like(channels[0])]))
    assert np.array_equal(read_image(path, [1]).pixels, channels[1][..., None])
    assert np.array_equal(read_image(path, [1, 0]).pixels, np.dstack(channels[::-1]))
    assert np.array_equal(read_image(path, [1]).whole, seen.whole), "the image is the same, whichever channels are used"
    with pytest.raises(InputError, match=r"cells\.tif: has no channel 2: it has 2, counted from 0"):
        read_image(path, [0, 2])


def test_pages_that_may_be_channels_are_used_only_when_they_are_chosen(tmp_path):
    path = tmp_path / "cells.tif"
    pages = np.random.default_rng(0).integers(0, 256, (2, 20, 30), np.uint8)
    tifffile.imwrite(path, pages, photometric="minisblack")
    with pytest.raises(InputError, match=r"if they are channels, set data\.channels=\[0,1\]"):
        read_image(path)
    assert np.array_equal(read_image(path, [0, 1]).pixels, np.dstack(pages))


def test_many_channels_must_be_chosen(tmp_path):
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, np.zeros((20, 30, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match=r"has 5 channels; choose which to use, .*data\.channels=\[0,1\]"):
        read_image(path)
    assert read_image(path, [4, 0]).pixels.shape == (20, 30, 2)
    with pytest.raises(InputError, match="the mask has 5 channels"):
        read_mask([path], 20)


def test_each_channel_of_more_than_8_bits_is_stretched_by_itself(tmp_path):
    path = tmp_path / "cells.tif"
    ramp = np.tile(np.arange(300, dtype=np.uint16), (30, 1))
    tifffile.imwrite(path, np.stack([ramp, ramp * 100]), photometric="minisblack", metadata={"axes": "CYX"})
    pixels = read_image(path, [0, 1]).pixels
    assert (pixels.min(axis=(0, 1)).tolist(), pixels.max(axis=(0, 1)).tolist()) == ([0, 0], [255, 255])


def test_planar_colour_of_16_bits_keeps_its_upper_bits(tmp_path):
    path = tmp_path / "cells.tif"
    colour = np.random.default_rng(0).integers(0, 65536, (3, 20, 30), dtype=np.uint16)
    tifffile.imwrite(path, colour, photometric="rgb", planarconfig="separate")
    reading = read_image(path)
    assert np.array_equal(reading.pixels, np.moveaxis(colour >> 8, 0, 2))
    assert reading.truncated


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palettes_of_few_bits_are_indices(tmp_path, bits):
    index = drawn().astype(np.uint8)
    per_byte = 8 // bits
    weights = 2 ** (bits * np.arange(per_byte)[::-1])
    packed = (index.reshape(len(index), -1, per_byte) * weights).sum(axis=2).astype(np.uint8).tobytes()
    count = 2**bits
    colours = np.zeros((3, count), "<u2")
    colours[0, 1] = 65535
    height, width = index.shape
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 3), (273, 4, 1, 8),
        (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(packed)), (320, 3, 3 * count, 8 + len(packed)),
    ]  # fmt: skip
    path, where = tmp_path / "mask.tif", 8 + len(packed) + colours.nbytes
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", where) + packed + colours.tobytes() + table + bytes(4))
    assert np.array_equal(read_mask([path], 20).cell, drawn())
    assert np.array_equal(read_image(path).pixels, np.dstack([index * 255, index * 0, index * 0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_obeyed_as_pillow_obeys_them(tmp_path, orientation):
    from PIL import ImageOps

    path = tmp_path / "cells.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    reading = read_image(path)
    assert np.array_equal(reading.pixels, expected)
    assert reading.decoded.turned == (orientation != 1)


def test_ycbcr_and_cmyk_are_what_pillow_makes_of_them(tmp_path):
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    for mode, options in (("YCbCr", {}), ("CMYK", {}), ("RGB", {"compression": "jpeg", "quality": 95})):
        path = tmp_path / f"{mode}.tif"
        Image.fromarray(pixels).convert(mode).save(path, **options)
        with Image.open(path) as opened:
            expected = np.asarray(opened.convert("RGB")).astype(int)
        assert np.abs(read_image(path).pixels - expected).max() <= 2, mode


def test_pyramids_are_read_at_full_size(tmp_path):
    path = tmp_path / "slide.ome.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(pixels, subifds=1, photometric="rgb")
        tiff.write(pixels[::2, ::2], subfiletype=1, photometric="rgb")
    assert np.array_equal(read_image(path).pixels, pixels)


def test_planes_in_other_files_are_refused(tmp_path):
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, np.zeros((2, 20, 30), np.uint8), ome=True, metadata={"axes": "CYX"})
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata
    other = xml.replace("<TiffData", '<TiffData><UUID FileName="b.ome.tif">urn:uuid:1</UUID></TiffData><TiffData', 1)
    tifffile.imwrite(path, np.zeros((1, 20, 30), np.uint8), description=other, metadata=None)
    with pytest.raises(InputError, match=r"cells\.ome\.tif: "):
        read_image(path)


@pytest.mark.parametrize("compression", ["zlib", None])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_files_cut_short_are_refused(tmp_path, compression, share):
    path = tmp_path / "cells.tif"
    tifffile.imwrite(
        path,
        np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8),
        photometric="rgb",
        compression=compression,
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"cells\.tif: cannot be read as an image"):
        read_image(path)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as tiff:
        tiff.write(shape=(30_000, 30_000), dtype=np.uint8, data=None, photometric="minisblack", compression=None)
    path = tmp_path / "bomb.tif"
    path.write_bytes(buffer.getvalue()[:4096])
    with pytest.raises(InputError, match=r"bomb\.tif: cannot be read as an image"):
        read_image(path)


def test_a_rotated_photograph_beside_a_mask_that_is_not_names_the_tag(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image, mask = tmp_path / "a.jpg", tmp_path / "a_mask.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(image, exif=exif)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"only a\.jpg has an orientation tag \(EXIF Orientation\)"):
        inspect_pair(Pair("a", "a", image, (mask,)), Reading())


def test_jpeg_cut_short_inside_a_tiff_is_refused(tmp_path):
    path = tmp_path / "cells.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        start, length = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start + length // 2 : start + length] = bytes(length - length // 2)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cells\.tif: cannot be read as an image \(its pixels are truncated\)"):
        read_image(path)


def test_pages_that_the_description_leaves_out_are_other_pictures(tmp_path):
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, np.zeros((20, 30), np.uint8), ome=True)
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.zeros((20, 30), np.uint8), description=xml, metadata=None)
        tiff.write(np.ones((20, 30), np.uint8), metadata=None)
    with pytest.raises(InputError, match=r"contains several images \(2 pages, but its description lists 1\)"):
        read_image(path)
