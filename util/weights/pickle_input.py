"""The instructions of a pickle, one after the other, none of them larger in memory than in the file."""

import io
import pickletools
import re

from util.errors import UserError

MAX_LINE, LONG_TEXT = 64 << 20, 1 << 20  # bytes

# In a long text, characters beyond latin-1: a single one makes Python keep the whole text in 2 or 4 bytes each. Long
# texts are the data of arrays, as protocols 0 to 2 write them, and these are in latin-1.
_WIDE = {
    'unicodestringnl': re.compile(rb'\\u(?!00)|\\U'),
    **dict.fromkeys(('unicodestring1', 'unicodestring4', 'unicodestring8'), re.compile(rb'[\xc4-\xf4]')),
}
_BY_CODE = {
    i.code.encode('latin-1'): (i.name, i.arg and i.arg.reader, i.arg and _WIDE.get(i.arg.name))
    for i in pickletools.opcodes
}


class PickleInput:
    """Iterates over (name, argument) of the instructions, as pickletools names them and reads their arguments.

    file: a binary file that can seek, at the start of a pickle. max_steps: how many instructions there may be.
    size: bytes from there to the end of the file. Raises UserError, or nearly anything else where the file is damaged.
    """

    def __init__(self, file, max_steps):
        start = file.tell()
        self._end = file.seek(0, io.SEEK_END)
        self.size = self._end - start
        file.seek(start)
        self._file, self._max_steps, self._wide = file, max_steps, None

    def __iter__(self):
        for _ in range(self._max_steps):
            code = self._file.read(1)
            if code not in _BY_CODE:
                raise ValueError(f'{code} is no instruction' if code else 'ends without the instruction STOP')
            name, reader, self._wide = _BY_CODE[code]
            yield name, reader(self) if reader else None
        raise UserError(f'has more than {self._max_steps} instructions; not loaded')

    def read(self, count):
        """For pickletools. A length in a pickle is only a claim: never reads for more than there is."""
        return self._checked(self._file.read(min(count, self._end - self._file.tell())))

    def readline(self):
        """For pickletools, which repeats a line that it does not understand in its message: text alone may be long."""
        return self._checked(self._file.readline(MAX_LINE if self._wide else LONG_TEXT))

    def _checked(self, data):
        if self._wide and len(data) > LONG_TEXT and self._wide.search(data):
            raise UserError('has megabytes of text that are not the data of an array; not loaded')
        return data
