/* The ledger's memory: making, adopting, clearing. Runs on the device's loop thread; called by
 * fuse_attach.c; the records are fuse_frontend.c's. */
#include "datapath/device/fuse_ledger.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "datapath/device/resident.h"

#define LEDGER_MAGIC UINT64_C(0x4d6f6f72696e6746) /* "MooringF" */
#define LEDGER_FORMAT 1u
#define LEDGER_PAGE 4096u
#define RECORDS_BYTES (FUSE_LEDGER_SIZE * sizeof(struct fuse_record))
#define LANDING_OFFSET (LEDGER_PAGE + (RECORDS_BYTES + LEDGER_PAGE - 1) / LEDGER_PAGE * LEDGER_PAGE)
#define LEDGER_BYTES (LANDING_OFFSET + FUSE_PROTO_MAX_WRITE)

struct ledger_header {
    uint64_t magic;
    uint32_t format;
    uint32_t records; /* how many there are */
};

_Static_assert(sizeof(struct fuse_record) == 128, "a record is two cache lines");

static int ledger_map(struct fuse_ledger *ledger, int fd, struct error *err)
{
    void *memory = mmap(NULL, LEDGER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return error_errno(err, errno, "cannot map the ledger of requests");
    *ledger = (struct fuse_ledger){.mapping = memory};
    ledger->records = (struct fuse_record *)((uint8_t *)memory + LEDGER_PAGE);
    ledger->landing = (uint8_t *)memory + LANDING_OFFSET;
    int r = resident_make(memory, LEDGER_BYTES, "the ledger of requests", err);
    if (r)
        fuse_ledger_done(ledger);
    return r;
}

int fuse_ledger_create(struct fuse_ledger *ledger, int *ret_fd, struct error *err)
{
    _cleanup_fd_ int fd = memfd_create("mooring-requests", MFD_CLOEXEC);
    if (fd < 0)
        return error_errno(err, errno, "cannot make the ledger of requests");
    if (ftruncate(fd, LEDGER_BYTES) < 0)
        return error_errno(err, errno, "cannot size the ledger of requests");
    int r = ledger_map(ledger, fd, err);
    if (r)
        return r;
    struct ledger_header *header = ledger->mapping;
    *header = (struct ledger_header){LEDGER_MAGIC, LEDGER_FORMAT, FUSE_LEDGER_SIZE};
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int fuse_ledger_adopt(struct fuse_ledger *ledger, int fd, struct error *err)
{
    struct stat status;
    if (fstat(fd, &status) < 0)
        return error_errno(err, errno, "cannot read the size of the ledger of requests");
    if (status.st_size != (off_t)LEDGER_BYTES)
        return error_set(err, E_CORRUPT, "the holder's ledger of requests has another size");
    int r = ledger_map(ledger, fd, err);
    if (r)
        return r;
    const struct ledger_header *header = ledger->mapping;
    if (header->magic == LEDGER_MAGIC && header->format == LEDGER_FORMAT &&
        header->records == FUSE_LEDGER_SIZE)
        return 0;
    fuse_ledger_done(ledger);
    return error_set(err, E_CORRUPT, "the holder's ledger of requests is none that this build knows");
}

void fuse_ledger_done(struct fuse_ledger *ledger)
{
    if (ledger->mapping)
        munmap(ledger->mapping, LEDGER_BYTES);
    *ledger = (struct fuse_ledger){0};
}

void fuse_ledger_clear(struct fuse_ledger *ledger)
{
    memset(ledger->records, 0, RECORDS_BYTES);
}
