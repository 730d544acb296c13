/*
 * mooring-pool: makes a pool, and says what a directory holds. Started by `mooring pool`, which may not
 * include the store. One JSON object on stdout; an error's words on stderr. Exit status: 0, 1 (failed), 2
 * (usage).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/options.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/store/pool/pool_internal.h"
#include "datapath/store/pool/pool_make.h"

static const char *path, *server_id, *image, *device, *size;
static bool take;

static const struct option_spec create_options[] = {
    {.name = "path", .argument = "DIR", .help = "the pool's directory", .value = &path, .required = true},
    {.name = "server-id",
     .argument = "ID",
     .help = "its storage server",
     .value = &server_id,
     .required = true},
    {.name = "image", .argument = "FILE", .help = "make XFS in a new file, mounted at DIR", .value = &image},
    {.name = "size", .argument = "SIZE", .help = "of the image: 10GiB", .value = &size},
    {.name = "device",
     .argument = "DEV",
     .help = "make XFS on an empty device, mounted at DIR",
     .value = &device},
};
static const struct option_spec show_options[] = {
    {.name = "path", .argument = "DIR", .help = "the pool's directory", .value = &path, .required = true},
    {.name = "take", .help = "from the host that served it last and has not closed it", .flag = &take},
};

static int print(json_t *object, struct error *err)
{
    int r = object ? json_dumpf(object, stdout, JSON_COMPACT) : -1;

    json_decref(object);
    if (r < 0 || putchar('\n') == EOF || fflush(stdout) != 0)
        return error_errno(err, EIO, "cannot write the answer");
    return E_OK;
}

static int count_entry(const char *name, void *context, struct error *err)
{
    (void)err;
    if (id_volume_valid(name))
        ++*(uint64_t *)context;
    return E_OK;
}

/* Not while a server of this host has it. */
static int take_over(int fd, struct error *err)
{
    _cleanup_fd_ int lock_fd = -1;
    int r = pool_lock(fd, path, &lock_fd, err);

    return r == E_OK ? pool_host_take(fd, err) : r;
}

static int show(struct error *err)
{
    char uuid[37], server[ID_SERVER_MAX + 1], host[POOL_HOST_MAX + 1];
    bool in_use = false, ours = false;
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), volumes_fd = -1;
    struct statvfs status;
    uint64_t count = 0;
    int r;

    if (fd < 0)
        return error_errno(err, errno, "cannot open directory %s", path);
    r = pool_identify(fd, path, uuid, server, err);
    if (r != E_OK)
        return r;
    volumes_fd = openat(fd, "volumes", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (volumes_fd < 0 || fstatvfs(fd, &status) < 0)
        return error_errno(err, errno, "cannot look into the pool %s", path);
    r = pool_walk(volumes_fd, count_entry, &count, err);
    if (r == E_OK && take)
        r = take_over(fd, err);
    if (r == E_OK)
        r = pool_host_look(fd, host, &in_use, &ours, err);
    if (r != E_OK)
        return r;
    return print(json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:I, s:I, s:I}", "path", path, "uuid", uuid,
                           "server_id", server, "host", host, "this_host", ours, "closed", !in_use,
                           "total_bytes", (json_int_t)(status.f_blocks * status.f_frsize), "used_bytes",
                           (json_int_t)((status.f_blocks - status.f_bfree) * status.f_frsize),
                           "volumes_count", (json_int_t)count),
                 err);
}

static int make_file_system(struct error *err)
{
    uint64_t size_bytes;
    int r;

    if (image && device)
        return error_set(err, E_INVALID_ARGUMENT, "--image and --device exclude each other");
    if (!image != !size)
        return error_set(err, E_INVALID_ARGUMENT, "--image and --size belong together");
    if (!id_server_valid(server_id))
        return error_set(err, E_INVALID_ARGUMENT, "--server-id is 1 to %d of a-z, 0-9 and \"-\"",
                         ID_SERVER_MAX);
    if (device)
        return pool_make_device(device, path, err);
    if (!image)
        return E_OK;
    r = size_parse(size, &size_bytes, err);
    return r == E_OK ? pool_make_image(image, size_bytes, path, err) : r;
}

static int create(struct error *err)
{
    char uuid[37];
    int r;

    r = make_file_system(err);
    if (r != E_OK)
        return r;
    r = store_pool_create(path, server_id, uuid, err);
    if (r != E_OK) {
        if (image && pool_make_undo(image, path, NULL) != E_OK)
            log_warning("%s stays mounted at %s", image, path);
        return r;
    }
    return print(json_pack("{s:s, s:s, s:s, s:s*, s:s*}", "path", path, "uuid", uuid, "server_id", server_id,
                           "image", image, "device", device),
                 err);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        struct program_spec spec;
        int (*run)(struct error *err);
    } commands[] = {
        {"create",
         {"mooring-pool create", "Make a pool.", NULL, create_options, ARRAY_SIZE(create_options)},
         create},
        {"show",
         {"mooring-pool show", "Say what a directory holds, and who served it last.", NULL, show_options,
          ARRAY_SIZE(show_options)},
         show},
    };
    _cleanup_error_ struct error err = {0};
    int operand, r;

    log_init("mooring-pool", LOG_LEVEL_WARNING);
    for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(commands); i++) {
        if (!str_equal(argv[1], commands[i].name))
            continue;
        r = options_parse(&commands[i].spec, argc - 1, argv + 1, &operand, &err);
        if (r == E_OK)
            r = commands[i].run(&err);
        if (r != E_OK)
            fprintf(stderr, "mooring-pool: %s\n", error_text(&err));
        return r == E_OK ? 0 : r == E_INVALID_ARGUMENT ? 2 : 1;
    }
    bool asked = argc == 2 && str_equal(argv[1], "--help");
    fprintf(asked ? stdout : stderr, "Usage: mooring-pool create|show --path=DIR …\nMake a pool, or say what "
                                     "a directory holds; `mooring-pool "
                                     "create --help` lists the options.\n");
    return asked ? 0 : 2;
}
