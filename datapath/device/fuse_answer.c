/*
 * The FUSE operations that answer at once: INIT, LOOKUP, GETATTR, OPEN, STATFS and their like. No state.
 * Runs on the device's loop; called by fuse_frontend.c.
 */
#include "datapath/device/fuse_answer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/log.h"
#include "common/size.h"

#define PAGE 4096u
#define VALID_S (365u * 24 * 3600) /* nothing ever changes */

struct question {
    const struct fuse_asker *asker;
    const struct fuse_volume *volume;
    const struct fuse_in_header *header;
    const void *argument;
    size_t argument_length;
    struct fuse_agreement *agreement;
};

void fuse_answer(int fd, uint64_t unique, int error, const void *payload, size_t length)
{
    struct fuse_out_header header = {.error = error, .unique = unique};
    struct iovec iov[2] = {{&header, sizeof header}, {(void *)payload, length}};
    if (error)
        iov[1].iov_len = 0;
    header.len = (uint32_t)(sizeof header + iov[1].iov_len);
    ssize_t r = writev(fd, iov, iov[1].iov_len ? 2 : 1);
    if (r < 0 && errno != ENOENT && errno != ENODEV && errno != ENOTCONN)
        log_warning("the kernel refuses an answer on /dev/fuse: %s", error_name(-errno));
}

#define UNIQUE_INTERRUPT UINT64_C(1) /* FUSE_INT_REQ_BIT of fs/fuse/fuse_dev_i.h, since Linux 4.20 */

/* An answer to the interruption of a request, that it was done: it changes nothing, and only fails where
 * there is no such request. */
bool fuse_answer_known(int fd, uint64_t unique)
{
    struct fuse_out_header header = {.len = sizeof header, .unique = unique | UNIQUE_INTERRUPT};
    return write(fd, &header, sizeof header) == sizeof header;
}

static void answer(const struct question *question, const void *payload, size_t length)
{
    question->asker->put(question->asker->context, 0, payload, length);
}

static void answer_error(const struct question *question, int number)
{
    question->asker->put(question->asker->context, -number, NULL, 0);
}

static struct fuse_attr attr_of(const struct fuse_volume *volume, uint64_t ino)
{
    struct fuse_attr attr = {.ino = ino, .nlink = 1, .blksize = 4096};
    if (ino == FUSE_ROOT_ID) {
        attr.mode = S_IFDIR | 0500;
        attr.nlink = 2;
        return attr;
    }
    attr.mode = S_IFREG | (volume->read_only ? 0400 : 0600);
    attr.size = volume->size_bytes;
    attr.blocks = volume->size_bytes / 512;
    return attr;
}

static void answer_init(const struct question *question)
{
    struct fuse_init_in in = {0};
    memcpy(&in, question->argument, MIN(question->argument_length, sizeof in));
    uint64_t offered = in.flags | ((in.flags & FUSE_INIT_EXT) ? (uint64_t)in.flags2 << 32 : 0);
    uint64_t wanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES |
                      FUSE_PARALLEL_DIROPS | FUSE_INIT_EXT | FUSE_HAS_RESEND;
    wanted |= question->agreement->uring_wanted ? FUSE_OVER_IO_URING : 0;
    uint64_t taken = offered & wanted;
    bool uring = (taken & FUSE_OVER_IO_URING) != 0;
    uint32_t pages = uring ? FUSE_URING_MAX_PAGES : FUSE_PROTO_MAX_PAGES;
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
    if (in.major > FUSE_KERNEL_VERSION) { /* the kernel asks again with the major that we answer */
        answer(question, &out, sizeof out);
        return;
    }
    if (in.major < FUSE_KERNEL_VERSION || in.minor < 31) {
        answer_error(question, EPROTO);
        return;
    }
    out.max_readahead = in.max_readahead;
    out.flags = (uint32_t)taken;
    out.flags2 = (uint32_t)(taken >> 32);
    out.max_background = FUSE_PROTO_MAX_BACKGROUND;
    out.congestion_threshold = FUSE_PROTO_MAX_BACKGROUND * 3 / 4;
    out.max_write = pages * PAGE;
    out.max_pages = (uint16_t)pages;
    out.time_gran = 1;
    question->agreement->resends = (taken & FUSE_HAS_RESEND) != 0;
    question->agreement->uring = uring;
    answer(question, &out, sizeof out);
}

static void answer_lookup(const struct question *question)
{
    static const char name[] = FUSE_PROTO_VOLUME_NAME;
    if (question->header->nodeid != FUSE_ROOT_ID || question->argument_length != sizeof name ||
        memcmp(question->argument, name, sizeof name) != 0) {
        answer_error(question, ENOENT);
        return;
    }
    struct fuse_entry_out out = {.nodeid = FUSE_PROTO_VOLUME_INO,
                                 .entry_valid = VALID_S,
                                 .attr_valid = VALID_S,
                                 .attr = attr_of(question->volume, FUSE_PROTO_VOLUME_INO)};
    answer(question, &out, sizeof out);
}

static void answer_getattr(const struct question *question)
{
    struct fuse_attr_out out = {.attr_valid = VALID_S};
    out.attr = attr_of(question->volume, question->header->nodeid);
    answer(question, &out, sizeof out);
}

static void answer_open(const struct question *question)
{
    struct fuse_open_in in = {0};
    memcpy(&in, question->argument, MIN(question->argument_length, sizeof in));
    if (question->volume->read_only && (in.flags & O_ACCMODE) != O_RDONLY) {
        answer_error(question, EROFS);
        return;
    }
    struct fuse_open_out out = {.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES};
    answer(question, &out, sizeof out);
}

static void answer_opendir(const struct question *question)
{
    struct fuse_open_out out = {0};
    answer(question, &out, sizeof out);
}

static void answer_readdir(const struct question *question)
{
    struct fuse_read_in in = {0};
    memcpy(&in, question->argument, MIN(question->argument_length, sizeof in));
    const struct fuse_dirent entry = {.ino = FUSE_PROTO_VOLUME_INO,
                                      .off = 1,
                                      .namelen = sizeof FUSE_PROTO_VOLUME_NAME - 1,
                                      .type = S_IFREG >> 12};
    uint8_t out[FUSE_REC_ALIGN(sizeof entry + sizeof FUSE_PROTO_VOLUME_NAME - 1)] = {0};
    memcpy(out, &entry, sizeof entry);
    memcpy(out + sizeof entry, FUSE_PROTO_VOLUME_NAME, sizeof FUSE_PROTO_VOLUME_NAME - 1);
    answer(question, out, in.offset == 0 && in.size >= sizeof out ? sizeof out : 0);
}

static void answer_statfs(const struct question *question)
{
    const struct fuse_volume *volume = question->volume;
    struct fuse_statfs_out out = {.st = {.bsize = volume->block_size_bytes,
                                         .frsize = volume->block_size_bytes,
                                         .blocks = volume->size_bytes / volume->block_size_bytes,
                                         .files = 1,
                                         .namelen = 255}};
    answer(question, &out, sizeof out);
}

static void answer_nothing(const struct question *question)
{
    answer(question, NULL, 0);
}

static void answer_never(const struct question *question)
{
    (void)question;
}

static void answer_refused(const struct question *question)
{
    answer_error(question, EPERM);
}

static const struct {
    uint32_t opcode;
    void (*answer)(const struct question *question);
} operations[] = {
    {FUSE_INIT, answer_init},       {FUSE_LOOKUP, answer_lookup},    {FUSE_GETATTR, answer_getattr},
    {FUSE_OPEN, answer_open},       {FUSE_OPENDIR, answer_opendir},  {FUSE_READDIR, answer_readdir},
    {FUSE_STATFS, answer_statfs},   {FUSE_RELEASE, answer_nothing},  {FUSE_RELEASEDIR, answer_nothing},
    {FUSE_FLUSH, answer_nothing},   {FUSE_FSYNCDIR, answer_nothing}, {FUSE_SYNCFS, answer_nothing},
    {FUSE_DESTROY, answer_nothing}, {FUSE_FORGET, answer_never},     {FUSE_BATCH_FORGET, answer_never},
    {FUSE_INTERRUPT, answer_never}, /* the request itself always ends */
    {FUSE_SETATTR, answer_refused}, {FUSE_CREATE, answer_refused},   {FUSE_UNLINK, answer_refused},
    {FUSE_RENAME, answer_refused},  {FUSE_RENAME2, answer_refused},  {FUSE_MKNOD, answer_refused},
    {FUSE_MKDIR, answer_refused},   {FUSE_LINK, answer_refused},     {FUSE_SYMLINK, answer_refused},
};

bool fuse_answer_metadata(const struct fuse_asker *asker, const struct fuse_volume *volume,
                          const struct fuse_in_header *header, size_t head_length,
                          struct fuse_agreement *agreement)
{
    struct question question = {.asker = asker,
                                .volume = volume,
                                .header = header,
                                .argument = header + 1,
                                .argument_length = head_length - sizeof *header,
                                .agreement = agreement};
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        if (operations[i].opcode == header->opcode) {
            operations[i].answer(&question);
            return true;
        }
    }
    return false;
}
