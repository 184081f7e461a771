"""Pictures in other sizes and formats than the file's own."""

import io
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

FORMATS = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


def converted(path: Path, width: int | None, format: str) -> bytes:
    """A picture's file, at most so wide, in a format of `FORMATS`.

    The file itself where nothing is to be changed; the parameters that made it are in all of them.
    """
    with Image.open(path) as picture:
        narrower = width is not None and width < picture.width
        if format == "jpeg" and not narrower:
            return path.read_bytes()
        marks = {name: picture.info[name] for name in ("exif", "xmp") if name in picture.info}
        if format == "png" and "xmp" in marks:
            # Where PNG files have it (XMP specification, part 3); Pillow writes it only as text.
            marks["pnginfo"] = PngInfo()
            marks["pnginfo"].add_itxt("XML:com.adobe.xmp", marks.pop("xmp").decode("utf-8"))
        made: Image.Image = picture
        if width is not None and narrower:
            size = width, max(1, round(picture.height * width / picture.width))
            picture.draft("RGB", size)
            made = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        made.convert("RGB").save(file, format.upper(), quality=90, **marks)
    return file.getvalue()
