/* The journal of a simulated disk: one at a time, of faulty_disk.c's one thread. */
#include "tests/faults/disk_journal.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static FILE *journal;

int disk_journal_open(const char *path)
{
    if (journal)
        fclose(journal);
    journal = fopen(path, "wbe");
    return journal ? 0 : -errno;
}

int disk_journal_add(char kind, uint64_t offset, uint64_t length, const void *data)
{
    uint64_t words[2] = {htole64(offset), htole64(length)};

    if (!journal)
        return 0;
    if (fputc(kind, journal) == EOF || fwrite(words, sizeof(words), 1, journal) != 1 ||
        (data && fwrite(data, length, 1, journal) != 1))
        return -EIO;
    return 0;
}

int disk_journal_flush(void)
{
    return journal && fflush(journal) != 0 ? -EIO : 0;
}
