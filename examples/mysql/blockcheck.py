"""A block-level check of what was answered: blocks written directly to a Block volume, never flushed, and read back."""

import mmap
import os
import random
import threading

BLOCK = 4096
WRITE = 16 * BLOCK # at a time


class BlockCheck:
    """Writes at random places of the first `size` bytes on a thread of its own from start() to stop(), and remembers each
    that was answered."""

    def __init__(self, path, size, seed):
        self.path = path
        self.size = size
        self.random = random.Random(seed)
        self.answered = {}
        self.error = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def start(self):
        self.thread.start()

    def stop(self):
        self.stopping.set()
        self.thread.join()
        if self.error:
            raise self.error

    def work(self):
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, WRITE) as buffer:
                while not self.stopping.is_set():
                    place = self.random.randrange(self.size // WRITE) * WRITE
                    content = self.random.randbytes(WRITE)
                    buffer[:] = content
                    if os.pwritev(fd, [buffer], place) != WRITE:
                        raise OSError(f"short write to {self.path}")
                    self.answered[place] = content
        except OSError as error:
            self.error = error
        finally:
            os.close(fd)

    def wrong(self):
        """The number of blocks that do not read as they were written last."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        wrong = 0
        try:
            with mmap.mmap(-1, WRITE) as buffer:
                for place, content in self.answered.items():
                    os.preadv(fd, [buffer], place)
                    wrong += sum(buffer[at:at + BLOCK] != content[at:at + BLOCK] for at in range(0, WRITE, BLOCK))
        finally:
            os.close(fd)
        return wrong
