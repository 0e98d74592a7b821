"""Write HTML and Markdown pages from templates; each page contains its images."""

import base64
import io

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image


def write_page(template: str, **values: object) -> str:
    """Fill a template of the package, such as ``study/report.html.jinja``; HTML templates escape their values."""
    environment = Environment(
        loader=PackageLoader("cellseg", ""),
        autoescape=template.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": _plain, "drawn": Markup}
    return environment.get_template(template).render(**values)


def picture_address(pixels: NDArray[np.uint8], kind: str, **options: int) -> str:
    """Encode an image as a data: address.

    Args:
        pixels: Shape (H, W, 3).
        kind: PNG or JPEG.
        options: Options of Pillow for this format.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _plain(text: object) -> str:
    """Escape Markdown and HTML in a text."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in " ".join(str(text).split()))
