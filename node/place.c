/* Scopes and cgroups for device processes. Called by attach_device.c, before and after process_spawn(). */
#include "node/place.h"

#include <errno.h>
#include <fcntl.h>
#include <libmount.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/host.h"
#include "common/io.h"
#include "common/log.h"
#include "common/strings.h"

/* Of pid 1's root, so that a pod that shares the host's PID namespace sees the host's. */
#define HOST_ROOT "/proc/1/root"
#define CGROUP_NAME "mooring-devices"
#define PROC_TEXT_MAX (256 * 1024)

/* A cgroup must not be removed between its making and the arrival of whom it was made for. */
static pthread_mutex_t cgroups_mutex = PTHREAD_MUTEX_INITIALIZER;

static const char *const place_names[] = {
    [PLACE_AUTO] = "auto",
    [PLACE_SYSTEMD] = "systemd",
    [PLACE_CGROUP] = "cgroup",
    [PLACE_FORK] = "fork",
};

int place_parse(const char *name, enum place_kind *ret, struct error *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(place_names); i++) {
        if (str_equal(name, place_names[i])) {
            *ret = (enum place_kind)i;
            return 0;
        }
    }
    return error_set(err, E_INVALID_ARGUMENT, "\"%s\" is not one of auto, systemd, cgroup, fork", name);
}

/* sd_booted(3)'s own test. */
static bool place_has_systemd(void)
{
    struct stat status;

    return stat(HOST_ROOT "/run/systemd/system", &status) == 0 && S_ISDIR(status.st_mode);
}

enum place_kind place_resolve(enum place_kind kind)
{
    if (kind != PLACE_AUTO)
        return kind;
    return place_has_systemd() ? PLACE_SYSTEMD : PLACE_CGROUP;
}

/* In a container with a namespace of its own. */
static bool place_is_apart(const char *space)
{
    bool same = true;

    return host_shares(space, &same) == 0 && !same;
}

/* ---- systemd ---- */

static int place_add(struct place *place, char *word)
{
    if (!word || place->argc == PLACE_ARGV_MAX) {
        free(word);
        return -ENOMEM;
    }
    place->argv[place->argc++] = word;
    return 0;
}

/*
 * A slice takes part in the shutdown and draws what is in it along, at a time that no order against the
 * mounts can tell; the one that we install does not, and system.slice never ends.
 */
static const char *place_slice(void)
{
    static const char *const places[] = {HOST_ROOT "/etc/systemd/system/mooring.slice",
                                         HOST_ROOT "/usr/local/lib/systemd/system/mooring.slice",
                                         HOST_ROOT "/lib/systemd/system/mooring.slice",
                                         HOST_ROOT "/usr/lib/systemd/system/mooring.slice"};

    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        if (access(places[i], F_OK) == 0)
            return "--slice=mooring.slice";
    }
    return "--slice=system.slice";
}

static int place_add_words(struct place *place, const char *const *words)
{
    int r = 0;

    for (; *words && !r; words++)
        r = place_add(place, strdup(*words));
    return r;
}

/*
 * A scope: systemd-run registers itself and becomes the program, so that the lock on the pid file goes with
 * it.
 *
 * At the host's shutdown it must outlast every mount of the volume, until mooring-volumes.service ends it: so
 * it takes no part in the shutdown (DefaultDependencies=no), and what is left goes with the last processes.
 * It has no order either: the start of a unit waits for the stopping of whatever it is ordered against, and a
 * device that dies while mounts are being stopped needs its successor for them to end.
 */
static int place_add_systemd(struct place *place, const char *program, const char *volume_id)
{
    static const char *const enter[] = {"/usr/bin/nsenter", "--target", "1", "--mount", "--", NULL};
    static const char *const scope[] = {"/usr/bin/systemd-run",
                                        "--scope",
                                        "--quiet",
                                        "--collect",
                                        "--no-ask-password",
                                        "--property=DefaultDependencies=no",
                                        "--property=IgnoreOnIsolate=yes",
                                        "--property=TimeoutStopSec=90",
                                        NULL};
    bool inside = place_is_apart("mnt");
    uint32_t random = 0;

    int r = io_random(&random, sizeof(random));
    if (!r && inside)
        r = place_add_words(place, enter);
    if (!r)
        r = place_add_words(place, scope);
    if (!r)
        r = place_add(place, strdup(place_slice()));
    if (!r)
        r = place_add(place, str_format("--unit=mooring-%s-%s-%08x", program, volume_id, (unsigned)random));
    if (!r)
        r = place_add(place, str_format("--description=mooring-%s of volume %s", program, volume_id));
    if (!r)
        r = place_add(place, strdup("--"));
    if (!r && inside) /* the program itself is ours, with our libraries: back to where they are */
        r = place_add_words(place, (const char *const[]){"/usr/bin/nsenter", "--target", NULL});
    if (!r && inside)
        r = place_add(place, str_format("%d", (int)getpid()));
    if (!r && inside)
        r = place_add_words(place, (const char *const[]){"--mount", "--", NULL});
    return r;
}

/* ---- cgroups ---- */

/* controllers: the second field of a line of /proc/self/cgroup, "" for version 2. */
static bool place_is_hierarchy(struct libmnt_fs *fs, const char *controllers)
{
    const char *type = mnt_fs_get_fstype(fs);
    const char *options = mnt_fs_get_fs_options(fs);
    char first[64];
    size_t length = strcspn(controllers, ",");

    if (!*controllers)
        return type && str_equal(type, "cgroup2");
    if (!type || !options || !str_equal(type, "cgroup") || length >= sizeof(first))
        return false;
    memcpy(first, controllers, length);
    first[length] = '\0';
    const char *value = str_starts_with(first, "name=") ? first + 5 : NULL;
    char *found = NULL;
    size_t found_length = 0;
    if (!value)
        return mnt_optstr_get_option(options, first, &found, &found_length) == 0;
    return mnt_optstr_get_option(options, "name", &found, &found_length) == 0 &&
           found_length == strlen(value) && strncmp(found, value, found_length) == 0;
}

/* Where the parent of the cgroup `path` is, on the heap; NULL when it cannot be seen from here. */
static char *place_parent_dir(struct libmnt_table *table, const char *controllers, const char *path)
{
    struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_FORWARD);
    struct libmnt_fs *fs;
    char *dir = NULL;

    while (iter && !dir && mnt_table_next_fs(table, iter, &fs) == 0) {
        const char *root = mnt_fs_get_root(fs);
        const char *target = mnt_fs_get_target(fs);
        if (!root || !target || !place_is_hierarchy(fs, controllers))
            continue;
        size_t length = str_equal(root, "/") ? 0 : strlen(root);
        if (strncmp(path, root, length) != 0 || path[length] != '/') /* our own cgroup is what is mounted */
            continue;
        dir = str_format("%s%s", target, path + length);
    }
    mnt_free_iter(iter);
    if (dir)
        *strrchr(dir, '/') = '\0';
    return dir;
}

/* A cpuset takes nobody before it has processors and memory. */
static void place_fill_cpuset(const char *parent, const char *dir)
{
    static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        _cleanup_free_ char *from = str_format("%s/%s", parent, files[i]);
        _cleanup_free_ char *to = str_format("%s/%s", dir, files[i]);
        _cleanup_free_ char *text = NULL;
        _cleanup_fd_ int fd = -1;

        if (!from || !to || io_read_file(from, 4096, &text, NULL, NULL))
            continue;
        fd = open(to, O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
            (void)!write(fd, text, strlen(text));
    }
}

static int place_open_cgroup(const char *parent, bool version2)
{
    _cleanup_free_ char *dir = str_format("%s/" CGROUP_NAME, parent);
    _cleanup_free_ char *procs = str_format("%s/" CGROUP_NAME "/cgroup.procs", parent);

    if (!dir || !procs || (mkdir(dir, 0755) < 0 && errno != EEXIST))
        return -1;
    if (!version2)
        place_fill_cpuset(parent, dir);
    return open(procs, O_WRONLY | O_CLOEXEC);
}

/* One line of /proc/self/cgroup (cgroups(7)): "id:controllers:path". */
static void place_visit_cgroup(struct libmnt_table *table, char *line,
                               void (*visit)(const char *parent, const char *path, bool version2,
                                             void *context),
                               void *context)
{
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;

    if (!path)
        return;
    *controllers++ = '\0';
    *path++ = '\0';
    const char *name = strrchr(path, '/');
    /* In the root nobody is killed by cgroup; where we are already is where we want to be. */
    if (str_equal(path, "/") || !name || str_equal(name + 1, CGROUP_NAME))
        return;
    _cleanup_free_ char *parent = place_parent_dir(table, controllers, path);
    visit(parent, path, !*controllers, context);
}

static void place_each_cgroup(void (*visit)(const char *parent, const char *path, bool version2,
                                            void *context),
                              void *context)
{
    struct libmnt_table *table = mnt_new_table_from_file("/proc/self/mountinfo");
    _cleanup_free_ char *text = NULL;
    char *rest = NULL;

    if (table && io_read_file("/proc/self/cgroup", PROC_TEXT_MAX, &text, NULL, NULL) == 0) {
        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
            place_visit_cgroup(table, line, visit, context);
    }
    mnt_unref_table(table);
}

static void place_add_cgroup(const char *parent, const char *path, bool version2, void *context)
{
    struct place *place = context;
    int fd = parent && place->procs_count < PLACE_CGROUPS_MAX ? place_open_cgroup(parent, version2) : -1;

    if (fd < 0) {
        log_warning("no cgroup can be made beside %s: who kills that one kills the volumes' devices", path);
        return;
    }
    place->procs_fds[place->procs_count++] = fd;
}

static void place_remove_cgroup(const char *parent, const char *path, bool version2, void *context)
{
    _cleanup_free_ char *dir = parent ? str_format("%s/" CGROUP_NAME, parent) : NULL;

    (void)path;
    (void)version2;
    (void)context;
    if (dir)
        rmdir(dir); /* EBUSY while someone is in it */
}

void place_tidy(enum place_kind kind)
{
    if (place_resolve(kind) != PLACE_CGROUP)
        return;
    pthread_mutex_lock(&cgroups_mutex);
    place_each_cgroup(place_remove_cgroup, NULL);
    pthread_mutex_unlock(&cgroups_mutex);
}

/* ---- the network ---- */

/*
 * A container's network ends with it, whoever is still in there: its links are taken away, and a session over
 * them would never come back. So a program that is to outlive the container is in the host's network. The
 * mount namespace stays ours: it has the program's libraries, and lives as long as somebody is in it.
 */
static int place_add_network(struct place *place, struct error *err)
{
    int fd = -1;

    int r = host_network_open(&fd);
    if (r)
        return error_set(
            err, E_PRECONDITION,
            "the network of the host cannot be seen (%s), in which a volume's device has to be to "
            "outlive mooring-node: a container must be privileged and share the host's PID "
            "namespace",
            error_name(r));
    place->network_enters = fd >= 0;
    place->network_fd = fd;
    return 0;
}

/* ---- all ---- */

int place_prepare(struct place *place, enum place_kind kind, const char *program, const char *volume_id,
                  struct error *err)
{
    int r = 0;

    *place = (struct place){0};
    switch (place_resolve(kind)) {
    case PLACE_SYSTEMD:
        if (!place_has_systemd())
            return error_set(
                err, E_PRECONDITION,
                "place is \"systemd\", but systemd does not run this host, or it is not seen from here: a "
                "pod must share the host's PID namespace");
        r = place_add_systemd(place, program, volume_id);
        break;
    case PLACE_AUTO:
    case PLACE_CGROUP:
        pthread_mutex_lock(&cgroups_mutex);
        place->locked = true;
        if (place_is_apart("cgroup"))
            log_warning(
                "this container has a cgroup namespace of its own: who kills its cgroup kills the volumes' "
                "devices; a privileged container has the host's");
        place_each_cgroup(place_add_cgroup, place);
        break;
    case PLACE_FORK:
        break;
    }
    if (r)
        error_set(err, r, "cannot place mooring-%s", program);
    else
        r = place_add_network(place, err);
    if (r)
        place_done(place);
    return r;
}

void place_done(struct place *place)
{
    for (size_t i = 0; i < place->argc; i++)
        free(place->argv[i]);
    for (size_t i = 0; i < place->procs_count; i++)
        fd_close(place->procs_fds[i]);
    if (place->network_enters)
        fd_close(place->network_fd);
    if (place->locked)
        pthread_mutex_unlock(&cgroups_mutex);
    *place = (struct place){0};
}
