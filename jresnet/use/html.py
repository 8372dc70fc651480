"""Pages of HTML that load nothing: templates, with the style and the macros that all share, and images as addresses."""

import base64
import io
import pathlib

import jinja2
import numpy as np
from PIL import Image


def render(template: pathlib.Path, **values: object) -> str:
    """A page from a template, which may include `style.css` and import from `macros.html.j2` beside this module."""
    folders = template.parent, pathlib.Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"data_uri": data_uri, "picture": picture}
    return environment.get_template(template.name).render(**values)


def encoded(page: str) -> bytes:
    """The page in UTF-8; bytes of a path or a command that are none stay visible, as in \\udcff."""
    return page.encode(errors="backslashreplace")


def data_uri(data: bytes, mime_type: str) -> str:
    """The address of a file's content itself."""
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def picture(image: np.ndarray) -> str:
    """The address of an image, uint8 [height, width, 3], as a PNG; a large one is reduced."""
    png = io.BytesIO()
    Image.fromarray(reduced(image)).save(png, "PNG")
    return data_uri(png.getvalue(), "image/png")


def reduced(images: np.ndarray, most: int = 64) -> np.ndarray:
    """Every k-th pixel of images [..., height, width, 3], so that their shorter side is about `most` pixels."""
    step = max(1, min(images.shape[-3:-1]) // most)
    return images[..., ::step, ::step, :]
