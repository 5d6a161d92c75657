"""Safe stdout and stderr: an output error never stops a command.

While a command runs, `sys.stdout` and `sys.stderr` are `SafeStream`, so tables, JSON, logs, progress bars
and argparse's help all go through it, and nobody else has to think of it:

- The reader left (``| head -1``, a terminal that was closed): printing ends without a word, the
  command goes on and its exit code is its own. That is what the shell's own tools look like.
- It can't be written (``> /dev/full``, ``>&-``): printing ends, the command goes on; then one line on
  stderr, and exit code 1 where all else went well: a script must not take an empty file for a result.
- stderr can't be written: nobody is left to be told, nothing else changes.
- A character that the terminal's encoding lacks is printed in ASCII, or by its number.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO, cast

_READER_LEFT: Final = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}
_CLOSED: Final = OSError(errno.EBADF, "it is closed")

_STDERR: Final = 2
_PLAIN: Final = {"\N{PLUS-MINUS SIGN}": "+-", "\N{HORIZONTAL ELLIPSIS}": "..."}
"""What our tables hold beside ASCII; rich draws its lines in ASCII by itself."""


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace one character that the encoding lacks."""
    if isinstance(error, UnicodeEncodeError):
        plain = _PLAIN.get(error.object[error.start])
        if plain is not None:
            return plain, error.start + 1
    return codecs.backslashreplace_errors(error)


_ERRORS: Final = "feeder-plain"
codecs.register_error(_ERRORS, _plain)


class SafeStream(io.TextIOBase):
    """A text stream whose `write` and `flush` never raise; what kept it from writing is noted.

    Parameters
    ----------
    stream
        Where the text goes; None when the process was started without it (``>&-``).
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._failure: OSError | None = _CLOSED if stream is None else None
        self._is_terminal = self.isatty()
        self._errors: str | None = None
        self._n_lost = 0
        if isinstance(stream, io.TextIOWrapper):
            self._errors = stream.errors
            stream.reconfigure(errors=_ERRORS)

    @property
    def failure(self) -> str | None:
        """Return why text could not be written; None when all was, or only the reader left."""
        if self._failure is None or not self._n_lost:
            return None
        number = self._failure.errno
        # EIO: what a terminal answers that is no longer there.
        if number in _READER_LEFT or (number == errno.EIO and self._is_terminal):
            return None
        return self._failure.strerror or str(self._failure)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Return the encoding of the stream: rich draws with ASCII where it is not UTF-8."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Return what becomes of a character that the encoding lacks."""
        return _ERRORS

    def writable(self) -> bool:
        """Return True: what can't be written is left out."""
        return True

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        """Return the descriptor, or raise OSError as the stream does that has none."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def write(self, text: str, /) -> int:
        """Write text, unless an earlier one could not be written."""
        return self._write(text, lambda stream: stream.write(text))

    def write_utf8(self, text: str) -> None:
        """Write text as UTF-8, whatever the terminal's encoding: for programs, not for people."""

        def write(stream: TextIO) -> None:
            if not isinstance(stream, io.TextIOWrapper):
                stream.write(text)
                return
            stream.flush()
            stream.buffer.write(text.encode("utf-8", "backslashreplace"))

        self._write(text, write)

    def flush(self) -> None:
        """Hand on what was written so far."""
        self._write("", lambda stream: stream.flush())

    def restore(self) -> None:
        """Hand on what is left, and leave the stream as it was."""
        self.flush()
        if self._errors is not None and self._failure is None:
            cast("io.TextIOWrapper", self._stream).reconfigure(errors=self._errors)

    def _write(self, text: str, write: Callable[[TextIO], object]) -> int:
        if self._failure is None:
            try:
                write(cast("TextIO", self._stream))
            except OSError as error:
                self._give_up(error)
                self._n_lost += 1  # a flush loses what was written before
            except ValueError as error:
                if not getattr(self._stream, "closed", False):
                    raise
                self._give_up(OSError(errno.EBADF, str(error)))
        if self._failure is not None:
            self._n_lost += len(text)
        return len(text)

    def _give_up(self, error: OSError) -> None:
        """Write no more; what the stream still holds must not come back when Python ends."""
        self._failure = error
        with suppress(OSError, ValueError, AttributeError):
            descriptor = cast("TextIO", self._stream).fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextmanager
def safe_streams() -> Iterator[SafeStream]:
    """Make stdout and stderr safe; give stdout."""
    before = sys.stdout, sys.stderr
    out, errors = SafeStream(sys.stdout), SafeStream(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", errors)
    try:
        yield out
    finally:
        out.restore()
        errors.restore()
        sys.stdout, sys.stderr = before


def print_utf8(text: str) -> None:
    """Print text for programs: JSON, metrics, an export."""
    if isinstance(sys.stdout, SafeStream):
        sys.stdout.write_utf8(text)
    else:
        sys.stdout.write(text)


def fill_closed_descriptors() -> None:
    """Open stdin, stdout and stderr on nothing where the process was started without.

    Else the next file that is opened gets their number, and what a library or a child process prints
    lands in it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
