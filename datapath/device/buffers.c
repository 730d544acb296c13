/* Read buffers in three classes. Called by fuse_frontend.c. */
#include "datapath/device/buffers.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "datapath/device/resident.h"

#define ALIGN 4096u

/* An eighth for small ones, three eighths for what the page cache reads ahead, half for the largest. */
static const struct {
    size_t size_bytes;
    unsigned eighths;
} classes[BUFFERS_CLASSES] = {{16 * 1024, 1}, {128 * 1024, 3}, {1024 * 1024, 4}};

int buffers_init(struct buffers *buffers, uint64_t total_bytes, struct error *err)
{
    *buffers = (struct buffers){0};
    for (int i = 0; i < BUFFERS_CLASSES; i++) {
        struct buffers_class *class = &buffers->classes[i];
        class->size_bytes = classes[i].size_bytes;
        unsigned count = (unsigned)(total_bytes / 8 * classes[i].eighths / class->size_bytes);
        class->memory = aligned_alloc(ALIGN, count * class->size_bytes);
        class->stack = calloc(count, sizeof *class->stack);
        if (!class->memory || !class->stack) {
            buffers_done(buffers);
            return error_errno(err, ENOMEM, "cannot take %llu bytes of buffers",
                               (unsigned long long)total_bytes);
        }
        int r = resident_make(class->memory, count * class->size_bytes, "read buffers", err);
        if (r) {
            buffers_done(buffers);
            return r;
        }
        class->count = class->free_count = count;
        for (unsigned n = 0; n < count; n++)
            class->stack[n] = class->memory + n * class->size_bytes;
    }
    return 0;
}

void buffers_done(struct buffers *buffers)
{
    for (int i = 0; i < BUFFERS_CLASSES; i++) {
        free(buffers->classes[i].memory);
        free(buffers->classes[i].stack);
    }
    *buffers = (struct buffers){0};
}

void *buffers_take(struct buffers *buffers, size_t size)
{
    for (int i = 0; i < BUFFERS_CLASSES; i++) {
        struct buffers_class *class = &buffers->classes[i];
        if (size <= class->size_bytes && class->free_count > 0)
            return class->stack[--class->free_count];
    }
    return NULL;
}

void buffers_give(struct buffers *buffers, void *buffer)
{
    uint8_t *at = buffer;
    for (int i = 0; i < BUFFERS_CLASSES; i++) {
        struct buffers_class *class = &buffers->classes[i];
        if (at >= class->memory && at < class->memory + class->count * class->size_bytes) {
            assert(class->free_count < class->count);
            class->stack[class->free_count++] = buffer;
            return;
        }
    }
    assert(!"a buffer of this pool");
}
