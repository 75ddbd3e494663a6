"""Files as they come, made plain: unpacked, in UTF-8, and of a known format."""

import codecs
import re
import zipfile
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa

from kfp_foundry.components.common.errors import DataError, UserError, close_names
from kfp_foundry.components.ingestion.ingest_table.sources import Piece

Format = Literal["csv", "jsonl", "parquet", "arrow"]
FORMATS = ("auto", *get_args(Format), "sql")
ALIASES = {"tsv": "csv", "ndjson": "jsonl", "json": "jsonl", "ipc": "arrow", "feather": "arrow"}
BLOCK = 1 << 20
PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
MARKUP = re.compile(rb"<(\?xml|!doctype|html)", re.IGNORECASE)
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def check_format(format_: str) -> None:
    """Refuses a format that does not exist.

    Raises:
        UserError: The message says the close ones.
    """
    if format_ not in FORMATS and format_ not in ALIASES:
        raise UserError(f"format is {format_!r}", where="ingest_table", remedy=close_names(format_, [*FORMATS, *ALIASES]))


def plain(piece: Piece, scratch: Path, encoding: str) -> Piece:
    """Unpacks a file and brings text into UTF-8; the file itself if there is nothing to do.

    Args:
        piece: The file.
        scratch: Folder for copies.
        encoding: The text's encoding; empty: UTF-8, or UTF-16 if the file starts with its mark.

    Raises:
        DataError: A damaged archive, or text that is not in that encoding.
        UserError: Unknown encoding.
    """
    piece = _unpacked(piece, scratch)
    return _in_utf8(piece, scratch, encoding)


def format_of(piece: Piece, format_: str = "auto") -> Format:
    """The format of a plain file: what it was said to be, or what its first bytes and its name say.

    Raises:
        DataError: The file is empty, or no table.
    """
    head = _head(piece.path)
    if not head:
        raise DataError("the file is empty", where=piece.name, remedy="check how the file was written")
    wanted = ALIASES.get(format_, format_)
    if wanted != "auto" and wanted != "sql":
        return wanted  # type: ignore[return-value]
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if head.startswith(b"PK"):
        raise DataError("this is an Office workbook or an archive", where=piece.name, remedy="save the sheet as CSV")
    suffix = Path(piece.path).suffix.lower()
    if suffix in (".parquet", ".pq"):
        raise DataError("this is not a Parquet file: its first bytes are wrong", where=piece.name, remedy="write the file again, or set format")
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if MARKUP.match(head.removeprefix(codecs.BOM_UTF8).lstrip()):
        raise DataError("this is a web page or XML, not a table", where=piece.name, remedy="check the address; it may ask for a login")
    if start == b"[" and suffix == ".json":
        raise DataError("this is one JSON array", where=piece.name, remedy="write one object per line (JSON Lines)")
    return "jsonl" if start == b"{" and suffix not in (".csv", ".tsv") else "csv"


def _head(path: Path, size: int = 4096) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _unpacked(piece: Piece, scratch: Path) -> Piece:
    head = _head(piece.path, 4)
    packing = next((name for mark, name in PACKINGS.items() if head.startswith(mark)), "")
    target = scratch / f"{len(list(scratch.iterdir())):05d}-{piece.path.stem}"
    try:
        if packing:
            with pa.input_stream(str(piece.path), compression=packing) as packed, target.open("wb") as file:
                while part := packed.read(BLOCK):
                    file.write(part)
            return Piece(target, piece.name)
        if head == b"PK\x03\x04":
            return _unzipped(piece, target)
    except (OSError, EOFError, zipfile.BadZipFile, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the file's
        raise DataError("the compressed file is damaged or cut off", where=piece.name, remedy="fetch or write it again") from error
    return piece


def _unzipped(piece: Piece, target: Path) -> Piece:
    with zipfile.ZipFile(piece.path) as archive:
        files = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith(("__MACOSX", "."))]
        if any(name.startswith("xl/") for name in files):
            raise DataError("this is an Excel workbook", where=piece.name, remedy="save the sheet as CSV")
        if len(files) != 1:
            raise DataError(f"the archive holds {len(files)} files", where=piece.name, remedy="unpack it and give the folder")
        target = target.with_name(f"{target.name}-{Path(files[0]).name}")
        with archive.open(files[0]) as packed, target.open("wb") as file:
            while part := packed.read(BLOCK):
                file.write(part)
    return Piece(target, piece.name)


def _in_utf8(piece: Piece, scratch: Path, encoding: str) -> Piece:
    head = _head(piece.path)
    if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        return piece
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), "")
    old_lines = b"\r" in head and b"\n" not in head
    chosen = _codec(encoding) if encoding else codecs.lookup(marked or "utf-8")
    if not marked and not encoding and head.count(0) * 4 > len(head):
        order = "le" if head[1:2] == b"\0" else "be"
        raise DataError("this is not UTF-8, it looks like UTF-16", where=piece.name, remedy=f'set encoding="utf-16-{order}"')
    if chosen.name in ("utf-8", "utf-8-sig", "ascii") and not old_lines:
        return piece
    target = scratch / f"{len(list(scratch.iterdir())):05d}-{piece.path.name}"
    _recode(piece, target, chosen, old_lines)
    return Piece(target, piece.name)


def _codec(encoding: str) -> codecs.CodecInfo:
    try:
        found = codecs.lookup(encoding)
        "".encode(encoding)  # some codecs are no text encodings
    except LookupError as error:
        known = [
            "utf-8",
            "utf-8-sig",
            "utf-16",
            "utf-16-le",
            "utf-16-be",
            "cp1252",
            "latin-1",
            "iso-8859-15",
            "cp1250",
            "cp1251",
            "shift_jis",
            "gb18030",
        ]
        raise UserError(f"encoding is {encoding!r}", where="ingest_table", remedy=close_names(encoding, known)) from error
    return found


def _recode(piece: Piece, target: Path, codec: codecs.CodecInfo, old_lines: bool) -> None:
    """Copies text into UTF-8; a lone carriage return as line end becomes a newline."""
    decoder = codecs.getincrementaldecoder(codec.name)()
    offset = 0
    with piece.path.open("rb") as source, target.open("wb") as file:
        while True:
            part = source.read(BLOCK)
            try:
                text = decoder.decode(part, final=not part)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"not {codec.name}: byte 0x{error.object[error.start]:02x} near offset {offset + error.start:,}",
                    where=piece.name,
                    remedy="set the encoding in which the file is written",
                ) from error
            file.write((text.replace("\r", "\n") if old_lines else text).encode("utf-8"))
            offset += len(part)
            if not part:
                return
