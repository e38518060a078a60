"""What a file is, told by its content alone: names and content types are never looked at."""

import codecs
from enum import Enum

from serve_app.audio.frames import FrameSyntax, chain_begin
from serve_app.audio.reader import Window
from serve_app.errors import InvalidAudio, UnknownContent, UnsupportedFormat

SUPPORTED = "WAV, MP3, AAC, M4A/MP4/MOV, FLAC, Ogg (Opus, Vorbis, Speex), WebM/MKV, AMR, AIFF and CAF"


class Container(Enum):
    """The kinds of file that are decoded; the value is the name of FFmpeg's demuxer."""

    WAV = "wav"
    MP3 = "mp3"
    ADTS = "aac"
    FLAC = "flac"
    OGG = "ogg"
    MATROSKA = "matroska"
    MP4 = "mp4"
    AMR = "amr"
    AIFF = "aiff"
    CAF = "caf"

    @property
    def title(self) -> str:
        """The name for a sentence to a client."""
        return _TITLES.get(self, self.name)


_TITLES = {
    Container.ADTS: "AAC",
    Container.OGG: "Ogg",
    Container.MATROSKA: "WebM/Matroska",
    Container.MP4: "MP4/M4A",
}

_AUDIO_MAGIC = (
    (b"fLaC", Container.FLAC),
    (b"OggS", Container.OGG),
    (b"\x1a\x45\xdf\xa3", Container.MATROSKA),
    (b"#!AMR", Container.AMR),
    (b"caff", Container.CAF),
)
_BOX_TYPES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"}
_UNSUPPORTED_MAGIC = (
    (b"riff", "Sony Wave64"),
    (b".snd", "AU"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF (WMA or WMV)"),
    (b"FLV", "FLV"),
    (b"MAC ", "Monkey's Audio"),
    (b"wvpk", "WavPack"),
    (b"DSD ", "DSF"),
    (b".RMF", "RealMedia"),
    (b"ADIF", "AAC in an ADIF header"),
    (b"\x0b\x77", "AC-3"),
    (b"TTA1", "True Audio"),
    (b"#!SILK", "SILK"),
    (b"\x02#!SILK", "SILK"),
    (b"\x00\x00\x01\xba", "MPEG program stream"),
)
_OTHER_MAGIC = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x7fELF", "a program"),
    (b"MThd", "a MIDI file, which holds notes and no sound"),
)


def sniff(window: Window) -> tuple[Container, int]:
    """The kind of an upload, and the byte at which its audio begins (after ID3 tags and padding).

    Raises:
        InvalidAudio: It is no audio; :class:`UnknownContent` where nothing tells what it is.
        UnsupportedFormat: It is audio or video of a kind that is not decoded here.
    """
    begin = skip_id3(window, 0)
    head = window.at(begin, 1024)
    if not head:
        raise InvalidAudio("The audio is empty: the file holds tags but no samples.")
    found = _by_magic(head)
    if found is not None:
        return found, begin
    for syntax, container in ((FrameSyntax.MPEG, Container.MP3), (FrameSyntax.ADTS, Container.ADTS)):
        frame = chain_begin(window, begin, syntax)
        if frame is not None:
            return container, frame
    raise _not_audio(head)


def skip_id3(window: Window, position: int) -> int:
    """The first byte after the ID3v2 tags at ``position`` (ID3v2.4, section 3.1: sizes are syncsafe)."""
    while (head := window.at(position, 10))[:3] == b"ID3" and len(head) == 10:
        size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
        position += 10 + size + (10 if head[5] & 0x10 else 0)
    return position


def _by_magic(head: bytes) -> Container | None:
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return Container.WAV
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Container.AIFF
    if head[4:8] in _BOX_TYPES:
        return Container.MP4
    for magic, container in _AUDIO_MAGIC:
        if head.startswith(magic):
            return container
    return None


def _not_audio(head: bytes) -> InvalidAudio:
    unsupported = next((name for magic, name in _UNSUPPORTED_MAGIC if head.startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        unsupported = "AVI"
    elif head[0] == 0x47 and head[188:189] == b"\x47" and head[376:377] == b"\x47":
        unsupported = "MPEG transport stream"
    if unsupported is not None:
        return UnsupportedFormat(f"{unsupported} files are not supported. Supported are {SUPPORTED}.")
    looks = next((name for magic, name in _OTHER_MAGIC if head.startswith(magic)), None)
    if looks is None and _is_text(head):
        looks = "text"
    if looks is not None:
        return InvalidAudio(f"The file is not audio: its content looks like {looks}.")
    return UnknownContent(f"The file is not audio in any known format. Supported are {SUPPORTED}.")


def _is_text(head: bytes) -> bool:
    try:
        # Incremental, since the end of the head may cut a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(mark.isprintable() or mark in "\r\n\t\f\ufeff" for mark in text)
