"""JPEG files that carry the parameters that made them, and previews within a byte budget."""

import contextlib
import io
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from PIL import Image
from PIL.ExifTags import IFD, Base

from sdxl_lightning_mcp.errors import StorageError
from sdxl_lightning_mcp.request import Parameters

QUALITY = 95
# What lower qualities make of such a file, as shares of its size: where to begin to look for what
# fits. Measured on pictures of mini; where it is wrong, the next lower one is tried.
SHARES = {90: 0.54, 85: 0.42, 78: 0.35, 70: 0.30}
GENERATOR = "sdxl-lightning-mcp"
NAMESPACE = "urn:sdxl-lightning-mcp:1.0:"
# https://cv.iptc.org/newscodes/digitalsourcetype/: made by a model that was trained on samples.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    f' xmlns:sdxl="{NAMESPACE}"'
    f' xmp:CreatorTool="{GENERATOR}"'
    " xmp:CreateDate={date}"
    f' Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"'
    " sdxl:parameters={parameters}/>"
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


@dataclass(frozen=True)
class GeneratedImage:
    """A finished picture: its JPEG file's bytes and the parameters that made it.

    `notes` say what was done otherwise than asked. `shown` is a preview, where one was made from
    the pixels, for which the file would have to be decoded later.
    """

    jpeg: bytes
    parameters: Parameters
    notes: tuple[str, ...] = ()
    shown: bytes | None = field(default=None, repr=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file, whole or not at all; an existing file of that name is replaced.

        Raises:
            StorageError: It cannot be written there, or the name is not that of a JPEG; nothing
                is left behind.
        """
        target = Path(path)
        if target.suffix.lower() not in (".jpg", ".jpeg"):
            raise StorageError(f"The picture is a JPEG: name it {target.with_suffix('.jpg')}.")
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                file.write(self.jpeg)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise StorageError(
                f"The picture cannot be written to {target}: {error.strerror or error}. "
                "Choose another folder, or free some space."
            ) from error
        return target


def encode(
    picture: Image.Image,
    parameters: Parameters,
    created: datetime,
    notes: Sequence[str] = (),
    preview_bytes: int | None = None,
) -> GeneratedImage:
    """Encodes an RGB picture as JPEG, with its parameters in EXIF and XMP.

    EXIF's UserComment has the widespread one-text form; XMP has the parameters as JSON, from
    which `read_parameters` gets them back exactly, and the IPTC's digital source type. With a
    preview of at most `preview_bytes`, where that is given.
    """
    local = created.astimezone()
    date = local.strftime("%Y:%m:%d %H:%M:%S")
    exif = Image.Exif()
    exif[Base.Software] = GENERATOR
    exif[Base.DateTime] = date
    details = exif.get_ifd(IFD.Exif)
    details[Base.DateTimeOriginal] = date
    details[Base.OffsetTime] = details[Base.OffsetTimeOriginal] = local.isoformat()[-6:]
    details[Base.UserComment] = b"UNICODE\0" + _as_text(parameters).encode("utf-16-be")
    xmp = _XMP.format(
        date=quoteattr(local.isoformat(timespec="seconds")),
        # In ASCII: a prompt may hold characters that XML may not.
        parameters=quoteattr(json.dumps(parameters.model_dump())),
    )
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, subsampling=0, exif=exif, xmp=xmp.encode("utf-8"))
    jpeg, shown = file.getvalue(), None
    if preview_bytes is not None:
        small = len(jpeg) <= preview_bytes
        shown = jpeg if small else _fitted(picture, preview_bytes, len(jpeg))
    return GeneratedImage(jpeg, parameters, tuple(notes), shown)


def read_parameters(path: str | os.PathLike[str]) -> Parameters:
    """Reads back the parameters that made a picture.

    Raises:
        ValueError: The file carries none.
    """
    with Image.open(path) as picture:
        packet = picture.info.get("xmp", b"<none/>")
    with contextlib.suppress(ElementTree.ParseError):
        for element in ElementTree.fromstring(packet).iter():
            if found := element.get(f"{{{NAMESPACE}}}parameters"):
                return Parameters.model_validate_json(found)
    raise ValueError(f"{path} carries no parameters of {GENERATOR}")


def preview(jpeg: bytes, budget: int) -> bytes:
    """A JPEG of at most `budget` bytes that shows the same picture.

    The file itself where it fits; else lower quality at full size; else a smaller picture.
    """
    if len(jpeg) <= budget:
        return jpeg
    with Image.open(io.BytesIO(jpeg)) as opened:
        return _fitted(opened.convert("RGB"), budget, len(jpeg))


def _fitted(picture: Image.Image, budget: int, size: int) -> bytes:
    """The picture, whose file has that size, as a JPEG of at most `budget` bytes."""
    qualities = [quality for quality, share in SHARES.items() if share * size <= budget]
    while True:
        for quality in qualities or [min(SHARES)]:
            file = io.BytesIO()
            # Not optimized: the last twelfth of the bytes would take as long as the rest.
            picture.save(file, "JPEG", quality=quality)
            if file.tell() <= budget or picture.width * picture.height <= 64 * 64:
                return file.getvalue()
        qualities = [*SHARES]
        picture = picture.resize(
            (picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS
        )


def _as_text(parameters: Parameters) -> str:
    """The parameters in the form that image browsers and web UIs read ("parameters")."""
    lines = [parameters.prompt]
    if parameters.negative_prompt:
        lines.append(f"Negative prompt: {parameters.negative_prompt}")
    lines.append(
        f"Steps: {parameters.steps}, Sampler: Euler, "
        f"CFG scale: {parameters.guidance:g}, Seed: {parameters.seed}, "
        f"Size: {parameters.width}x{parameters.height}, Model: {parameters.checkpoint}, "
        f"Version: {GENERATOR}"
    )
    return "\n".join(lines)
